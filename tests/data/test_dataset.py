"""Examples: the same every time, raw data untouched, the loss on the assistant's words, failures counted and named."""

from __future__ import annotations

import copy
import json
import pickle
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from videochat_online.data.dataset import ConversationDataset, TrainingExample, augment
from videochat_online.data.settings import DataSettings
from videochat_online.media import readers
from videochat_online.media.readers import DecordReader
from videochat_online.model_config import VideoChatOnlineConfig
from videochat_online.pixels import normalised
from videochat_online.processing import Processor

from .conftest import at, greys, talk

NAMES = [f"img{number:05}.png" for number in range(30)]
BOXES = [{"timestamp": float(n), "bbox": f"[0.{n}, 0, 1, 1]"} for n in range(6)]
ROWS: dict[str, dict[str, Any]] = {
    "text": {"conversations": talk("Say <|im_end|>", "Words, 3.14.\nTwo lines", "R", "B")},
    "image": {"image": "small.png", "conversations": talk("<image>\nQ", "It is grey.")},
    "images": {"image": ["wide.png", "small.png"], "conversations": talk("<image> or <image>?", "The first")},
    "video": {"video": "video", "conversations": talk("<video>\nQ", "It gets brighter.", "R", "")},
    "videochat2": {"video": "video.mp4", "start": 2, "end": 7, "QA": [{"i": "Do.", "q": "Q", "a": "Brighter."}]},
    "online": {"video": "video.mp4", "conversations": [*at(2, "Q", "One."), *at(5.5, "<video>\nR", "Two.\nAt 3.0s")]},
    "folder": {"video": "frames", "fps": 2, "need_reset_timestamp": True, "conversations": at(3, "Q", "Three")},
    "tracking": {
        "video": "named", "all_image_files": NAMES, "fps": 5, "image_bboxes": BOXES,
        "query_template": {"from": "human", "value": "Follow <bbox>."},
    },
}  # fmt: skip
SHOWN = {
    "text": ([], []),
    "image": ([9], [4]),
    "images": ([5, 5, 5, 9], [4] * 4),
    "video": ([1, 3, 5, 7, 9, 11, 13, 15, 17, 19], [4, 1, 1, 1, 2, 1, 1, 1, 4, 1]),
    "videochat2": ([5, 7, 9, 11, 13], [4, 1, 1, 1, 2]),
    "online": ([1, 3, 5, 7, 9, 11], [4, 1, 1, 1, 2, 1]),
    "folder": ([1, 3, 5, 7], [4, 1, 1, 1]),  # at 0, 1, 2 and 3 s
    "tracking": ([0, 5, 10, 15, 20, 25], [4, 1, 1, 1, 2, 1]),
}
MISSING = {"video": "gone.mp4", "conversations": talk("Q", "A")}


def same(a: TrainingExample, b: TrainingExample) -> bool:
    return torch.equal(a.pixel_values, b.pixel_values) and replace(a, pixel_values=b.pixel_values) == b


@pytest.mark.parametrize("kind", ROWS)
def test_an_example_shows_the_frames_it_should(kind: str, make_dataset: Any):
    frames, grids = SHOWN[kind]
    example = make_dataset([ROWS[kind]], max_dynamic_patch=4)[0]
    if kind == "images":
        frames, grids = [5, 5, 5, 9], [4, 4, 4, 4]
    assert greys(example) == frames
    assert example.image_grids == grids
    assert example.pixel_values.shape == (len(frames), 3, 16, 16)
    assert example.pixel_values.dtype == torch.uint8
    assert example.source == ("set", 0)


@pytest.mark.parametrize("template", ["phi3-chat", "Hermes-2", "internvl2_5"])
@pytest.mark.parametrize("kind", ROWS)
def test_the_loss_is_on_the_assistants_words(
    kind: str, template: str, make_dataset: Any, processors: dict[str, Processor]
):
    row = ROWS[kind]
    example = make_dataset([row], processor=processors[template])[0]
    tokenizer = processors[template].tokenizer
    if kind == "tracking":
        answers = None
    elif "QA" in row:
        answers = [pair["a"] for pair in row["QA"]]
    else:
        answers = [turn["value"] for turn in row["conversations"] if turn["from"] == "gpt"]
    end = processors[template].template.end
    spoken = tokenizer.decode([id_ for id_ in example.labels if id_ != -100], clean_up_tokenization_spaces=False)
    said = [text.strip(" ") for text in spoken.split(end)]
    assert said.pop() == ""
    if answers is None:
        assert "\n".join(said) == "\n".join(f"At {box['timestamp']:.1f}s, {box['bbox']}" for box in BOXES)
    else:
        assert said == [answer.strip(" ") for answer in answers]
    assert all(label in (-100, id_) for label, id_ in zip(example.labels, example.input_ids, strict=True))


def test_the_same_index_gives_the_same_example(make_dataset: Any):
    rows = list(ROWS.values())
    before = copy.deepcopy(rows)
    dataset = make_dataset(rows, entry={"data_augment": True})
    first = [dataset[n] for n in range(len(dataset))]
    again = [dataset[n] for n in reversed(range(len(dataset)))][::-1]
    assert all(map(same, first, again))
    assert [dataset.annotations[0][n] for n in range(len(rows))] == before
    sent = pickle.loads(pickle.dumps(dataset))
    assert all(same(example, sent[n]) for n, example in enumerate(first))


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_make_the_same_examples(start: str, make_dataset: Any):
    dataset = make_dataset([ROWS["video"], ROWS["image"], ROWS["tracking"]])
    loader = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context=start)
    assert all(map(same, loader, (dataset[n] for n in range(3))))


def test_an_epoch_changes_random_choices_and_nothing_else(make_dataset: Any):
    dataset = make_dataset([ROWS["tracking"], ROWS["online"]])
    starts = []
    for epoch in range(6):
        dataset.set_epoch(epoch)
        starts.append(dataset[0].input_ids)
        assert greys(dataset[0]) == SHOWN["tracking"][0]
    assert len({tuple(ids) for ids in starts}) > 2
    online = dataset[1]
    dataset.set_epoch(0)
    assert dataset[0].input_ids == starts[0]
    assert same(dataset[1], online)


def test_times_are_written_where_asked(make_dataset: Any, processor: Processor):
    def text(kind: str, **settings: Any) -> str:
        return processor.decode(make_dataset([ROWS[kind]], **settings)[0].input_ids)

    assert "Frame1 at 0.5s: " in text("online")
    assert "Frame1: " in text("video")
    assert "Frame1 at 0.5s: " in text("video", frame_times="always")
    assert "Frame1: " in text("online", frame_times="never")


def test_still_images_are_cut_into_tiles(make_dataset: Any, config: VideoChatOnlineConfig):
    row = ROWS["image"] | {"image": "wide.png"}
    assert len(make_dataset([row], max_dynamic_patch=1)[0].image_grids) == 1
    assert len(make_dataset([row], max_dynamic_patch=2)[0].image_grids) == 3  # two tiles and the whole
    assert len(make_dataset([row], max_dynamic_patch=2, entry={"max_dynamic_patch": 8})[0].image_grids) == 9
    assert (
        len(
            make_dataset([{"image": ["wide.png"] * 4, "conversations": talk("Q", "A")}], max_dynamic_patch=8)[
                0
            ].image_grids
        )
        == 12
    )
    no_tiles = copy.deepcopy(config)
    no_tiles.dynamic_image_size = False
    assert len(make_dataset([row], config=no_tiles)[0].image_grids) == 1


def test_augmentation_is_jpeg_of_a_random_quality(make_dataset: Any):
    noise = np.random.default_rng(0).integers(0, 20, (32, 32, 1), dtype=np.uint8).repeat(3, axis=2) + 100
    first, second = (np.stack(list(augment([noise] * 8, seed))) for seed in "ab")
    assert not np.array_equal(first, second)
    assert np.array_equal(first, np.stack(list(augment([noise] * 8, "a"))))
    assert len({picture.tobytes() for picture in first}) > 1
    assert 0 < np.abs(first.astype(int) - noise).mean() < 5
    plain, augmented = (make_dataset([ROWS["image"]], entry={"data_augment": on})[0] for on in (False, True))
    assert plain.input_ids == augmented.input_ids
    assert (plain.pixel_values.int() - augmented.pixel_values.int()).abs().max() <= 3


@pytest.mark.parametrize("kind", ["images", "video"])
def test_bytes_and_normalised_pictures_are_the_same_to_the_last_bit(kind: str, make_dataset: Any):
    """Training sends bytes to the device; sessions and evaluation normalise before: FrameTransform."""
    dataset = make_dataset([ROWS[kind]], max_dynamic_patch=4)
    example, transform = dataset[0], dataset.processor.transform
    with dataset.prepare(0, 0, seed=f"{dataset.settings.seed}/0/0/0") as (layout, _):
        before = transform.batch(list(layout.pictures))
    assert torch.equal(normalised(example.pixel_values), before)
    assert normalised(example.pixel_values).is_contiguous()
    every_byte = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    assert torch.equal(normalised(torch.from_numpy(every_byte).permute(2, 0, 1)[None]), transform.batch([every_byte]))


def test_repeats_and_sets(write_list: Any, processor: Processor, config: VideoChatOnlineConfig):
    from videochat_online.data.registry import read_lists

    path = write_list({"a": [ROWS["text"]] * 4, "b": [ROWS["image"]]})
    entries = json.loads(path.read_text())
    entries["a"]["repeat_time"] = 0.5
    entries["b"]["repeat_time"] = 3
    path.write_text(json.dumps(entries))
    dataset = ConversationDataset(read_lists([path]), processor, config, DataSettings())
    assert [dataset[n].source for n in range(len(dataset))][2:] == [("b", 0)] * 3
    rows = [dataset[n].source[1] for n in range(2)]
    assert len(set(rows)) == 2


def test_lengths_are_estimated_on_the_long_side(make_dataset: Any):
    rows = [*ROWS.values(), MISSING]
    dataset = make_dataset(rows, max_dynamic_patch=4)
    exact = [len(dataset[n].input_ids) for n in range(len(rows))]
    opened = dataset.failures.num_read
    estimates = dataset.lengths
    assert dataset.failures.num_read == opened  # nothing was opened
    for kind, estimate, length in zip(ROWS, estimates, exact, strict=False):
        most = 64 * 30 if kind == "video" else 2 * length  # how long that one is only its file knows
        assert length <= estimate <= most, kind
    assert max(make_dataset(rows, max_length=200).lengths) == 200


@pytest.mark.skipif(find_spec("decord") is None, reason="needs decord: pip install 'videochat-online[decord]'")
@pytest.mark.parametrize("cached", [False, True])
def test_examples_are_equal_whatever_decodes(cached: bool, make_dataset: Callable, tmp_path: Path, monkeypatch):
    opened = []

    class Noted(DecordReader):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            opened.append(self)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(readers, "DecordReader", Noted)
    rows = [{"video": "video.mp4", "conversations": talk("<video>\nQ", "It gets brighter.")}]
    plain = make_dataset(rows)[0]
    assert not opened
    folder = str(tmp_path / "cache") if cached else ""
    example = make_dataset(rows, decoder="decord", frame_cache=folder)[0]
    assert opened and torch.equal(example.pixel_values, plain.pixel_values)
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(ImportError, match="the package decord is missing"):
        make_dataset(rows, decoder="decord")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere one process estimates the lengths")
def test_several_processes_estimate_the_same_lengths(make_dataset: Any, monkeypatch: pytest.MonkeyPatch):
    rows = [{"conversations": talk("Q" * number, "A")} for number in range(20)] + [{"nothing": 1}]
    alone = make_dataset(rows).lengths
    monkeypatch.setattr("videochat_online.data.lengths.ROWS_OF_A_PROCESS", 5)
    monkeypatch.setattr("videochat_online.data.lengths.own_cores", lambda: 3)
    started = []
    monkeypatch.setattr(
        "videochat_online.data.lengths.ProcessPoolExecutor",
        lambda count, context: started.append(count) or ProcessPoolExecutor(count, context),
    )
    assert make_dataset(rows).lengths.tolist() == alone.tolist()
    assert started == [3]
