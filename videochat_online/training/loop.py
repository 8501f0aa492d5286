"""The training loop on accelerate: the batches of a step, loss and gradients, update, line of the log, checkpoint.

Loss: the weighted mean of the cross entropies of a step's tokens, over all batches and processes; loss.py has the
weights. How a step's batches are spread over processes does not matter.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from accelerate.utils import set_seed
from torch.utils.data import DataLoader

from ..config import tokens_of_grid
from ..model.language_model import border_arguments, use_varlen
from ..prompt.render import IGNORE_INDEX
from .checkpoints import Saver, check_shape, choose_checkpoint, skipped
from .distributed import (
    SequenceParts,
    Watch,
    data_workers,
    leave_sigterm_to_the_parent,
    make_accelerator,
    say,
    sigterm_noted,
    uses_bf16,
    uses_deepspeed,
)
from .evaluating import HeldOut, best_of, evaluate, stops_early
from .log import Interval, RunLog, summary
from .loss import next_tokens, token_weights, weighted_loss
from .parts import checkpoint_gradients, choose_parts, hold_frozen, make_optimizer, set_drop_path
from .plan import TrainingPlan
from .state import TrainState

Batch = dict[str, Any]
Collator = Callable[[list[Any]], Batch]


class TrainingLoop:
    """Trains a model on a data set with `.lengths` and `.set_epoch`, as a plan says; one for each process."""

    def __init__(
        self, model: Any, dataset: Any, collator: Collator, plan: TrainingPlan, *, processor: Any = None
    ) -> None:
        """`processor` is saved beside the weights, so that a checkpoint is a model folder that loads."""
        self.dataset, self.plan, self.config = dataset, plan, plan.config
        config, shape = plan.config, plan.shape
        set_seed(config.seed)  # of new LoRA pairs
        choose_parts(model, config)
        set_drop_path(model, config.drop_path)
        if config.batching == "packed" and config.attention == "auto":
            use_varlen(model.get_submodule(model.roles.language[0]))
        if config.strategy != "fsdp":  # there accelerate switches it on
            checkpoint_gradients(model, config)
        self.accelerator = make_accelerator(config, shape.accumulation)
        self.parts = SequenceParts(config.sequence_parallel)
        self.parts.share(model)
        self.state = TrainState(self.accelerator, model, make_optimizer(model, config), processor, config)
        hold_frozen(model, config)
        picture = {"image_size": model.config.image_size, "image_token_id": model.config.img_context_token_id}
        self.collate = partial(collate, collator=collator, positions=model.positions, **picture)
        in_bf16 = uses_deepspeed(config) and uses_bf16(config)  # without DeepSpeed autocast sees to it
        self.dtype = torch.bfloat16 if in_bf16 else None
        self.grad_norm: Any = None
        self.saver, self.watch = Saver(self.state, config, shape), Watch(config.timeout)

    def train(self, held_out: HeldOut | None = None) -> bool:
        """Run to the end, or to a SIGTERM, after whose step a checkpoint is written: then False.

        `held_out`: rows to evaluate on, before the first step and every --eval-every.
        Continues from the checkpoint that --resume names. A run that had ended trains no further step; its weights are
        loaded. Raises ValueError for a checkpoint that does not fit, a full disk, and bad data.
        """
        # 1. the checkpoint to resume
        config, state, self.held_out = self.config, self.state, held_out
        for line in skipped(config.resume, config.run_folder):
            say(line)
        checkpoint = choose_checkpoint(config.resume, config.run_folder)
        if checkpoint is not None:
            check_shape(checkpoint, self.plan.shape)
            say(f"resuming from {checkpoint.folder}")
            state.read_progress(checkpoint.folder)
            has_ended = checkpoint.step >= self.plan.num_steps or stops_early(state.evaluations, config.early_stop)
            if has_ended or not uses_deepspeed(config):
                state.load_weights(checkpoint.folder)
            if has_ended:
                return True
        # 2. share the weights out, and continue from it
        set_seed(config.seed)
        self.watch.start()
        state.prepare()
        if checkpoint is not None:
            state.load(checkpoint.folder)
        state.wrapped.train()
        log = RunLog(self.accelerator, config, state.step, self.plan.num_steps)
        # 3. the steps
        with closing(log), closing(self.watch), sigterm_noted() as sigterm:
            return self._run_steps(log, sigterm)

    def _run_steps(self, log: RunLog, sigterm: threading.Event) -> bool:
        """All steps that are left; False where a SIGTERM ended them early.

        A checkpoint comes with a line of the log, so that a resumed run takes means over the same steps.
        """
        began, first, stopped = time.perf_counter(), self.state.step, False
        self.since = Interval(first)
        if not first:
            self._evaluate(log)
        for batches in self.batches():
            self.take_step(batches)
            log.bar.update()
            self.saver.check()
            step, ended = self.state.step, self.state.step == self.plan.num_steps
            if sigterm.is_set():
                self.accelerator.set_trigger()  # for all processes
            stopped = self.accelerator.check_trigger() and not ended
            due = ended or step % (self.config.eval_every or self.config.save_every) == 0
            is_best = due and not stopped and self._evaluate(log)
            ended = ended or stops_early(self.state.evaluations, self.config.early_stop)
            save = stopped or ended or is_best or step % self.config.save_every == 0
            if save or step % self.config.log_every == 0:
                log.write(step, self._line())
            if save:
                self.save()
            if stopped or ended:
                break
        self.saver.wait()
        seconds, num_steps = time.perf_counter() - began, self.state.step - first
        line = {
            "train_runtime": round(seconds, 4),
            "train_samples_per_second": round(num_steps * self.plan.samples_per_step / seconds, 3),
            "train_steps_per_second": round(num_steps / seconds, 3),
            "train_loss": self.state.total_loss / self.state.step,  # of the whole run, before the checkpoint as well
            "epoch": self.state.step / self.plan.steps_per_epoch,
        }
        log.write(self.state.step, line)
        return not stopped

    # Data

    def batches(self) -> Iterator[list[Batch]]:
        """This process's batches of each step that is left, on the CPU. Each epoch has data workers of its own."""
        plan, rank = self.plan, self.accelerator.process_index // self.parts.size
        while self.state.step < plan.num_steps:
            epoch, first = divmod(self.state.step, plan.steps_per_epoch)
            stop = min(plan.steps_per_epoch, first + plan.num_steps - self.state.step)
            self.dataset.set_epoch(epoch)  # before its worker processes start
            left = iter(self.loader(self.dataset, plan.batches(epoch, rank=rank, first=first, stop=stop)))
            for step in range(first, stop):
                began = time.perf_counter()
                self.watch.at(epoch * plan.steps_per_epoch + step + 1, "reading data")
                try:
                    batches = [next(left) for _ in range(plan.shape.accumulation)]
                except ValueError as error:
                    raise without_traceback(error) from error
                self.since.waiting += time.perf_counter() - began
                yield batches

    def loader(self, dataset: Any, batches: Iterable[list[int]]) -> DataLoader[Batch]:
        """What reads these batches of a data set, in processes of its own."""
        return DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=self.collate,
            num_workers=data_workers(self.config),
            pin_memory=self.accelerator.device.type == "cuda",
            worker_init_fn=leave_sigterm_to_the_parent,
            generator=torch.Generator().manual_seed(self.config.seed),  # workers' seeds: not of the global state
        )

    def _evaluate(self, log: RunLog) -> bool:
        """Evaluate on the held-out rows, if there are any, and log it; whether no earlier loss was lower.

        The time counts for no line of training.
        """
        if self.held_out is None:
            return False
        began, state = time.perf_counter(), self.state
        result, answers = evaluate(self, self.held_out)
        state.evaluations.append({"step": state.step, **result})
        seconds = time.perf_counter() - began
        log.write(state.step, {**result, "seconds": round(seconds, 2)}, "eval")
        log.write_answers(state.step, answers)
        self.since.start += seconds
        return best_of(state.evaluations) is state.evaluations[-1]

    # A step

    def take_step(self, batches: list[Batch]) -> None:
        """Gradients of a step's batches, and the update of the weights."""
        self.watch.at(self.state.step + 1, "computing")
        for group in self.state.optimizer.param_groups:
            group["lr"] = self.plan.learning_rate(self.state.step)
        for batch in batches:
            self.since.count(batch, self.parts.size)
        self.since.loss += self.backward(batches)  # with DeepSpeed the update as well
        weights, most = self.state.wrapped.parameters(), self.config.max_grad_norm or math.inf
        self.grad_norm = self.accelerator.clip_grad_norm_(weights, most)
        self.state.optimizer.step()
        self.state.optimizer.zero_grad()
        self.state.step += 1

    def backward(self, batches: list[Batch]) -> torch.Tensor:
        """Add up the gradients of a step's batches; returns this process's part of the step's loss."""
        accelerator, reduction = self.accelerator, self.config.loss_reduction
        weights = [token_weights(batch["labels"], reduction, batch.get("position_ids")) for batch in batches]
        total = torch.stack([one.sum() for one in weights]).sum().to(accelerator.device)
        # processes are averaged; a step without any loss, whose sum is 0 and not 1 at least, has loss 0
        scale = accelerator.num_processes / (accelerator.gather(total).sum() / self.parts.size).clamp(min=0.5)
        loss = torch.zeros((), device=accelerator.device)
        accelerator.step = 0  # its count of batches: with the last one of the step, gradients are shared
        for batch, of_tokens in zip(batches, weights, strict=True):
            with accelerator.accumulate(self.state.wrapped):
                part = self.loss_sum(batch, of_tokens) * scale
                accelerator.backward(part * accelerator.gradient_accumulation_steps)  # by which it divides
            loss += part.detach()
        return loss

    def loss_sum(self, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        """The sum of a batch's losses, each times its weight, (B, N).

        Logits are made at the K positions that bear loss, inside the model: there its weights are at hand, however they
        are shared out. The cache stays off: with one, transformers does not see where a packed sample begins. Padding
        stands at the end, where no word looks at it and no loss is: without a mask of it the kernels skip half of the
        attention.
        """
        config, device = self.config, self.accelerator.device
        inputs = {
            name: value.to(device, self.dtype if value.is_floating_point() else None, non_blocking=True)
            for name, value in batch.items()
            if name != "attention_mask"
        }
        inputs |= border_arguments(
            batch.get("position_ids"), flash=config.attention == "flash_attention_2", device=device
        )
        parts = self.parts if self.state.model.training else SequenceParts(1)  # evaluated, sequences stay whole
        labels = parts.part(inputs.pop("labels"), IGNORE_INDEX, 1)  # the next part's first is a target here
        targets, weights, positions = next_tokens(labels, parts.part(weights.to(device), 0, 1))
        of_batch = partial(weighted_loss, targets=targets, weights=weights, positions=positions)
        readout = partial(of_batch, num_chunks=config.loss_chunks)
        return self.state.wrapped(**inputs, use_cache=False, readout=readout).loss

    # The log

    def _line(self) -> dict[str, float]:
        """What the log says about the steps since its last line."""
        state, since = self.state, self.since
        numbers = torch.tensor([since.numbers()], dtype=torch.float64, device=self.accelerator.device)
        means = summary(self.accelerator.gather(numbers).cpu())
        state.total_loss += (loss := means.pop("loss"))
        norm = self.grad_norm.full_tensor() if hasattr(self.grad_norm, "full_tensor") else self.grad_norm
        self.since = Interval(state.step)
        return {
            "loss": loss / (state.step - since.first),
            **({} if norm is None else {"grad_norm": float(norm)}),  # DeepSpeed without ZeRO has none
            "learning_rate": self.plan.learning_rate(state.step - 1),
            **means,
            "epoch": state.step / self.plan.steps_per_epoch,
        }

    # Checkpoints

    def save(self) -> None:
        """Write a checkpoint, after a line of the log. Raises ValueError where the disk takes no more."""
        self.watch.at(self.state.step, "saving")
        self.saver.save()
        self.since = Interval(self.state.step)  # its time counts for no line


def collate(
    examples: list[Any],
    *,
    collator: Collator,
    image_size: int,
    image_token_id: int,
    positions: Callable[..., torch.Tensor | None],
) -> Batch:
    """The data set's collator, counts for the log, a borrowed picture for batches of text alone, and positions where
    they are not 0, 1, 2, ..."""
    counts = {
        "num_tokens": sum(len(example.input_ids) for example in examples),
        "num_images": sum(len(example.image_grids) for example in examples),
    }
    batch = with_picture(collator(examples), image_size=image_size, image_token_id=image_token_id)
    if positions(0, (), ()) is not None:
        batch["rope_positions"] = rope_positions(batch, image_token_id, positions)
    return counts | batch


def rope_positions(batch: Batch, image_token_id: int, positions: Callable[..., Any]) -> torch.Tensor:
    """Positions (4, B, N) of a batch as `Backbone.positions` gives them; packed samples begin anew each.

    Pictures stand in the order of their grids, one behind the other or not.
    """
    ids, grids, rows = batch["input_ids"], iter(batch["image_grids"].tolist()), []
    packed = batch.get("position_ids")
    for number, row in enumerate(ids):
        starts = [0] if packed is None else (packed[number] == 0).nonzero()[:, 0].tolist()
        parts = []
        for start, stop in pairwise([*starts, len(row)]):
            places, spans, sides, done = (row[start:stop] == image_token_id).nonzero()[:, 0].tolist(), [], [], 0
            while done < len(places):
                sides.append(next(grids))
                spans.append((places[done], tokens_of_grid(sides[-1])))
                done += spans[-1][1]
            parts.append(positions(stop - start, spans, [(side, side) for side in sides]))
        rows.append(torch.cat(parts, dim=-1))
    return torch.cat(rows, dim=1)


def with_picture(batch: Mapping[str, Any], *, image_size: int, image_token_id: int) -> dict[str, Any]:
    """A batch that holds at least one picture.

    A batch of text alone would leave connector and encoder without gradient on this process, while others wait for it
    to take part. It gets one black picture of one token at the end of its first row, behind all words: no
    other position attends to it and it bears no loss, so that loss and gradients are those of the text (the
    connector's are zero).
    """
    pictures = batch.get("pixel_values")
    if pictures is not None and len(pictures):
        return dict(batch)
    ids = batch["input_ids"]  # (B, N)
    column = ids.new_zeros(len(ids), 1)
    extra = dict.fromkeys(("attention_mask", "position_ids"), column)
    extra |= {"input_ids": column.clone(), "labels": column + IGNORE_INDEX}
    extra["input_ids"][0] = image_token_id
    longer = {key: torch.cat([batch[key], extra[key]], dim=1) for key in extra if batch.get(key) is not None}
    pixel_values = torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8)
    return {**batch, **longer, "pixel_values": pixel_values, "image_grids": torch.ones(1, dtype=torch.long)}


def without_traceback(error: ValueError) -> ValueError:
    """An error of a data worker in its own words; torch puts the worker's whole traceback into the message."""
    message = str(error)
    if not message.startswith("Caught ") or (mark := f"{type(error).__name__}: ") not in message:
        return error
    return ValueError(message.split(mark, 1)[1].rstrip())
