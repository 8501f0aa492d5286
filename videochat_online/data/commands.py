"""`videochat-online data check` and `data show`: look at training data before training does."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ..files import write_json
from .settings import FrameTimes

if TYPE_CHECKING:
    from .dataset import ConversationDataset

MAX_WORKERS = 8


def add_data_command(commands: Any) -> None:
    parser = commands.add_parser(
        "data",
        help="check and show training data",
        description="Check data-set lists and everything they name, or show a sample as the model will see it.",
    )
    inner = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_check(inner)
    _add_show(inner)


def _add_check(commands: Any) -> None:
    parser = commands.add_parser(
        "check",
        help="open every file and report every problem",
        description="Open every file that the lists name; check clips, timestamps, boxes, placeholders. All problems "
        "come in one report, and the exit status is 1 if there are any. Of a video only the first frame is decoded.",
        epilog="example: DATA_ROOT=/data ANNO_ROOT=/data/anno videochat-online data check anno_data/stage2_online.json",
    )
    parser.add_argument("lists", nargs="+", metavar="LIST", help="data-set list, a json file")
    what = "report what is damaged or cut off, of which training reads what can be decoded"
    parser.add_argument("--strict", action="store_true", help=what)
    parser.add_argument("--json", metavar="FILE", help="write counts and problems to this file too")
    workers = min(MAX_WORKERS, os.cpu_count() or 1)
    parser.add_argument("--workers", type=int, default=workers, help="processes that read files")
    parser.set_defaults(run=run_check)


def _add_show(commands: Any) -> None:
    parser = commands.add_parser(
        "show",
        help="print a sample as the model will see it",
        description="Print a sample's prompt: {n} stands for n image tokens, « » enclose what training asks for.",
        epilog="example: videochat-online data show anno_data/stage2_online.json 0 --set coin_sl --picture frames.png",
    )
    parser.add_argument("list", metavar="LIST", help="data-set list, a json file")
    parser.add_argument("number", type=int, metavar="N", help="which sample, from 0: of an epoch, or the row of --set")
    parser.add_argument("--set", dest="data_set", metavar="NAME", help="only this set")
    parser.add_argument("--model", default="pocket", help="whose prompt: 'pocket', a folder, or a hub id")
    parser.add_argument("--picture", metavar="FILE", help="save the frames on one sheet, with their times")
    parser.add_argument("--fps", type=float, default=1.0, help="frames shown a second")
    parser.add_argument("--max-frames", type=int, default=64, help="frames shown at most")
    parser.add_argument(
        "--frame-times",
        default="online",
        choices=get_args(FrameTimes),
        help="whose frames carry their second, as in `train`; its preset finetune has always (default: %(default)s)",
    )
    parser.set_defaults(run=run_show)


def run_check(options: argparse.Namespace) -> int:
    from .check import check_lists

    if options.workers < 1:
        raise ValueError(f"--workers must be at least 1, got {options.workers}")
    report = check_lists(options.lists, num_workers=options.workers, strict=options.strict)
    if options.json:
        write_json(Path(options.json), report.to_dict())
    print(report.as_table())
    return 1 if report.problems else 0


def run_show(options: argparse.Namespace) -> int:
    from .show import contact_sheet, preview_sample

    dataset = _dataset(options)
    size = len(dataset.annotations[0]) if options.data_set else len(dataset)
    if not 0 <= options.number < size:
        what = f"set {options.data_set!r}" if options.data_set else "epoch"
        raise ValueError(f"N must be from 0 to {size - 1} (the {what} has {size} samples), got {options.number}")
    place = (0, options.number) if options.data_set else tuple(dataset.rows[options.number].tolist())
    preview = preview_sample(dataset, *place)
    print(preview.text)
    if options.picture:
        try:
            contact_sheet(preview.pictures, preview.captions).save(options.picture)
        except OSError as error:
            raise ValueError(f"--picture {options.picture}: cannot be written ({error})") from error
        print(f"\n{len(preview.pictures)} pictures saved to {options.picture}")
    return 0


def _dataset(options: argparse.Namespace) -> ConversationDataset:
    from ..model.weights import load_config
    from ..processing import Processor, model_place
    from .dataset import ConversationDataset
    from .registry import read_lists
    from .settings import DataSettings

    data_sets = read_lists([options.list])
    if options.data_set:
        names = [data_set.name for data_set in data_sets]
        if options.data_set not in names:
            raise ValueError(f"--set {options.data_set}: no such set, {options.list} has {', '.join(names)}")
        data_sets = [data_sets[names.index(options.data_set)]]
    place = model_place(options.model)
    config = load_config(place)
    settings = DataSettings(fps=options.fps, num_frames=options.max_frames, frame_times=options.frame_times)
    return ConversationDataset(data_sets, Processor.from_pretrained(place, config), config, settings)
