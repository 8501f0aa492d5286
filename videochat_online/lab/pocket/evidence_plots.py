"""The pictures of the evidence: bars, lines over stream length, training curves."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


def draw(path: Path, paint: Callable[[Any], None]) -> None:
    """One picture; `paint` gets matplotlib's axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    paint(figure.subplots())
    figure.savefig(path, dpi=110, metadata={"Software": None})


def plot_bars(path: Path, names: Sequence[str], values: Sequence[float], across: str, up: str) -> None:
    def paint(axes: Any) -> None:
        axes.bar(range(len(names)), values, color="#4477aa")
        axes.set_xticks(range(len(names)), names)
        axes.set(xlabel=across, ylabel=up, ylim=(0, 100))

    draw(path, paint)


def plot_lines(path: Path, places: Sequence[str], lines: Mapping[str, Sequence[float]], across: str, up: str) -> None:
    def paint(axes: Any) -> None:
        for name, values in lines.items():
            axes.plot(range(len(places)), values, marker="o", label=name)
        axes.set_xticks(range(len(places)), places)
        axes.set(xlabel=across, ylabel=up)
        axes.legend(fontsize="small")

    draw(path, paint)


def plot_curves(path: Path, logs: Mapping[str, Path]) -> None:
    """Loss over steps of several runs' log.jsonl."""

    def paint(axes: Any) -> None:
        from matplotlib import colormaps

        axes.set_prop_cycle(color=colormaps["tab20"](range(20)))
        for name, log in logs.items():
            rows = [json.loads(line) for line in log.read_text().splitlines()]
            rows = [row for row in rows if "loss" in row]
            axes.plot([row["step"] for row in rows], [row["loss"] for row in rows], label=name, linewidth=0.9)
        axes.set(xlabel="step", ylabel="training loss", yscale="log")
        axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.01, 1))

    draw(path, paint)
