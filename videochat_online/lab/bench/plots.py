"""The pictures of a report. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COSTS = {
    ("e2e", "each question"): ("at s", ("one pass ms", "re-encoding ms"), "stream watched so far, seconds"),
    ("endurance", "one session, every other question stays"): (
        "frames",
        ("ms a frame", "ms a question"),
        "frames seen",
    ),
}
"""(benchmark, table) -> column of the length, columns of the costs, label: what should not grow with the stream."""


def plot_ratios(path: Path, values: dict[str, float]) -> None:
    """A bar for each ratio, on a logarithmic scale."""
    figure = _figure(11, 0.22 * len(values) + 1.5)
    axes = figure.subplots()
    names = list(values)[::-1]
    axes.barh(range(len(names)), [values[name] for name in names], color="#4477aa")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.8, len(names) - 0.2)
    axes.set_xscale("log")
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xlabel("ratio of two times of one run (1 = equal)")
    axes.tick_params(axis="y", labelsize=6)
    figure.savefig(path, dpi=120)


def plot_costs(folder: Path, report: dict[str, dict[str, Any]]) -> list[str]:
    """What a question costs against the stream's length, for each benchmark that has such a table; the file names."""
    written = []
    for (name, title), (length, costs, label) in COSTS.items():
        rows = report.get(name, {}).get("tables", {}).get(title)
        if not rows:
            continue
        figure = _figure(6, 4)
        axes = figure.subplots()
        for cost in costs:
            axes.plot([row[length] for row in rows], [row[cost] for row in rows], marker="o", label=cost)
        axes.set_yscale("log")
        axes.set_xlabel(label)
        axes.set_ylabel("milliseconds")
        axes.legend()
        figure.savefig(folder / f"{name}.png", dpi=120)
        written.append(f"{name}.png")
    return written


def _figure(width: float, height: float) -> Any:
    """In inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
