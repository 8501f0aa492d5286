"""Which rows are held out of training: a share of a data set, all rows about a clip on one side.

The choice follows from the words of the rows alone: neither their place, nor the folder they lie in, nor the number of
processes changes it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np

from .dataset import ConversationDataset, FailureLog
from .formats import read_row
from .sample import SampleError

Place = tuple[int, int]
"""(set number, row number)."""


def split(dataset: ConversationDataset, share: float, most: int) -> tuple[ConversationDataset, ConversationDataset]:
    """(rows to train on, rows held out): about `share` of the rows, `most` at most.

    A file goes to one side with all rows about it, so that up to twice as many may be held out. No row is where the
    share is less than one, or each file has more rows than that.
    """
    places, words = digests(dataset)
    wanted, held = min(int(share * len(places) + 1e-9), most), list[int]()
    media = [media_of(dataset.annotations[one][row], dataset.data_sets[one].data_root) for one, row in places]
    groups = connected([names or {text} for names, text in zip(media, words, strict=True)])
    for group in sorted(groups, key=lambda group: min(words[number] for number in group)):
        if len(held) < wanted and len(held) + len(group) <= min(2 * wanted, len(places) - 1):
            held += group
    chosen = [place for _, place in sorted((words[number], places[number]) for number in held)]
    return without(dataset, chosen), only(dataset, chosen)


def without(dataset: ConversationDataset, places: Sequence[Place]) -> ConversationDataset:
    """The data set without these rows; its other samples keep their order."""
    kept = [np.ones(len(rows), dtype=bool) for rows in dataset.annotations]
    for one, row in places:
        kept[one][row] = False
    starts = np.cumsum([0, *map(len, kept)])
    rows = dataset.rows[np.concatenate(kept)[starts[dataset.rows[:, 0]] + dataset.rows[:, 1]]]
    return _part(dataset, rows, [np.flatnonzero(one) for one in kept])


def only(dataset: ConversationDataset, places: Sequence[Place]) -> ConversationDataset:
    """These rows of the data set in this order, each once."""
    rows = np.array(places, dtype=np.int64).reshape(-1, 2)
    return _part(dataset, rows, [rows[rows[:, 0] == one, 1] for one in range(len(dataset.annotations))])


def _part(dataset: ConversationDataset, rows: np.ndarray, usable: Sequence[np.ndarray]) -> ConversationDataset:
    part = copy(dataset)
    part.__dict__.pop("lengths", None)  # where they are cached: those of all rows
    part.rows, part.usable, part.failures = rows, list(usable), FailureLog(dataset.settings.max_failed_share)
    return part


def by_digest(dataset: ConversationDataset, most: int) -> ConversationDataset:
    """`most` rows of the data set at most, by the digest of their words: the first few of them are a sample of all."""
    places, words = digests(dataset)
    return only(dataset, [place for _, place in sorted(zip(words, places, strict=True))[:most]])


def digests(dataset: ConversationDataset) -> tuple[list[Place], list[str]]:
    """Every row of a data set, and the digest of its words, however the file is laid out."""
    places = [(one, row) for one, rows in enumerate(dataset.annotations) for row in range(len(rows))]
    texts = (json.dumps(dataset.annotations[one][row], sort_keys=True) for one, row in places)
    return places, [hashlib.sha256(text.encode()).hexdigest() for text in texts]


def in_both(held_out: ConversationDataset, dataset: ConversationDataset) -> list[str]:
    """What to say of rows of `held_out` that are rows of `dataset` too, a line for each pair of sets."""
    (places, words), (others, theirs) = digests(held_out), digests(dataset)
    names = {text: dataset.data_sets[one].name for (one, _), text in zip(others, theirs, strict=True)}
    shared: dict[tuple[str, str], int] = defaultdict(int)
    for (one, _), text in zip(places, words, strict=True):
        if text in names:
            shared[held_out.data_sets[one].name, names[text]] += 1
    return [
        f"--eval-data: {count} rows of its set {ours!r} stand in the training set {other!r} too: they are not held out"
        for (ours, other), count in shared.items()
    ]


def media_of(row: dict[str, Any], root: Path) -> set[str]:
    """What a row shows: its files without suffix (it may be missing), of frames that are files their folder."""
    try:
        sample = read_row(row)
    except SampleError:
        return set()  # training says what is wrong with it
    names: Iterable[str] = sample.images
    if sample.video is not None:
        names = [sample.video.path] if sample.video.path else map(os.path.dirname, sample.video.files)
    return {os.path.splitext(os.path.normpath(root / name))[0] for name in names}


def connected(names: Sequence[set[str]]) -> list[list[int]]:
    """The numbers of sets of names in groups: two that share a name are in one, over however many others."""
    parents: dict[str, str] = {}

    def root(name: str) -> str:
        while parents.setdefault(name, name) != name:
            parents[name] = name = parents[parents[name]]
        return name

    for first, *others in names:
        for other in others:
            parents[root(other)] = root(first)
    groups: dict[str, list[int]] = defaultdict(list)
    for number, some in enumerate(names):
        groups[root(next(iter(some)))].append(number)
    return list(groups.values())
