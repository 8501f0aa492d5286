"""`bench all` and `bench compare`: the measurements as files, and two sets of them side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .measure import machine, table

RATIO_HINTS = ("/", "ratio")
"""A column named so is a ratio of two times of one run: the numbers that may be compared between machines."""


def write_report(folder: Path, parts: dict[str, dict[str, list[dict[str, Any]]]]) -> None:
    """results.json, results.md and a picture of the ratios; `parts` is benchmark -> table -> rows."""
    folder.mkdir(parents=True, exist_ok=True)
    about = machine()
    (folder / "results.json").write_text(json.dumps({"machine": about, "benchmarks": parts}, indent=1) + "\n")
    lines = ["# Benchmarks", "", ", ".join(f"{key} {value}" for key, value in about.items()), ""]
    for name, tables in parts.items():
        lines += [f"## videochat-online bench {name}", ""]
        for title, rows in tables.items():
            lines += [f"{title}:", "", "```", table(rows), "```", ""]
    (folder / "results.md").write_text("\n".join(lines))
    plot_ratios(folder / "results.png", ratios(parts))


def ratios(parts: dict[str, dict[str, list[dict[str, Any]]]]) -> dict[str, float]:
    """Every ratio of the report by a name that says where it stands."""
    found = {}
    for name, tables in parts.items():
        for title, rows in tables.items():
            for row in rows:
                label = " ".join(str(value) for value in row.values() if isinstance(value, str))
                for key, value in row.items():
                    if isinstance(value, (int, float)) and any(hint in key for hint in RATIO_HINTS):
                        found[f"{name}: {title}, {label}: {key}"] = float(value)
    return found


def plot_ratios(path: Path, values: dict[str, float]) -> None:
    """A bar for each ratio, on a logarithmic scale."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("plots need matplotlib: pip install 'videochat-online[eval]'") from error
    figure = Figure(figsize=(11, 0.3 * len(values) + 1.5), layout="constrained")
    axes = figure.subplots()
    names = list(values)[::-1]
    axes.barh(names, [values[name] for name in names], color="#4477aa")
    axes.set_xscale("log")
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xlabel("ratio of two times of one run (1 = equal)")
    axes.tick_params(axis="y", labelsize=7)
    figure.savefig(path, dpi=120)


def compare(old: Path, new: Path) -> list[dict[str, Any]]:
    """Each ratio in both reports, and the change. Raises ValueError for a file that is no report of `bench all`."""
    before, after = (ratios(_read(path)) for path in (old, new))
    shared = [name for name in after if name in before]
    if not shared:
        raise ValueError(f"{old} and {new} have no measurement in common")
    return [
        {"what": name, "old": before[name], "new": after[name], "new/old": after[name] / before[name]}
        for name in shared
    ]


def _read(path: Path) -> dict[str, dict[str, list[dict[str, Any]]]]:
    file = path / "results.json" if path.is_dir() else path
    try:
        return json.loads(file.read_text())["benchmarks"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not a report of `videochat-online bench all`: {error}") from error
