"""`videochat-online data`: fetch, import, check and show training data before training reads it."""

from __future__ import annotations

import argparse
import math
import os
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from PIL import Image, ImageDraw, ImageFont

from ..files import write_json
from . import fetch
from .formats import format_of, read_row
from .own import import_rows, index_shards, write_list
from .registry import Annotations, DataSet, holds_rows, is_table, read_lists
from .settings import DataSettings, FrameTimes

if TYPE_CHECKING:
    from .dataset import ConversationDataset

MAX_WORKERS = 8
SHEET_COLUMNS = 8
THUMBNAIL = 176
"""Side of a picture on the sheet, pixels."""
CAPTION_HEIGHT = 18
MARGIN = 6


def add_data_command(commands: Any) -> None:
    parser = commands.add_parser(
        "data",
        help="check, show, import and fetch training data",
        description="Check data-set lists and everything they name, show a sample as the model will see it, make a "
        "list of data of your own, fetch published annotations. docs/data.md shows every form that a row may have.",
    )
    inner = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_check(inner)
    _add_show(inner)
    _add_import(inner)
    _add_index(inner)
    _add_fetch(inner)


def _add_check(commands: Any) -> None:
    parser = commands.add_parser(
        "check",
        help="open every file and report every problem",
        description="Open every file that the lists name; check clips, timestamps, boxes, placeholders. All problems "
        "come in one report, and the exit status is 1 if there are any. Of a video only the first frame is decoded, "
        "unless --decode is given.",
        epilog="example: DATA_ROOT=/data ANNO_ROOT=/data/anno videochat-online data check anno_data/stage2_online.json",
    )
    what = "data-set list (json), or bare rows (json, jsonl), for which a list is written where nothing is wrong"
    parser.add_argument("lists", nargs="+", metavar="LIST", help=what)
    what = "folder that the files named by bare rows start at (default: that of the rows)"
    parser.add_argument("--media", type=Path, metavar="DIR", help=what)
    what = "damaged and cut-off files are problems, not warnings; training reads what can be decoded of them"
    parser.add_argument("--strict", action="store_true", help=what)
    what = "decode every frame that training would show; a file that crashes or hangs the decoder is a problem, too"
    parser.add_argument("--decode", action="store_true", help=what)
    _add_frames(parser)
    parser.add_argument("--json", metavar="FILE", help="write counts and problems to this file too")
    workers = min(MAX_WORKERS, os.cpu_count() or 1)
    parser.add_argument("--workers", type=int, default=workers, help="processes that read files")
    parser.set_defaults(run=run_check)


def _add_show(commands: Any) -> None:
    """The settings have the names and defaults that they have in `train`."""
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
    _add_frames(parser)
    what = "whose frames carry their second, as in `train`; its preset finetune has always (default: %(default)s)"
    choices, default = get_args(FrameTimes), DataSettings.frame_times
    parser.add_argument("--frame-times", choices=choices, default=default, help=what)
    parser.set_defaults(run=run_show)


def _add_frames(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fps", type=float, default=DataSettings.fps, help="frames shown a second")
    parser.add_argument("--num-frames", type=int, default=DataSettings.num_frames, help="frames shown at most")


def _add_import(commands: Any) -> None:
    parser = commands.add_parser(
        "import",
        help="make rows and a list of a table or of other people's json",
        description="Make a data-set list, and its rows beside it, of a csv with the columns video, question, answer "
        "(and start, end, time, in seconds), of a folder that holds one, or of rows in any form of docs/data.md. "
        "Nothing is written where something is wrong, and no file is replaced.",
        epilog="example: videochat-online data import clips my.json",
    )
    parser.add_argument("source", type=Path, metavar="SOURCE", help="a csv or tsv, a folder with one, json or jsonl")
    parser.add_argument("list", type=Path, metavar="LIST", help="the list to write: NAME.json; rows: NAME_rows.jsonl")
    what = "folder that the files it names start at (default: that of SOURCE)"
    parser.add_argument("--media", type=Path, metavar="DIR", help=what)
    parser.set_defaults(run=run_import)


def _add_index(commands: Any) -> None:
    parser = commands.add_parser(
        "index",
        help="make rows and a list of tar shards (webdataset)",
        description="Make a data-set list, and its rows beside it, of tar shards: a sample is KEY.json, its row in any "
        "form of docs/data.md, and the files of the same KEY. Media stay in the shards. Nothing is written where "
        "something is wrong, and no file is replaced.",
        epilog="example: videochat-online data index 'data/part-{000..127}.tar' my.json",
    )
    parser.add_argument("shards", nargs="+", metavar="SHARDS", help="tars, or patterns with {000..127} or *")
    parser.add_argument("list", type=Path, metavar="LIST", help="the list to write: NAME.json; rows: NAME_rows.jsonl")
    parser.set_defaults(run=run_index)


def _add_fetch(commands: Any) -> None:
    parser = commands.add_parser(
        "fetch",
        help="download published annotations, or OVBench with its videos, from the hub",
        description="Download from the hub: the annotations of training (no videos), or OVBench with its videos, "
        "unpacked as `eval ovbench` expects them. Sizes and licence are said first. Given again, it resumes.",
        epilog="examples: videochat-online data fetch videochatonline-it /data/anno; "
        "videochat-online data fetch ovbench /data/ovbench --only COIN HiREST",
    )
    parser.add_argument("name", choices=tuple(fetch.REPOSITORIES), metavar="NAME", help=", ".join(fetch.REPOSITORIES))
    parser.add_argument("folder", type=Path, metavar="DIR", help="where they go: what ANNO_ROOT names in training")
    group = parser.add_argument_group("ovbench")
    group.add_argument("--only", nargs="+", default=[], metavar="NAME", help="only these archives of videos")
    group.add_argument("--list", action="store_true", help="say sizes and licence, fetch nothing")
    group.add_argument("--keep-archives", action="store_true", help="do not remove what was unpacked")
    parser.set_defaults(run=run_fetch)


def run_check(options: argparse.Namespace) -> int:
    from .check import check_lists

    if options.workers < 1:
        raise ValueError(f"--workers must be at least 1, got {options.workers}")
    for path in options.lists:
        if is_table(Path(path)):
            raise ValueError(f"{path} is a table: `videochat-online data import {path} LIST` makes a list of it")
    bare = [Path(path) for path in options.lists if holds_rows(Path(path))]
    lists = [path for path in options.lists if Path(path) not in bare]
    if options.media and not bare:
        raise ValueError("--media is for bare rows; a list names the folder of its files itself")
    sets = [DataSet(path.stem, path, options.media or path.parent) for path in bare]
    settings = DataSettings(fps=options.fps, num_frames=options.num_frames)
    decode = settings if options.decode else None
    report = check_lists(lists, num_workers=options.workers, strict=options.strict, decode=decode, unlisted=sets)
    if options.json:
        write_json(Path(options.json), report.to_dict())
    for data_set in sets:
        print(_formats_text(data_set))
    print(report.as_table())
    for data_set in sets:
        place = data_set.annotation.with_name(f"{data_set.annotation.stem}_list.json")
        if any(problem.data_set == data_set.name for problem in report.problems):
            said = "no list is written before its problems are solved"
        elif place.exists():
            said = f"{place} is there already and stays as it is"
        else:
            write_list(place, data_set)
            said = f"wrote {place}; train with --data {place}"
        print(f"{data_set.annotation}: {said}")
    return 1 if report.problems else 0


def _formats_text(data_set: DataSet) -> str:
    """What a bare annotation file is: `rows.jsonl: 6 rows: 6 of conversations (LLaVA)`."""
    try:
        rows = Annotations(data_set.annotation)
    except ValueError:
        return f"{data_set.annotation}: cannot be read as rows"
    counts = Counter(format_of(rows[number]) for number in range(len(rows)))
    return f"{data_set.annotation}: {len(rows)} rows: " + ", ".join(f"{n} of {name}" for name, n in counts.items())


def run_import(options: argparse.Namespace) -> int:
    rows_path, num_rows = import_rows(options.source, options.list, options.media)
    return _said(options.list, f"wrote {num_rows} rows to {rows_path}")


def _said(path: Path, what: str) -> int:
    print(f"{what}, their list to {path}\nnext: videochat-online data check {shlex.quote(str(path))}")
    return 0


def _fetch_benchmark(options: argparse.Namespace) -> int:
    offer = fetch.offer_of(options.name)
    print(f"{offer.repository}, licence: {offer.licence}. Its videos have licences of their own (see its page).")
    for name, archive in offer.archives.items():
        state = "is here" if fetch.is_unpacked(options.folder, archive) else ""
        print(f"  {name:12} {archive.size / fetch.GIGABYTE:8.1f} GB  {state}")
    print(f"  {'all':12} {sum(one.size for one in offer.archives.values()) / fetch.GIGABYTE:8.1f} GB", flush=True)
    if options.list:
        return 0
    fetch.fetch_benchmark(offer, options.folder, only=options.only, keep_archives=options.keep_archives)
    root = shlex.quote(str(options.folder.absolute()))
    where = f"--annotations {root}/annotations --videos {root}/videos --output runs/ovbench"
    print(f"next: videochat-online eval ovbench {where} --check")
    return 0


def run_index(options: argparse.Namespace) -> int:
    rows_path, num_rows, num_shards = index_shards(options.shards, options.list)
    return _said(options.list, f"wrote {num_rows} rows of {num_shards} shards to {rows_path}")


def run_fetch(options: argparse.Namespace) -> int:
    if options.name == "ovbench":
        return _fetch_benchmark(options)
    if options.only or options.list or options.keep_archives:
        raise ValueError(f"--only, --list and --keep-archives are for ovbench: {options.name} holds words only")
    fetch.fetch_annotations(options.name, options.folder)
    files = fetch.annotations_below(options.folder)
    missing = {name: file for name, file in files.items() if not file.is_file()}
    there = f"{len(files) - len(missing)} of {len(files)} sets of {fetch.LIST} are there"
    print(f"{fetch.REPOSITORIES[options.name]}: {there}")
    for name, file in missing.items():
        print(f"  {name}: {file} is missing")
    print(f"next: export ANNO_ROOT={shlex.quote(str(options.folder.absolute()))}; docs/data.md says where videos are")
    return 1 if missing else 0


def run_show(options: argparse.Namespace) -> int:
    from ..prompt.render import describe

    # 1. the sample; nothing is replaced here
    dataset = _dataset(options)
    size = len(dataset.annotations[0]) if options.data_set else len(dataset)
    if not 0 <= options.number < size:
        what = f"set {options.data_set!r}" if options.data_set else "epoch"
        raise ValueError(f"N must be from 0 to {size - 1} (the {what} has {size} samples), got {options.number}")
    set_number, row = (0, options.number) if options.data_set else dataset.rows[options.number].tolist()
    name, sample = dataset.data_sets[set_number].name, read_row(dataset.annotations[set_number][row])
    # 2. as the model sees it
    with dataset.prepare(set_number, row) as (layout, rendered):
        example = dataset.example(layout, rendered, (name, row))
    # 3. as text
    grids = ", ".join(f"{count} of {grid}x{grid}" for grid, count in Counter(layout.grids).items())
    print(f"{name}, row {row}: {sample.kind}, {sample.name}")
    print(f"{len(rendered.ids)} tokens: {rendered.num_image_tokens} of images, {sum(rendered.loss_mask)} with loss")
    print(f"{len(layout.grids)} pictures" + (f": {grids}" if grids else ""))
    print("\n" + describe(rendered, dataset.processor.tokenizer, mark_loss=True))
    # 4. as pictures
    if options.picture:
        pictures = [Image.fromarray(picture) for picture in example.pixel_values.permute(0, 2, 3, 1).numpy()]
        try:
            contact_sheet(pictures, layout.captions).save(options.picture)
        except (ValueError, OSError) as error:  # ValueError: PIL knows no such suffix
            what = f"--picture {options.picture}: cannot be written ({error})"
            raise ValueError(f"{what}; expected a picture file, such as frames.png") from error
        print(f"\n{len(pictures)} pictures saved to {options.picture}")
    return 0


def _dataset(options: argparse.Namespace) -> ConversationDataset:
    from ..model.weights import load_facts
    from ..processing import Processor
    from .dataset import ConversationDataset

    data_sets = read_lists([options.list])
    if options.data_set:
        names = [data_set.name for data_set in data_sets]
        if options.data_set not in names:
            raise ValueError(f"--set {options.data_set}: no such set, {options.list} has {', '.join(names)}")
        data_sets = [data_sets[names.index(options.data_set)]]
    config = load_facts(options.model)
    settings = DataSettings(fps=options.fps, num_frames=options.num_frames, frame_times=options.frame_times)
    return ConversationDataset(data_sets, Processor.from_pretrained(options.model, config), config, settings)


def contact_sheet(pictures: Sequence[Image.Image], captions: Sequence[str]) -> Image.Image:
    """All pictures in rows of eight, each with its caption below. ValueError without pictures."""
    if not pictures:
        raise ValueError("the sample shows no pictures, so there is no contact sheet to save")
    columns = min(SHEET_COLUMNS, len(pictures))
    step = THUMBNAIL + MARGIN, THUMBNAIL + CAPTION_HEIGHT + MARGIN
    size = columns * step[0] + MARGIN, math.ceil(len(pictures) / columns) * step[1] + MARGIN
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        left, top = MARGIN + number % columns * step[0], MARGIN + number // columns * step[1]
        sheet.paste(picture.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS), (left, top))
        draw.text((left, top + THUMBNAIL + 2), caption, fill="black", font=font)
    return sheet
