"""What the pocket model shows about the method, measured with the ordinary commands and written as tables and plots.

    python -m videochat_online.lab.pocket.evidence FOLDER --work RUNS [--model MODEL] [--parts PART...]

Every number comes from `videochat-online eval ovbench` on held-out streams, one run a folder under --work. A
run that is there is resumed, not repeated. Knows how runs are combined, not how they are scored.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...command_line import CommandParser
from ...evaluation.intervals import accuracy_interval
from ...evaluation.report import provenance
from ...extras import lacks

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class World:
    """Held-out streams of one length, and the rate they are watched at."""

    name: str
    seconds: float
    fps: float
    videos: int
    levels: tuple[int, ...] = (1, 2, 3)
    seed: int = 0

    def flags(self) -> list[str]:
        levels = [str(level) for level in self.levels]
        numbers = ["--videos", str(self.videos), "--seed", str(self.seed), "--seconds", f"{self.seconds:g}"]
        return ["--split", "test", *numbers, "--fps", "4", "--level", *levels]


def half_minute(seed: int, videos: int) -> World:
    """One of three worlds of streams of 30 seconds that share no scene."""
    return World(f"30s-{seed}", 30, 1, videos, seed=seed)


@dataclass
class Laboratory:
    """Where runs are kept, and how one is made."""

    work: Path
    model: str
    runs: Path
    """Where the stages of the model under test were trained."""
    commands: list[str] = field(default_factory=list)

    def run(self, *arguments: str) -> None:
        """One command of the program, in a process of its own; noted. Raises CalledProcessError where it fails."""
        shown = [str(Path(one).relative_to(self.work)) if one.startswith(str(self.work)) else one for one in arguments]
        self.commands.append(" ".join(["videochat-online", *shown]))
        print("==", self.commands[-1], flush=True)
        subprocess.run(
            [sys.executable, "-m", "videochat_online.cli", *arguments], check=True, stdout=subprocess.DEVNULL
        )

    def world(self, world: World) -> Path:
        folder = self.work / "worlds" / world.name
        self.run("world", "build", str(folder), *world.flags())
        return folder

    def evaluate(self, name: str, world: World, *flags: str, model: str | None = None) -> RunOutcome:
        """Ask all questions of a world; `flags` say with which memory."""
        folder, output = self.world(world), self.work / "runs" / name
        annotations = folder / "ovbench" / "ovbench.json"
        self.run(
            "eval", "ovbench", "--model", model or self.model, "--annotations", str(annotations),
            "--videos", str(folder / "videos"), "--output", str(output), "--fps", f"{world.fps:g}",
            "--answer", "likelihood", "--resume", *flags,
        )  # fmt: skip
        return read_outcome(output, annotations)


@dataclass(frozen=True)
class RunOutcome:
    """Right or wrong, question by question, of one run."""

    scores: dict[str, Any]
    cost: dict[str, Any]
    correct: np.ndarray
    """bool (Q,)."""
    visible_now: np.ndarray
    """bool (Q,): whether the last moments alone show the answer."""
    video: np.ndarray
    """int (Q,): which video a question is about."""
    level: np.ndarray
    """int (Q,): how hard the video is."""

    def share(self, chosen: np.ndarray) -> str:
        """Accuracy of the chosen questions in percent with its 95 % interval, a video as one draw."""
        if not chosen.any():
            return "-"
        share, low, high = self.with_interval(chosen)
        return f"{share:.1f} ({low:.0f} to {high:.0f})"

    def with_interval(self, chosen: np.ndarray) -> tuple[float, float, float]:
        """Accuracy of the chosen questions in percent, and the ends of its interval; 0 and 100 for a single video."""
        right = np.bincount(self.video[chosen], self.correct[chosen], self.video.max() + 1)
        count = np.bincount(self.video[chosen], minlength=self.video.max() + 1)
        low, high = accuracy_interval(right[:, None], count[:, None].astype(float), np.ones(1)) or (0.0, 1.0)
        return 100 * float(self.correct[chosen].mean()), 100 * low, 100 * high


def read_outcome(output: Path, annotations: Path) -> RunOutcome:
    """Join a run's predictions with what the world knows about each question."""
    known = {
        question["id"]: (number, question["visible_now"])
        for number, item in enumerate(json.loads(annotations.read_text()))
        for question in item["questions"]
    }
    levels = [int(item["video_id"].split("-l")[1].split("-")[0]) for item in json.loads(annotations.read_text())]
    rows = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
    report = json.loads((output / "report.json").read_text())
    videos = np.array([known[row["id"]][0] for row in rows])
    return RunOutcome(
        report["scores"], report["cost"],
        np.array([bool(row["correct"]) for row in rows]),
        np.array([known[row["id"]][1] for row in rows]),
        videos, np.array(levels)[videos],
    )  # fmt: skip


def pooled(runs: Sequence[RunOutcome]) -> RunOutcome:
    """The questions of several worlds as of one; scores and cost stay the first one's."""
    firsts = np.cumsum([0, *(run.video.max() + 1 for run in runs[:-1])])
    return replace(
        runs[0],
        correct=np.concatenate([run.correct for run in runs]),
        visible_now=np.concatenate([run.visible_now for run in runs]),
        video=np.concatenate([run.video + first for run, first in zip(runs, firsts, strict=True)]),
        level=np.concatenate([run.level for run in runs]),
    )


Measured = tuple[float, float, float]
"""A value and the ends of its interval."""


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def draw(path: Path, paint: Callable[[Any], None]) -> None:
    """One picture; `paint` gets matplotlib's axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    paint(figure.subplots())
    figure.savefig(path, dpi=110, metadata={"Software": None})


def plot_bars(path: Path, names: Sequence[str], values: Sequence[Measured], across: str, up: str) -> None:
    def paint(axes: Any) -> None:
        value, low, high = np.array(values).T
        spread = np.maximum([value - low, high - value], 0)
        axes.bar(range(len(names)), value, yerr=spread, color="#88aacc", ecolor="#222222", capsize=3)
        axes.set_xticks(range(len(names)), names)
        axes.set(xlabel=across, ylabel=up, ylim=(0, 100))

    draw(path, paint)


COLORS = ("#4477aa", "#ee6677", "#228833", "#aa8822", "#66ccee", "#aa3377", "#222222")
STYLES, MARKERS = ("-", "--", "-.", ":"), "osD^vPX"


def look_of(number: int) -> dict[str, Any]:
    """How curve `number` is told from the others, also where it lies on another and without colours."""
    ways = (COLORS, STYLES, MARKERS)
    return dict(zip(("color", "linestyle", "marker"), (way[number % len(way)] for way in ways), strict=True))


def plot_lines(
    path: Path, places: Sequence[str], lines: Mapping[str, Sequence[Measured]], across: str, up: str
) -> None:
    """Percentages with their intervals, side by side at each place; the scale is all of 0 to 100."""

    def paint(axes: Any) -> None:
        for number, (name, values) in enumerate(lines.items()):
            value, low, high = np.array(values).T
            beside = np.arange(len(places)) + 0.06 * (number - (len(lines) - 1) / 2)
            spread = np.maximum([value - low, high - value], 0)
            axes.errorbar(beside, value, spread, label=name, capsize=2, elinewidth=0.8, **look_of(number))
        axes.set_xticks(range(len(places)), places)
        axes.set(xlabel=across, ylabel=up, ylim=(0, 100))
        axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.01, 1))

    draw(path, paint)


def plot_curves(path: Path, logs: Mapping[str, Path]) -> None:
    """Loss over steps of several runs' log.jsonl."""

    def paint(axes: Any) -> None:
        for number, (name, log) in enumerate(logs.items()):
            rows = [json.loads(line) for line in log.read_text().splitlines()]
            rows = [row for row in rows if "loss" in row]
            steps, losses = ([row[key] for row in rows] for key in ("step", "loss"))
            every = max(len(rows) // 8, 1)
            look = {"linewidth": 0.9, "markersize": 4, "markevery": (number % every, every), **look_of(number)}
            axes.plot(steps, losses, label=name, **look)
        axes.set(xlabel="step", ylabel="training loss", yscale="log")
        axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.01, 1))

    draw(path, paint)


# The parts. Each returns the text of its section; pictures go into `folder`.


def sub_tasks(lab: Laboratory, folder: Path, videos: int) -> str:
    """Accuracy of every sub-task beside its baselines, on three worlds that share no scene."""
    runs = [lab.evaluate(f"sub-tasks-{seed}", half_minute(seed, videos)) for seed in SEEDS]
    for name in ("report.md", "report.png"):
        shutil.copyfile(lab.work / "runs" / "sub-tasks-0" / name, folder / f"sub_tasks{Path(name).suffix}")
    rows = []
    for place, first in enumerate(runs[0].scores["tasks"]):
        per_seed = [100 * run.scores["tasks"][place]["accuracy"] for run in runs]
        rows.append(_sub_task_row(first["task"], first["questions"], per_seed, first))
    heads = [100 * run.scores["headline"]["accuracy"] for run in runs]
    rows.append(_sub_task_row("**mean of the sub-tasks**", len(runs[0].correct), heads, runs[0].scores["headline"]))
    levels = [
        [str(level), *(run.share(run.level == level) for run in runs)] for level in sorted(set(runs[0].level.tolist()))
    ]
    titles = (
        "sub-task",
        "questions",
        *(f"world {seed}" for seed in SEEDS),
        "mean",
        "spread",
        "chance",
        "commonest",
        "blind",
    )
    return "\n\n".join(
        [
            "Streams of 30 s at one frame a second, levels 1 to 3 in turn (one thing; two; two or three that may share "
            "a colour or a shape, with a wall to hide behind). Percent right; spread: standard deviation over the "
            "worlds; baselines on world 0: chance, always the commonest letter, and the same model without any frame.",
            markdown_table(titles, rows),
            "![accuracy of every sub-task, world 0](sub_tasks.png)",
            "By level, all questions pooled, percent with 95 % interval:",
            markdown_table(("level", *(f"world {seed}" for seed in SEEDS)), levels),
        ]
    )


def _sub_task_row(name: str, questions: int, values: Sequence[float], base: dict[str, Any]) -> list[str]:
    baselines = [f"{100 * base[key]:.1f}" for key in ("chance", "commonest_answer", "blind")]
    shown = [f"{value:.1f}" for value in values]
    return [name, str(questions), *shown, f"{np.mean(values):.1f}", f"{np.std(values):.1f}", *baselines]


POLICIES: dict[str, tuple[str, ...]] = {
    "pyramid (published)": (),
    "pyramid, cascade": ("--cascade",),
    "fifo": ("--policy", "fifo"),
    "uniform": ("--policy", "uniform"),
    "merge": ("--policy", "merge"),
    "recent n": ("--policy", "recent"),
}
"""Memories of equal token budget."""


def memory(lab: Laboratory, folder: Path, videos: int) -> str:
    """Policies at equal token budget, and no limit, on streams of three lengths."""
    worlds = [
        half_minute(0, videos), World("2min", 120, 0.5, videos // 2), World("10min", 600, 0.25, videos // 4)
    ]  # fmt: skip
    sections: list[str] = []
    lines: dict[str, list[Measured]] = {name: [] for name in (*POLICIES, "no limit")}
    for world in worlds:
        frames = int(world.seconds * world.fps)
        everything = ("--memory", f"{frames}/{frames}/{frames}")
        rows = []
        for name, flags in {**POLICIES, "no limit": everything}.items():
            run = lab.evaluate(f"memory-{world.name}-{name.replace(' ', '-')}", world, "--no-blind", *flags)
            now = run.visible_now
            rows.append([name, run.share(now), run.share(~now), run.share(now | ~now)])
            lines[name].append(run.with_interval(~now))
        heads = ("memory", f"visible now ({now.sum()})", f"only in the past ({(~now).sum()})", f"all ({len(now)})")
        sections += [f"### {world.seconds:g} s at {world.fps:g} frames a second", markdown_table(heads, rows)]
    labels = [f"{world.seconds:g} s" for world in worlds]
    plot_lines(folder / "memory.png", labels, lines, "length of the stream", "% right, answer only in the past")
    text = (
        "Every memory but the last may hold 52 visual tokens: the pyramid 2 frames of 16 tokens, 2 of 4 and 12 of 1; "
        "fifo, uniform and merge 52 frames of 1; recent n 3 frames of 16. Percent right with 95 % interval (a video "
        "is one draw); in brackets how many questions."
    )
    return "\n\n".join([text, *sections, "![past questions by length of stream](memory.png)"])


def size(lab: Laboratory, folder: Path, videos: int) -> str:
    """Size of the pyramid against accuracy and cost, on streams of two minutes."""
    world = World("2min", 120, 0.5, videos // 2)
    capacities = ("1/1/2", "1/1/6", "2/2/12", "4/4/24", "8/8/48")
    rows: list[list[str]] = []
    values: list[Measured] = []
    for capacity in capacities:
        run = lab.evaluate(f"size-{capacity.replace('/', '-')}", world, "--no-blind", "--memory", capacity)
        first, second, third = map(int, capacity.split("/"))
        everything = np.ones(len(run.correct), bool)
        cost = [f"{1000 * run.cost[name]:.1f}" for name in ("seconds_per_frame", "seconds_per_question")]
        tokens = 16 * first + 4 * second + third
        rows.append([capacity, str(tokens), run.share(everything), run.share(~run.visible_now), *cost])
        values.append(run.with_interval(everything))
    plot_bars(folder / "size.png", capacities, values, "frames held a level", "% right")
    heads = ("frames a level", "visual tokens", "all", "only in the past", "ms waited a frame", "ms a question")
    return "\n\n".join(
        [
            "Streams of 2 minutes at one frame in two seconds.",
            markdown_table(heads, rows),
            "![size of the bank](size.png)",
        ]
    )


def stages(lab: Laboratory, folder: Path, videos: int) -> str:
    """Models trained on the same number of samples, each with one thing more than the one before; three worlds."""
    rows = []
    for name in STAGES:
        trained = lab.work / "stages" / name / "model"
        if not trained.is_dir():
            raise FileNotFoundError(f"{trained} is missing: bash shell/pocket/evidence.sh trains it")
        runs = [
            lab.evaluate(f"stages-{name}-{seed}", half_minute(seed, videos), "--no-blind", model=str(trained))
            for seed in SEEDS
        ]
        means = [100 * run.scores["headline"]["accuracy"] for run in runs]
        mean = f"{np.mean(means):.1f} ({', '.join(f'{value:.1f}' for value in means)})"
        everything = pooled(runs)
        now = everything.visible_now
        rows.append([STAGES[name], mean, *(everything.share(chosen) for chosen in (now, ~now, now | ~now))])
    logs = {STAGES[name]: lab.work / "stages" / name / "log.jsonl" for name in STAGES}
    plot_curves(folder / "stages.png", logs)
    settings = json.loads((lab.work / "stages" / "offline" / "settings.json").read_text())
    length = f"{settings['max_steps']} steps of {settings['global_batch_size']} samples, seed {settings['seed']}"
    heads = ("trained on", "mean of the sub-tasks", "visible now", "only in the past", "all")
    text = f"Each model was trained for {length}, from the same start."
    return "\n\n".join([text, markdown_table(heads, rows), "![training loss](stages.png)"])


def training(lab: Laboratory, folder: Path, videos: int) -> str:
    """The runs that made the model: what each was taught, how its loss fell."""
    logs = {log.parent.name: log for log in sorted(lab.runs.glob("stage*/log.jsonl"))}
    if not logs:
        raise FileNotFoundError(f"no stage*/log.jsonl in {lab.runs}: bash shell/pocket/train_all.sh writes them")
    plot_curves(folder / "training.png", logs)
    rows = []
    for stage, log in logs.items():
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        losses = [line["loss"] for line in lines if "loss" in line]
        ends = [f"{np.mean(part):.2f}" for part in (losses[:3], losses[-10:])]
        settings = json.loads((lab.runs / stage / "settings.json").read_text())
        shutil.copyfile(lab.runs / stage / "settings.json", folder / f"{stage}.settings.json")
        steps = str(max(line["step"] for line in lines if "loss" in line))
        rows.append([stage, steps, str(settings["seed"]), *ends, f"[settings]({stage}.settings.json)"])
    heads = ("stage", "steps", "seed", "first loss", "last loss", "")
    text = "The losses of different stages do not compare: each is over what that stage is asked to say."
    return "\n\n".join([text, markdown_table(heads, rows), "![loss of every stage](training.png)"])


STAGES: dict[str, str] = {
    "offline": "offline samples only",
    "online": "+ online questions, each a sample of its own",
    "interleaved": "+ the same as interleaved dialogues",
    "progressive": "the same in two stages: offline, then joint",
}
PARTS: dict[str, tuple[str, Callable[[Laboratory, Path, int], str]]] = {
    "sub_tasks": ("Held-out streams, all sub-tasks", sub_tasks),
    "memory": ("Memories at equal token budget", memory),
    "size": ("Size of the bank", size),
    "training": ("How the model was trained", training),
    "stages": ("What each step of training brings", stages),
}

DEFAULT = ("sub_tasks", "memory", "size")
"""Parts about the model alone; the others need the runs that train_all.sh leaves."""


def write_evidence(folder: Path, lab: Laboratory, parts: Sequence[str], videos: int) -> None:
    """One page a part: its tables, the commands behind them, and where and with what they were run."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        title, measure = PARTS[part]
        lab.commands.clear()
        text = measure(lab, folder, videos)
        about = provenance([f"VIDEOS={videos}", "bash", "shell/pocket/evidence.sh", part])
        about["command"] = " ".join(about["command"])
        made = "\n".join(f"- {key}: {value}" for key, value in about.items())
        commands = "\n".join(dict.fromkeys(lab.commands))
        block = f"\n```\n{commands}\n```\n" if commands else ""
        page = f"# {title}\n\n{text}\n\n## How it was made\n\n{made}\n{block}"
        (folder / f"{part}.md").write_text(page, encoding="utf-8")
        print(folder / f"{part}.md", flush=True)


def main() -> None:
    parser = CommandParser(description="Measure what the pocket model shows about the method.")
    parser.add_argument("folder", type=Path, help="where tables and plots go")
    parser.add_argument("--work", type=Path, required=True, help="folder of worlds and runs")
    parser.add_argument("--model", default="pocket", help="model under test")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/pocket"), help="training: folder of train_all.sh's runs"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=DEFAULT, help=f"default: {' '.join(DEFAULT)}")
    parser.add_argument(
        "--videos", type=int, default=48, help="streams of 30 s (default: %(default)s); fewer long ones"
    )
    options = parser.parse_args()
    if problem := lacks("matplotlib"):  # pages show plots, and come after hours
        parser.error(problem)
    options.work.mkdir(parents=True, exist_ok=True)
    lab = Laboratory(options.work.resolve(), options.model, options.runs)
    write_evidence(options.folder, lab, options.parts, options.videos)


if __name__ == "__main__":
    main()
