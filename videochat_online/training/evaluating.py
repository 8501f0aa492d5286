"""Does it learn: loss and answers of held-out rows during training, which checkpoint is best, when to stop early.

An evaluation reads one row at a time, shared out over all processes, and adds the numbers up in the order of the rows:
any number of processes gives the same sum. It draws no random number of training's, and leaves weights, dropout and the
place in the data as they were.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..data.registry import read_lists
from ..data.settings import SettingError
from ..prompt.letters import read_letter, words_of
from ..prompt.render import IGNORE_INDEX
from .configuration import TrainingConfig
from .distributed import is_main_process, zero_stage
from .loss import token_weights

if TYPE_CHECKING:
    from ..data.dataset import ConversationDataset

Batch = dict[str, Any]
Evaluation = Mapping[str, float]
"""step, loss and, where questions were answered, accuracy, commonest (the share of the commonest right answer) and
answers (their number)."""
OPTION = re.compile(r"^\s*\(?([A-Z])[).:]\s+(.+)$", re.MULTILINE)
MORE_TOKENS, MOST_TOKENS = 16, 128
"""An answer may be so many tokens longer than the right one, and so long at most."""


@dataclass(frozen=True)
class HeldOut:
    """Rows to evaluate on, in the order of their digests."""

    dataset: Any
    text: str
    """What they are, for people."""
    is_trained: bool = False
    """They are rows of the training data, because none could be held out."""
    warnings: tuple[str, ...] = ()


def hold_out(dataset: ConversationDataset, config: TrainingConfig) -> tuple[ConversationDataset, HeldOut | None]:
    """(what to train on, what to evaluate on), as --eval-data or --eval-share say; None where neither does.

    Where the share is less than a row, the rows of training are asked themselves: whether they were learnt can be told
    all the same. Raises ValueError for a list that cannot be read.
    """
    from ..data.dataset import ConversationDataset
    from ..data.holding_out import by_digest, in_both, split

    if config.eval_data:
        try:
            whole = ConversationDataset(read_lists(config.eval_data), dataset.processor, dataset.config, config)
        except ValueError as error:
            raise SettingError(f"--eval-data: {error}") from error
        held_out = by_digest(whole, config.eval_rows)
        warnings = in_both(held_out, dataset) if is_main_process() else []
        return dataset, HeldOut(held_out, f"{len(held_out):,} rows of --eval-data", warnings=tuple(warnings))
    if not config.eval_share:
        return dataset, None
    rest, held_out = split(dataset, config.eval_share, config.eval_rows)
    total = sum(map(len, dataset.annotations))
    share = f"--eval-share {config.eval_share:g} of {total:,} rows"
    if len(held_out):
        return rest, HeldOut(held_out, f"{len(held_out):,} rows held out ({len(held_out) / total:.1%}; {share})")
    why = "is less than one" if int(config.eval_share * total + 1e-9) < 1 else "cannot be cut out between its files"
    same = by_digest(dataset, config.eval_rows)
    text = f"no row is held out ({share} {why}); {len(same):,} rows of the training data are asked"
    return dataset, HeldOut(same, text, is_trained=True)


# One evaluation


def evaluate(loop: Any, held_out: HeldOut) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Loss of all held-out rows, by --loss-reduction with each row a batch, and the answers to the first of them.

    For all processes together; the answers are whole on each. `loop` is the TrainingLoop.
    """
    from accelerate.utils import gather_object

    accelerator, count = loop.accelerator, len(held_out.dataset)
    rank, size = accelerator.process_index, accelerator.num_processes
    num_asked = 0 if why_no_answers(loop.config) or loop.state.processor is None else loop.config.eval_answers
    num_asked = min(num_asked, count)
    numbers = range(rank, -(-count // size) * size, size)  # as many on each process: some of the last ones twice
    sums, answers = [], []
    with _leaving_no_trace(loop):
        held_out.dataset.set_epoch(0)
        batches = loop.loader(held_out.dataset, [[min(number, count - 1)] for number in numbers])
        for number, batch in zip(numbers, batches, strict=True):
            del batch["num_tokens"], batch["num_images"]
            weights = token_weights(batch["labels"], loop.config.loss_reduction, batch.get("position_ids"))
            sums.append(torch.stack([loop.loss_sum(batch, weights), weights.sum().to(accelerator.device)]))
            if number < -(-num_asked // size) * size:
                answers.append({"number": number, **answer(loop, batch)})
        shared = accelerator.gather(torch.stack(sums).double()).view(size, -1, 2)
        loss, weight = shared.transpose(0, 1).reshape(-1, 2)[:count].sum(dim=0).tolist()
        found = {one["number"]: one for one in gather_object(answers)}
    asked = [found[number] for number in range(num_asked)]
    result = {"loss": loss / max(weight, 1e-9)}
    if asked:
        commonest = Counter(one["key"] for one in asked).most_common(1)[0][1]
        right = sum(one["right"] for one in asked)
        result |= {"accuracy": right / num_asked, "commonest": commonest / num_asked, "answers": num_asked}
    shown = ("question", "expected", "given", "right")
    return result, [{name: one[name] for name in shown} for one in asked]


@contextmanager
def _leaving_no_trace(loop: Any) -> Iterator[None]:
    """Within the context: no dropout, no gradients, random numbers that are put back."""
    device, wrapped = loop.accelerator.device, loop.state.wrapped
    wrapped.eval()
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
        yield
    wrapped.train()


def why_no_answers(config: TrainingConfig) -> str | None:
    """Why held-out questions cannot be answered in words, where they cannot."""
    if config.strategy == "fsdp" and config.eval_answers:
        return "no answers with --strategy fsdp, which holds the weights in pieces: the held-out loss alone is told"
    return None


def answer(loop: Any, batch: Batch) -> dict[str, Any]:
    """The last question of a batch of one row, the right answer to it and the model's own, by greedy decoding."""
    processor, model, device = loop.state.processor, loop.state.model, loop.accelerator.device
    ids, labels = batch["input_ids"][0], batch["labels"][0].tolist()
    # 1. the last stretch of tokens with loss is the right answer, all before it the prompt
    stop = max(place for place, label in enumerate(labels) if label != IGNORE_INDEX) + 1
    start = stop
    while labels[start - 1] != IGNORE_INDEX:
        start -= 1
    prompt = ids[:start].to(device)
    # 2. the model's answer
    ends, image_tokens = processor.end_token_ids, None
    limit = min(stop - start + MORE_TOKENS, MOST_TOKENS)
    with loop.accelerator.autocast():
        if bool((prompt == processor.image_token_id).any()):  # else the picture is borrowed, behind all words
            image_tokens = model.encode_images(batch["pixel_values"].to(device), batch["image_grids"])
        options = {"eos_token_id": ends, "pad_token_id": ends[0], "synced_gpus": zero_stage(loop.config) == 3}
        new = model.generate(input_ids=prompt[None], image_tokens=image_tokens, max_new_tokens=limit, **options)
    # 3. in words
    question = question_of(prompt.tolist(), processor)
    expected, given = processor.decode(ids[start:stop].tolist()).strip(), processor.decode(new[0].tolist()).strip()
    key = as_compared(question, expected)
    right = as_compared(question, given) == key
    return {"question": question, "expected": expected, "given": given, "right": right, "key": key}


def question_of(prompt: Sequence[int], processor: Any) -> str:
    """The text of the last question in a prompt, without what stands before its last picture."""
    mark = processor.tokenizer.convert_tokens_to_ids(processor.template.user[0])
    ids = list(prompt)[len(prompt) - list(reversed(prompt)).index(mark) :] if mark in prompt else list(prompt)
    pictures = [place for place, one in enumerate(ids) if one == processor.image_token_id]
    text = processor.decode(ids[pictures[-1] + 1 :]) if pictures else processor.decode(ids)
    return text.removesuffix(processor.template.assistant[1]).strip()


def as_compared(question: str, answer: str) -> str:
    """An answer as it is compared: the letter it names where the question lists options, else its words.

    >>> as_compared("Which?\\n(A) a red ball\\n(B) a dog", "The answer is B."), as_compared("Which?", " A dog. ")
    ('B', 'a dog')
    """
    letters, texts = zip(*options, strict=True) if (options := OPTION.findall(question)) else ((), ())
    listed = "".join(letters)
    if len(listed) > 1 and "ABCDEFGHIJKLMNOPQRSTUVWXYZ".startswith(listed):
        return read_letter(answer, listed, texts) or words_of(answer)
    return words_of(answer)


# What follows from all evaluations of a run


def best_of(evaluations: Sequence[Evaluation]) -> Evaluation | None:
    """The evaluation of the lowest loss, the first of equals; that before the first step is none of the run's own."""
    return min((one for one in evaluations if one["step"] and one["loss"] < torch.inf), key=_loss, default=None)


def _loss(evaluation: Evaluation) -> float:
    return evaluation["loss"]


def stops_early(evaluations: Sequence[Evaluation], patience: int) -> bool:
    """Whether the last `patience` evaluations brought no lower loss; with 0 never."""
    best = best_of(evaluations)
    since = sum(one["step"] > (best["step"] if best else 0) for one in evaluations)
    return bool(patience) and since >= patience


def chosen_of(evaluations: Sequence[Evaluation], config: TrainingConfig) -> Evaluation | None:
    """The evaluation of the weights that become the trained model."""
    return best_of(evaluations) if config.export_step == "best" else evaluations[-1] if evaluations else None


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
        found.append(f"the held-out loss was {begun['loss']:.4g} before the first step and is {chosen['loss']:.4g}")
    right, commonest = chosen.get("accuracy", 1.0), chosen.get("commonest", 0.0)
    if right < 1 and right <= commonest and commonest * chosen["answers"] >= 2:
        found.append(f"{right:.0%} of the answers are right, always giving the commonest would make {commonest:.0%}")
    return found
