"""Which rows are held out of training: a share of a data set, all rows about a file on one side.

The words of the rows alone decide: not their order, nor where they lie, nor the number of processes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from copy import copy
from typing import Any

import numpy as np

from .dataset import ConversationDataset, FailureLog
from .formats import read_row
from .sample import SampleError

Place = tuple[int, int]
"""(set number, row number)."""


def split(dataset: ConversationDataset, share: float, most: int) -> tuple[ConversationDataset, ConversationDataset]:
    """(rows to train on, rows held out): about `share` of the rows, `most` at most, in the order of their digests.

    A file goes to one side with all rows about it, so that up to twice as many may be held out. No row is where the
    share is less than one, or each file has more rows than that.
    """
    words, rows = digests(dataset), dataset.rows
    names = {place: media_of(dataset, place) or {word} for place, word in words.items()}
    about: dict[str, set[Place]] = defaultdict(set)
    for place, some in names.items():
        for name in some:
            about[name].add(place)
    wanted, held, seen = min(int(share * len(words) + 1e-9), most), dict[Place, None](), set[Place]()
    for place in words:
        if place not in seen and len(held) < wanted:
            group, ahead = set[Place](), {place}
            while ahead:  # rows that share a file with a row, over however many others
                group |= ahead
                ahead = {row for one in ahead for name in names[one] for row in about[name]} - group
            seen |= group
            if len(held) + len(group) <= min(2 * wanted, len(words) - 1):
                held |= dict.fromkeys(sorted(group))
    kept = np.array([tuple(row) not in held for row in rows.tolist()], dtype=bool)
    return part(dataset, rows[kept], [place for place in words if place not in held]), part(dataset, list(held))


def by_digest(dataset: ConversationDataset, most: int) -> ConversationDataset:
    """`most` rows of the data set at most, each once, in the order of their digests: a sample of all."""
    return part(dataset, list(digests(dataset))[:most])


def part(dataset: ConversationDataset, rows: Any, usable: Sequence[Place] | None = None) -> ConversationDataset:
    """These rows (N, 2) of a data set; one that cannot be read is replaced by a `usable` one, None: by one of them."""
    chosen = copy(dataset)
    chosen.__dict__.pop("lengths", None)  # where they are cached: those of all rows
    chosen.rows = np.array(rows, dtype=np.int64).reshape(-1, 2)
    places = chosen.rows if usable is None else np.array(usable)
    chosen.usable = [places[places[:, 0] == number, 1] for number in range(len(dataset.annotations))]
    chosen.failures = FailureLog(dataset.settings.max_failed_share)
    return chosen


def digests(dataset: ConversationDataset) -> dict[Place, str]:
    """Every row of a data set -> the digest of its words, however the file is laid out; in the order of the digests."""
    places = [(number, row) for number, rows in enumerate(dataset.annotations) for row in range(len(rows))]
    texts = (json.dumps(dataset.annotations[number][row], sort_keys=True) for number, row in places)
    words = (hashlib.sha256(text.encode()).hexdigest() for text in texts)
    return dict(sorted(zip(places, words, strict=True), key=lambda pair: pair[1]))


def in_both(held_out: ConversationDataset, dataset: ConversationDataset) -> list[str]:
    """What to say of rows of --eval-data that are training rows too, a line for each pair of sets."""
    sets = {word: dataset.data_sets[number].name for (number, _), word in digests(dataset).items()}
    found = [(held_out.data_sets[number].name, word) for (number, _), word in digests(held_out).items()]
    shared = Counter((name, sets[word]) for name, word in found if word in sets)
    return [
        f"{count} rows of the set {name!r} of --eval-data stand in the training set {other!r} too: they are learnt"
        for (name, other), count in shared.items()
    ]


def media_of(dataset: ConversationDataset, place: Place) -> set[str]:
    """What a row shows: its files without suffix (it may be missing), or the folder of frame files."""
    number, row = place
    try:
        sample = read_row(dataset.annotations[number][row])
    except SampleError:
        return set()  # training says what is wrong with it
    names: Iterable[str] = sample.images
    if sample.video is not None:
        names = [sample.video.path] if sample.video.path else map(os.path.dirname, sample.video.files)
    root = dataset.data_sets[number].data_root
    return {os.path.splitext(os.path.normpath(root / name))[0] for name in names}
