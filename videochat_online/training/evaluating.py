"""Does it learn: which rows are held out, their loss and answers during training, which weights are best, when to stop.

The words of the rows alone decide which are held out: not their order, nor where they lie, nor the number of processes.
All rows about a file stand on one side.

An evaluation reads one row at a time, shared out over all processes, and adds up in the order of the rows: their number
does not change the sum. It leaves training's random numbers, weights, dropout and place in the data as they were.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object

from ..data.dataset import ConversationDataset, FailureLog
from ..data.formats import read_row
from ..data.registry import read_lists
from ..data.sample import SampleError
from ..prompt.letters import read_letter, words_of
from ..prompt.render import IGNORE_INDEX
from .configuration import TrainingConfig
from .distributed import is_main_process, zero_stage
from .loss import token_weights

Evaluation = Mapping[str, float]
"""step, loss and, where questions were answered: accuracy, commonest (that of always giving the commonest right answer)
and answers (their number)."""
Place = tuple[int, int]
"""(set number, row number)."""
OPTION = re.compile(r"^\s*\(?([A-Z])[).:]\s+(.+)$", re.MULTILINE)
NO_ANSWERS = "nothing can be answered in words with --strategy fsdp, which holds the weights in pieces"
MORE_TOKENS, MOST_TOKENS = 16, 128
"""An answer may be so many tokens longer than the right one, and so long at most."""


@dataclass(frozen=True)
class HeldOut:
    """Rows to evaluate on."""

    dataset: Any
    text: str
    """What they are, for people."""
    is_trained: bool = False
    """They are rows of the training data, because none could be held out."""
    warnings: Sequence[str] = ()


def hold_out(dataset: ConversationDataset, config: TrainingConfig) -> tuple[ConversationDataset, HeldOut | None]:
    """(what to train on, what to evaluate on), as --eval-data or --eval-share say; None where neither does.

    Where no row can be held out, those of training are asked: whether they were learnt can be told all the same.
    Raises ValueError for a list that cannot be read.
    """
    alone = f", for their loss alone: {NO_ANSWERS}" if config.strategy == "fsdp" else ""
    if config.eval_data:
        whole = ConversationDataset(read_lists(config.eval_data), dataset.processor, dataset.config, config)
        chosen = by_digest(whole, config.eval_rows)
        warnings = in_both(chosen, dataset) if is_main_process() else []
        return dataset, HeldOut(chosen, f"{len(chosen):,} rows of --eval-data{alone}", warnings=warnings)
    if not config.eval_share:
        return dataset, None
    rest, chosen = split(dataset, config.eval_share, config.eval_rows)
    total = sum(map(len, dataset.annotations))
    if len(chosen):
        text = f"{len(chosen):,} of {total:,} rows are held out (--eval-share {config.eval_share:g}){alone}"
        return rest, HeldOut(chosen, text)
    why = "is less than one" if config.eval_share * total < 1 else "cannot be cut out between their files"
    chosen = by_digest(dataset, config.eval_rows)
    text = f"no row is held out (--eval-share {config.eval_share:g} of {total:,} rows {why}): {len(chosen):,} rows of"
    return dataset, HeldOut(chosen, f"{text} the training data are looked at{alone}", is_trained=True)


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


def evaluate(loop: Any, held_out: HeldOut) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """The loss of all held-out rows, by --loss-reduction with each row a batch, and the answers to the first of them.

    For all processes together; on each the result is whole. `loop` is the TrainingLoop.
    """
    accelerator, state, count = loop.accelerator, loop.state, len(held_out.dataset)
    rank, size, device = accelerator.process_index, accelerator.num_processes, accelerator.device
    can_answer = state.processor is not None and state.strategy != "fsdp"
    num_asked = min(loop.config.eval_answers, count) if can_answer else 0
    numbers = range(rank, -(-count // size) * size, size)  # as many on each process: some of the last twice
    batches = loop.loader(held_out.dataset, [[min(number, count - 1)] for number in numbers])
    sums, answers = [], []
    state.wrapped.eval()
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
        for number, batch in zip(numbers, batches, strict=True):
            loop.watch.at(state.step, "evaluating")
            del batch["num_tokens"], batch["num_images"]
            weights = token_weights(batch["labels"], loop.config.loss_reduction, batch.get("position_ids"))
            sums.append(torch.stack([loop.loss_sum(batch, weights), weights.sum().to(device)]))
            if number < -(-num_asked // size) * size:
                answers.append((number, answer(loop, batch)))
        shared = accelerator.gather(torch.stack(sums).double()).view(size, -1, 2)
        asked = [one for number, one in sorted(gather_object(answers), key=lambda pair: pair[0])][:num_asked]
    state.wrapped.train()
    loss, weight = shared.transpose(0, 1).reshape(-1, 2)[:count].sum(dim=0).tolist()
    found = {"loss": loss / max(weight, 1e-9)}
    if asked:
        commonest = Counter(one.pop("key") for one in asked).most_common(1)[0][1]
        right = sum(one["right"] for one in asked)
        found |= {"accuracy": right / num_asked, "commonest": commonest / num_asked, "answers": num_asked}
    return found, asked


def answer(loop: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """The last question of a batch of one row, the right answer and the model's own, by greedy decoding."""
    processor, model, device = loop.state.processor, loop.state.model, loop.accelerator.device
    ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
    # 1. the last tokens with loss are the right answer, all before them the prompt
    stop = max(place for place, label in enumerate(labels) if label != IGNORE_INDEX) + 1
    start = max(place for place, label in enumerate(labels[:stop]) if label == IGNORE_INDEX) + 1
    prompt = batch["input_ids"][:1, :start].to(device)
    # 2. the model's
    ends, image_tokens = processor.end_token_ids, None
    limit = min(stop - start + MORE_TOKENS, MOST_TOKENS)
    with loop.accelerator.autocast():
        if processor.image_token_id in ids[:start]:  # else the picture is borrowed, behind all words
            image_tokens = model.encode_images(batch["pixel_values"].to(device), batch["image_grids"])
        options = {"eos_token_id": ends, "pad_token_id": ends[0], "synced_gpus": zero_stage(loop.config) == 3}
        if (positions := batch.get("rope_positions")) is not None:
            options["position_ids"] = positions[..., :start].to(device)
        new = model.generate(input_ids=prompt, image_tokens=image_tokens, max_new_tokens=limit, **options)
    # 3. in words
    question = asked_in(ids[:start], processor)
    expected, given = (processor.decode(some).strip() for some in (ids[start:stop], new[0].tolist()))
    key = as_compared(question, expected)
    right = as_compared(question, given) == key
    return {"question": question, "expected": expected, "given": given, "right": right, "key": key}


def asked_in(ids: Sequence[int], processor: Any) -> str:
    """The last question of a prompt that ends with an opened answer: what stands behind the last picture."""
    (mark, opening), (other, answering) = processor.template.user, processor.template.assistant
    marks = (processor.tokenizer.convert_tokens_to_ids(mark) if mark else None, processor.image_token_id)
    shown = [-1, *(place for place, id_ in enumerate(ids) if id_ in marks)]
    if mark and mark == other:
        shown.pop()  # it opens the answer, too
    text = processor.decode(ids[shown[-1] + 1 :]).strip()
    if not mark:
        text = text.rpartition(opening)[2]
    return str(text.removesuffix(answering.strip()).removeprefix(opening).strip())


def as_compared(question: str, answer: str) -> str:
    """An answer as it is compared: the letter it names where the question lists options, else its words.

    >>> as_compared("Which?\\n(A) a red ball\\n(B) a dog", "The answer is B."), as_compared("Which?", " A dog. ")
    ('B', 'a dog')
    """
    options = OPTION.findall(question)
    listed = "".join(letter for letter, _ in options)
    letter = None
    if len(listed) > 1 and ascii_uppercase.startswith(listed):
        letter = read_letter(answer, listed, [text for _, text in options])
    return letter or words_of(answer)


def best_of(evaluations: Sequence[Evaluation]) -> Evaluation | None:
    """The evaluation of the lowest loss, the first of equals; that before the first step is none of the run's own."""
    own = [one for one in evaluations if one["step"] and one["loss"] < torch.inf]
    return min(own, key=lambda one: one["loss"], default=None)


def chosen_of(evaluations: Sequence[Evaluation], config: TrainingConfig) -> Evaluation | None:
    """The evaluation of the weights that become the trained model."""
    return best_of(evaluations) if config.export_step == "best" else evaluations[-1] if evaluations else None


def stops_early(evaluations: Sequence[Evaluation], patience: int) -> bool:
    """Whether the last `patience` evaluations brought no lower loss; with 0 never."""
    best = best_of(evaluations)
    return bool(patience) and sum(one["step"] > (best["step"] if best else 0) for one in evaluations) >= patience


def verdict(evaluations: Sequence[Evaluation], chosen: Evaluation | None, losses: Sequence[float]) -> list[str]:
    """Why the `chosen` weights have not learnt, as far as can be told; nothing where they have.

    `losses`: of the log, which are judged where nothing was evaluated. Answers are judged where two at least are the
    same: of captions that all differ none is met word for word.
    """
    if chosen is None:
        has_fallen = len(losses) < 2 or losses[-1] < losses[0]
        return [] if has_fallen else [f"the training loss was {losses[0]:.4g} at first and is {losses[-1]:.4g}"]
    begun, found = evaluations[0], []
    if begun["step"] == 0 and not chosen["loss"] < begun["loss"]:
        found.append(f"the evaluation loss was {begun['loss']:.4g} before the first step and is {chosen['loss']:.4g}")
    right, commonest = chosen.get("accuracy", 1.0), chosen.get("commonest", 0.0)
    if right < 1 and right <= commonest and commonest * chosen["answers"] >= 2:
        found.append(f"{right:.0%} of the answers are right, always giving the commonest would make {commonest:.0%}")
    return found
