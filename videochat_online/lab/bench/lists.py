"""`bench lists`: a run on lists of published size, up to its first batch: seconds and memory of each step. No media.

The rows are made up; sets, formats and options are those of anno_data/stage2_online.json, and the share of each set is
about that of the published mix. `--samples` says how many rows; 2,000,000 take 1 GB of disk in the temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ...data.dataset import ConversationDataset
from ...data.registry import read_lists
from ...files import shipped
from ...model.videochat import CheckpointError
from ...model.weights import load_facts
from ...model_config import VideoChatOnlineConfig
from ...processing import Processor
from ...training.configuration import TrainingConfig
from ...training.plan import TrainingPlan, make_plan, steps_text
from ...training.run import describe_data
from .measure import Tables

LIST = Path("anno_data/stage2_online.json")
THOUSANDS = {
    "videochat2_caption_textvr": 40, "videochat2_caption_videochat": 7, "videochat2_caption_webvid": 400,
    "videochat2_caption_youcook2": 9, "videochat2_classification_k710": 40, "videochat2_classification_ssv2": 40,
    "videochat2_conversation_videochat1": 10, "videochat2_conversation_videochat2": 10,
    "videochat2_conversation_videochatgpt": 13, "videochat2_reasoning_next_qa": 34,
    "videochat2_reasoning_clevrer_qa": 40, "videochat2_reasoning_clevrer_mc": 43, "videochat2_vqa_ego_qa": 8,
    "videochat2_vqa_tgif_frame_qa": 40, "videochat2_vqa_tgif_transition_qa": 53, "videochat2_vqa_webvid_qa": 100,
    "star": 46, "perception_test": 7, "sharegpt4v": 100, "sharegpt4o_image": 57, "sharegpt4o_video": 2,
    "llava_onevision": 600,
}  # fmt: skip
"""Rows of each set, about; the eleven online sets share 96 K."""
ONLINE = 96 / 11
WORDS = ("the", "a", "person", "dog", "car", "then", "opens", "walks", "red", "to", "left", "door", "slowly", "and")
PROCESSES = (8, 64, 512)


def load_config(name: str | Path) -> VideoChatOnlineConfig:
    """As `load_facts`, for what needs a model of our own layout."""
    facts = load_facts(name)
    if not isinstance(facts, VideoChatOnlineConfig):
        own = VideoChatOnlineConfig.model_type
        raise CheckpointError(f"{name} is a model of type {facts.model_type!r}, expected {own!r} here")
    return facts


def measure(options: argparse.Namespace) -> Tables:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path, num_rows = write_lists(folder, options.samples)
        rows = time_a_start(path, options.model)
        size = sum(file.stat().st_size for file in folder.rglob("*.json*"))
    return {f"{num_rows:,} rows, {size / 2**20:,.0f} MiB of json": rows}


def write_lists(folder: Path, num_rows: int) -> tuple[Path, int]:
    """The list with about `num_rows` rows of all its sets below `folder`; and how many they are."""
    rng = random.Random(0)
    entries = json.loads(shipped(LIST).read_text("utf-8"))
    total, count = sum(THOUSANDS.get(name, ONLINE) for name in entries), 0
    for name, entry in entries.items():
        entry["annotation"] = f"{name}.jsonl" if entry["annotation"].endswith(".jsonl") else f"{name}.json"
        entry["data_root"] = "media"
        num = max(1, round(num_rows * THOUSANDS.get(name, ONLINE) / total))
        count += num
        with (folder / entry["annotation"]).open("w", encoding="utf-8") as file:
            is_list = entry["annotation"].endswith(".json")
            file.write("[" if is_list else "")
            for number, row in enumerate(made_rows(name, num, rng)):
                file.write((",\n" if is_list else "\n") * (number > 0) + json.dumps(row))
            file.write("]" if is_list else "\n")
    (folder / "media").mkdir()
    (folder / LIST.name).write_text(json.dumps(entries), "utf-8")
    return folder / LIST.name, count


def made_rows(name: str, num: int, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Rows in the format that the published set `name` has."""

    def say(low: int, high: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(low, high)))

    for number in range(num):
        media = f"{number % 100:02}/{name}_{number:07}"
        if name.endswith("_track"):
            boxes = [
                {"timestamp": second, "bbox": [round(rng.random() / 2 + corner, 3) for corner in (0, 0, 0.5, 0.5)]}
                for second in range(rng.randint(20, 90))
            ]
            query = {"from": "human", "value": "Track the object at <bbox>."}
            files = [f"{one:06}.jpg" for one in range(len(boxes))]
            yield {
                "video": media, "fps": 1, "query_template": query, "image_bboxes": boxes, "all_image_files": files
            }  # fmt: skip
        elif name.endswith(("_sl", "_dvc", "_tg", "_stad")):
            turns: list[dict[str, Any]] = []
            for turn in range(rng.randint(3, 12)):
                turns.append({"from": "human", "timestamps": 7.0 * turn + 5, "value": "<video>\n" + say(5, 30)})
                turns.append({"from": "gpt", "value": say(5, 40)})
            yield {"video": media, "conversations": turns}
        elif name.startswith(("sharegpt4v", "sharegpt4o_image", "llava")):
            turns = [{"from": "human", "value": "<image>\n" + say(5, 30)}, {"from": "gpt", "value": say(20, 180)}]
            yield {"id": number, "image": media + ".jpg", "conversations": turns}
        else:
            yield {"video": media + ".mp4", "QA": [{"i": say(10, 30), "q": say(0, 15), "a": say(1, 40)}]}


def time_a_start(path: Path, model: str) -> list[dict[str, Any]]:
    """A row for each step of a start: seconds (on a busy machine more than on the CPU), and what is held then."""
    config = TrainingConfig(model=model, data=(str(path),), output_dir="unused", num_workers=0)
    model_config = load_config(model)
    processor = Processor.from_pretrained(model, model_config)
    rows: list[dict[str, Any]] = []

    def timed(what: str, step: Callable[[], Any]) -> Any:
        started, on_cpu = time.perf_counter(), sum(os.times()[:4])  # of the processes it starts as well
        result = step()
        seconds = {"seconds": time.perf_counter() - started, "on the CPU": sum(os.times()[:4]) - on_cpu}
        held, highest = (_megabytes("/proc/self/status", key) for key in ("VmRSS", "VmHWM"))
        rows.append({"step": what, **seconds, "held MB": held, "highest MB": highest})
        return result

    def planned(num_processes: int, **changes: Any) -> TrainingPlan:
        return make_plan(replace(config, **changes), dataset.lengths, num_processes, boundary=4096)

    timed("digest of the annotations", lambda: describe_data(config))
    dataset = timed("read the rows", lambda: ConversationDataset(read_lists([path]), processor, model_config, config))
    timed("estimate the lengths", lambda: dataset.lengths)
    for number in PROCESSES:
        plan = timed(f"plan for {number} processes", partial(planned, number))
        timed("its text", partial(steps_text, plan))
        timed("first batch of an epoch", partial(_first_batch, plan, 0))
        timed("resume in its middle", partial(_first_batch, plan, plan.steps_per_epoch // 2))
    packed = timed("plan, packed, for 64", lambda: planned(64, batching="packed"))
    timed("first batch, packed", partial(_first_batch, packed, 0))
    own = {"step": "a data worker's own, 10,000 rows read", "seconds": None, "on the CPU": None}
    return [*rows, {**own, **_worker_megabytes(dataset)}]


def _first_batch(plan: TrainingPlan, step: int) -> list[int]:
    return next(plan.batches(1, first=step))


def _megabytes(path: str, key: str) -> float | None:
    """A number of /proc, which is in kB; None where there is no such file."""
    lines = Path(path).read_text().splitlines() if os.path.exists(path) else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(key + ":")), None)


def _worker_megabytes(dataset: ConversationDataset) -> dict[str, float | None]:
    """What a forked process has of its own once it has read rows, beyond what it shares."""
    context = get_context("fork")
    ours, theirs = context.Pipe()

    def work() -> None:
        for number in range(0, len(dataset), max(1, len(dataset) // 10_000)):
            set_number, row = dataset.rows[number].tolist()
            dataset.annotations[set_number][row]
        theirs.send(_megabytes("/proc/self/smaps_rollup", "Private_Dirty"))

    process = context.Process(target=work)
    process.start()
    own = ours.recv()
    process.join()
    return {"held MB": own, "highest MB": None}
