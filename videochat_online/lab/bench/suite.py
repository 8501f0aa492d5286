"""`bench all` and `bench compare`: the measurements as files, and two sets of them side by side.

A report is a folder: results.json (each benchmark with the machine it ran on), results.md and plots. It grows by one
benchmark at a time, so a run that was cut off, or made with `--only`, is completed by another one.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ...extras import lacks
from ...files import write_json, write_text
from .measure import Tables, machine, text_table

RATIO_HINTS = ("/", "ratio")
"""A column named so is a ratio of two times of one run: the numbers that may be compared between machines."""
LESS_IS_BETTER = (
    "warm/alone", "last/first quarter", "encoder alone", "frames alone", "longer side", "first row", "/floor",
    "last/second",
)  # fmt: skip
"""What a column ends with that says how much more than the least possible is taken; others say what is gained."""
Report = dict[str, dict[str, Any]]
"""Benchmark -> {"machine": ..., "tables": ...}."""
COSTS = {
    ("e2e", "each question"): ("at s", ("one pass ms", "re-encoding ms"), "stream watched so far, seconds"),
    ("endurance", "one session, every other question stays"): (
        "frames",
        ("ms a frame", "ms a question"),
        "frames seen",
    ),
}
"""(benchmark, table) -> column of the length, columns of the costs, label: what should not grow with the stream."""


def add_to_report(folder: Path, name: str, tables: Tables) -> list[str]:
    """Put one benchmark into the folder's report, in place of an older one of that name; returns the files.

    Without matplotlib there are no plots.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "results.json"
    report = read_report(file) if file.exists() else {}
    report[name] = {"machine": machine(), "tables": tables}
    write_json(file, {"benchmarks": report})
    write_text(folder / "results.md", suite_page(report))
    if lacks("matplotlib"):
        return ["results.json", "results.md"]
    plot_ratios(folder / "ratios.png", ratios(report))
    return ["results.json", "results.md", "ratios.png", *plot_costs(folder, report)]


def read_report(path: Path) -> Report:
    """Of a folder or its results.json. Raises ValueError for anything else."""
    file = path / "results.json" if path.is_dir() else path
    try:
        report = json.loads(file.read_text())["benchmarks"]
        for benchmark in report.values():
            benchmark["machine"], benchmark["tables"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is not a report of `videochat-online bench all`: {error}") from error
    return report


def suite_page(report: Report) -> str:
    lines = ["# Benchmarks", ""]
    for name, benchmark in report.items():
        about = ", ".join(f"{key} {value}" for key, value in benchmark["machine"].items() if value is not None)
        lines += [f"## videochat-online bench {name}", "", about, ""]
        for title, rows in benchmark["tables"].items():
            lines += [f"{title}:", "", "```", text_table(rows), "```", ""]
    return "\n".join(lines)


def ratios(report: Report) -> dict[str, float]:
    """Every ratio of the report by a name that says where it stands."""
    found: dict[str, float] = {}
    for name, benchmark in report.items():
        for title, rows in benchmark["tables"].items():
            for row in rows:
                label = " ".join(str(value) for value in row.values() if isinstance(value, str))
                for key, value in row.items():
                    if isinstance(value, (int, float)) and any(hint in key for hint in RATIO_HINTS):
                        found[_unused(f"{name}: {title}, {label}: {key}", found)] = float(value)
    return found


def _unused(name: str, taken: dict[str, float]) -> str:
    """`name`, numbered where rows differ in numbers only."""
    number = 2
    while name in taken and f"{name} ({number})" in taken:
        number += 1
    return f"{name} ({number})" if name in taken else name


def both_ratios(old: Path, new: Path) -> list[dict[str, Any]]:
    """Each ratio in both reports, and the change. Raises ValueError for a file that is no report of `bench all`."""
    before, after = (ratios(read_report(path)) for path in (old, new))
    shared = [name for name in after if name in before]
    if not shared:
        raise ValueError(f"{old} and {new} have no measurement in common")
    return [
        {
            "what": name,
            "old": before[name],
            "new": after[name],
            "new/old": after[name] / before[name] if before[name] else None,
        }
        for name in shared
    ]


def plot_ratios(path: Path, values: dict[str, float]) -> None:
    """Bars from 1 on, on one logarithmic scale: gains, then losses, apart, so that each plot has one direction."""
    lost = [name for name in values if re.sub(r" \(\d+\)$", "", name).endswith(LESS_IS_BETTER)]
    parts = {
        "gained: more is better (1 = nothing)": [name for name in values if name not in lost],
        "lost: less is better (1 = nothing)": lost,
    }
    parts = {title: names[::-1] for title, names in parts.items() if names} or {"": []}
    heights = [len(names) + 3 for names in parts.values()]
    figure = _figure(11, 0.22 * sum(heights) + 0.5)
    for axes, (title, names) in zip(
        figure.subplots(len(parts), sharex=True, squeeze=False, height_ratios=heights)[:, 0], parts.items(), strict=True
    ):
        axes.barh(range(len(names)), [values[name] - 1 for name in names], left=1, color="#4477aa")
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(-0.8, len(names) - 0.2)
        axes.set_xscale("log")
        axes.axvline(1.0, color="black", linewidth=0.8)
        axes.set_title(title, fontsize="medium")
        axes.tick_params(axis="y", labelsize=6)
    axes.set_xlabel("ratio of two times of one run")
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
        for cost, line, marker in zip(costs, ("-", "--"), "os", strict=True):
            where, values = ([row[key] for row in rows] for key in (length, cost))
            axes.plot(where, values, linestyle=line, marker=marker, label=cost)
        axes.set_yscale("log")
        axes.set_xlabel(label)
        axes.set_ylabel("milliseconds")
        figure.legend(loc="outside upper center", ncols=2)
        figure.savefig(folder / f"{name}.png", dpi=120)
        written.append(f"{name}.png")
    return written


def _figure(width: float, height: float) -> Any:
    """In inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
