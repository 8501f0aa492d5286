"""`videochat-online world build | preview | stats | standing`: argument parsing for the world, and what it prints."""

from __future__ import annotations

import argparse
import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .simulate import LEVELS, SPLITS

if TYPE_CHECKING:
    from .build import WorldConfig


def add_world_commands(subparsers: Any) -> None:
    """Add `world` to a parser's sub-commands; each leaf sets `run`, (arguments) -> exit code."""
    world = subparsers.add_parser("world", help="ShapeWorld: a generated world with exact answers")
    commands = world.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_build(commands)
    _add_preview(commands)
    _add_stats(commands)
    what = "write DIR/standing.json: what is to be told unasked about a built world's videos, and when"
    parser = commands.add_parser("standing", help=what, description=what)
    parser.add_argument("folder", type=Path, metavar="DIR", help="a world that `world build` has written")
    parser.add_argument("--every", action="store_true", help="all instructions, to learn from; else one of each kind")
    parser.set_defaults(run=run_standing)


def _add_scene_options(parser: argparse.ArgumentParser, *, split: str, seconds: float) -> None:
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="which world: each has scenes of its own")
    parser.add_argument("--split", choices=SPLITS[:3], default=split, help=f"default {split}; splits share no scene")
    parser.add_argument(
        "--seconds", type=float, nargs="+", default=[seconds], metavar="T", help="lengths, taken in turn"
    )
    parser.add_argument(
        "--level", type=int, nargs="+", default=[2], choices=sorted(LEVELS), help="difficulties, taken in turn"
    )
    parser.add_argument("--pace", type=float, help="how much slower than in 30 seconds (default: by length)")


def _add_build(commands: Any) -> None:
    parser = commands.add_parser("build", help="write videos, OVBench annotations and training annotations")
    parser.add_argument("folder", type=Path, metavar="DIR", help="new, empty, or the same world unfinished")
    parser.add_argument("--videos", type=int, default=16, metavar="N", help="number of videos")
    _add_scene_options(parser, split="train", seconds=30.0)
    parser.add_argument("--fps", type=int, default=8, help="frames a second")
    parser.add_argument("--size", type=int, default=128, help="side of a frame in pixels")
    parser.add_argument("--questions", type=int, default=16, help="OVBench questions a video")
    parser.add_argument("--pictures", type=int, default=0, help="single pictures for training")
    parser.add_argument(
        "--no-samples", action="store_true", help="no training samples, which take as long as the videos"
    )
    parser.set_defaults(run=run_build)


def _add_preview(commands: Any) -> None:
    parser = commands.add_parser("preview", help="draw a contact sheet of scenes with their questions")
    parser.add_argument("image", type=Path, metavar="OUT.png")
    parser.add_argument("--scenes", type=int, default=2, help="how many scenes")
    parser.add_argument("--questions", type=int, default=8, help="questions a scene")
    _add_scene_options(parser, split="train", seconds=30.0)
    parser.set_defaults(run=run_preview)


def _add_stats(commands: Any) -> None:
    parser = commands.add_parser("stats", help="count questions and measure what can be answered without looking")
    parser.add_argument("--scenes", type=int, default=200, help="scenes to ask about")
    parser.add_argument("--train-scenes", type=int, default=400, help="scenes the blind reader learns from")
    _add_scene_options(parser, split="test", seconds=30.0)
    parser.set_defaults(run=run_stats)


def _config(args: argparse.Namespace, videos: int, **more: Any) -> WorldConfig:
    """The world of `_add_scene_options`."""
    from .build import WorldConfig

    given = {name: getattr(args, name) for name in ("seed", "split", "seconds", "level", "pace")}
    return WorldConfig(videos, **{**given, **more})


def run_build(args: argparse.Namespace) -> int:
    from .build import build_world

    more = {name: getattr(args, name) for name in ("fps", "size", "questions", "pictures")}
    config = _config(args, args.videos, **more)
    manifest = build_world(args.folder, config, samples=not args.no_samples)
    asked, made = manifest["questions"], manifest["samples"]
    totals = f"{sum(asked.values())} questions, {sum(made.values())} training samples"
    print(f"{args.folder}: {config.videos} videos, {totals}")
    print("\n".join(next_commands(args.folder.resolve(), trains=bool(made))))
    return 0


def run_standing(args: argparse.Namespace) -> int:
    from ...files import read_json, write_json
    from .build import WorldConfig
    from .standing import standing_rows

    manifest = read_json(args.folder / "manifest.json", dict, "a world's manifest, which `world build` writes")
    config = WorldConfig(**manifest["config"])
    scenes, rng = enumerate(config.scenes()), config.rng
    rows = [row for number, one in scenes for row in standing_rows(*one, rng("standing", number), every=args.every)]
    write_json(args.folder / "standing.json", rows)
    counts = Counter(row["kind"] for row in rows)
    moments = sum(len(row["standing"]["events"]) for row in rows)
    print(f"{args.folder}/standing.json: {len(rows)} instructions, {moments} moments; {dict(counts)}")
    return 0


def next_commands(folder: Path, *, trains: bool) -> list[str]:
    """What may be typed next, in whatever folder. `folder` is absolute, as what DATA_ROOT stands for must be."""
    if trains:
        check = ["videochat-online", "data", "check", f"{folder}/train/stage2.json"]
        return [f"export DATA_ROOT={shlex.quote(str(folder))}", shlex.join(check)]
    where = ["--annotations", f"{folder}/ovbench", "--videos", f"{folder}/videos"]
    return [shlex.join(["videochat-online", "eval", "ovbench", *where, "--fps", "1", "--output", "runs/eval"])]


def run_preview(args: argparse.Namespace) -> int:
    from .preview import write_preview

    scenes = [scene for scene, _ in _config(args, args.scenes).scenes()]
    print(write_preview(args.image, scenes, args.questions))
    return 0


def run_stats(args: argparse.Namespace) -> int:
    """The table of sub-tasks: how many questions, chance, and the baselines that see no frame."""
    from .blind import blind_scores
    from .questions.engine import ask_questions

    def ask(split: str, num: int) -> list:
        config = _config(args, num, split=split)
        return [question for scene, _ in config.scenes() for question in ask_questions(scene)]

    learn = "dev" if args.split == "train" else "train"
    test = ask(args.split, args.scenes)
    scores = blind_scores(ask(learn, args.train_scenes), test)
    now = Counter(question.sub_task for question in test if question.visible_now)
    print("sub-task   questions  visible now  chance  letter  reader  (percent; the reader sees text only)")
    for name, score in sorted(scores.items(), key=lambda row: (row[0] == "all", row[0])):
        share = 100 * (now.total() if name == "all" else now[name]) / score.num
        numbers = (100 * score.chance, 100 * score.letter, 100 * score.reader)
        print(f"{name:10} {score.num:9d}  {share:11.0f}  " + "  ".join(f"{value:6.1f}" for value in numbers))
    return 0
