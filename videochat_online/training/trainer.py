"""transformers' Trainer with our batches, our loss, checkpoints that are whole or not there, and speed in the log.

Loss: the cross entropy of all loss-bearing tokens of a step, over all batches and processes, divided by their number.
It is a mean over tokens, not over samples: a long answer weighs more than a short one, and it does not matter how the
samples were spread over batches, sequences or processes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import TrainerCallback

from .batches import BatchPlan, ProcessBatches, with_picture
from .checkpoints import STAGING, RunShape, drop_old, finish, is_write_error, write_failure
from .monitor import (
    Curves,
    LogBeforeSaving,
    LogFile,
    SaveOnSignal,
    Throughput,
    leave_sigterm_to_the_trainer,
    summary,
)
from .weights import load_weights, sampled_weights, save_weights

IGNORE = -100


class OnlineTrainer(Trainer):
    """Trains a VideoChatOnline on the batches of a plan."""

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        *,
        dataset: Dataset,
        collator: Callable[[list[Any]], dict[str, Any]],
        plan: BatchPlan,
        shape: RunShape,
        processor: Any = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        """`processor` is saved beside the weights, so that a checkpoint is a model folder that loads."""
        self.run_folder = Path(str(args.output_dir))
        self.dataset = dataset
        self.plan = plan
        self.shape = shape
        self.processor = processor
        self.begun = sampled_weights(model)
        self.throughput = Throughput()
        self.signals = SaveOnSignal(self._any_process)
        self.num_kept = args.save_total_limit or 1
        own: list[TrainerCallback] = [
            self.signals,
            LogBeforeSaving(),
            LogFile(self.run_folder),
            TellEpoch(plan.num_steps),
        ]
        own += [Curves(self.run_folder)] if plan.config.tracker == "tensorboard" else []
        uses_cache = getattr(model.config, "use_cache", None)
        super().__init__(model, args, data_collator=collator, train_dataset=dataset, callbacks=own + (callbacks or []))
        _restore_use_cache(model.config, uses_cache)
        self.model_accepts_loss_kwargs = True  # the loss is divided in compute_loss, not once more by the Trainer

    # Batches

    def get_train_dataloader(self) -> DataLoader:
        """Not prepared by accelerate: the plan shares the batches out, and batches are moved to the device later."""
        batches = ProcessBatches(self.plan, world_size=self.args.world_size, rank=self.args.process_index)
        workers = self.args.dataloader_num_workers
        config: Any = self.accelerator.unwrap_model(self.model).config
        return DataLoader(
            self.dataset,
            batch_sampler=batches,
            collate_fn=Collate(self.data_collator, config.image_size, config.img_context_token_id),
            num_workers=workers,
            pin_memory=self.args.dataloader_pin_memory,
            worker_init_fn=leave_sigterm_to_the_trainer,
            generator=torch.Generator().manual_seed(self.args.seed),  # workers' seeds leave the global state alone
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], torch.Tensor]:
        """The batches of one step and the number of its loss-bearing tokens over all processes."""
        began = self.throughput.clock()
        batches = [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        self.throughput.waiting += self.throughput.clock() - began
        for batch in batches:
            self.throughput.count(batch, batch.pop("num_tokens"), batch.pop("num_images"))
        count = sum((batch["labels"][:, 1:] != IGNORE).sum() for batch in batches)
        total = self.accelerator.gather(torch.as_tensor(count, device=device).reshape(1)).sum()
        return batches, total.clamp(min=1)

    # Loss

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """This batch's part of the step's loss; logits (B, K, vocabulary) are made at the K positions that bear any.

        The cache stays off: with one, transformers does not see where a packed sample begins. Padding stands at the
        end, where no word looks at it and no loss is: without a mask of it the kernels skip half of the attention.
        """
        inputs = {name: value for name, value in inputs.items() if name != "attention_mask" or value.ndim != 2}
        targets, positions = next_tokens(inputs.pop("labels"))
        outputs = model(**inputs, use_cache=False, logits_to_keep=positions)
        logits = outputs.logits.float().flatten(0, 1)  # (B * K, vocabulary)
        loss = cross_entropy(logits, targets.flatten(), ignore_index=IGNORE, reduction="sum")
        count = (targets != IGNORE).sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        scale = 1 if num_items_in_batch is None else self.args.world_size  # gradients are averaged over processes
        loss = loss / count * scale
        return (loss, outputs) if return_outputs else loss

    # Log

    def train(self, *args: Any, **kwargs: Any) -> Any:
        self.throughput.restart()
        return super().train(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            numbers = torch.tensor([self.throughput.numbers()], dtype=torch.float64, device=self.args.device)
            logs.update(summary(self.accelerator.gather(numbers).cpu()))
            self.throughput.restart()
        if "train_loss" in logs:  # the Trainer's own leaves out what was trained before a checkpoint
            logs["train_loss"] = mean_loss(self.state.log_history)
        super().log(logs, start_time)

    def _any_process(self, here: bool) -> bool:
        if self.args.world_size == 1:
            return here
        return bool(self.accelerator.gather(torch.tensor([int(here)], device=self.args.device)).any())

    # Checkpoints

    def _get_output_dir(self, trial: Any) -> str:
        """Where the Trainer writes a checkpoint's files: the staging folder."""
        return str(self.run_folder / STAGING)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """1. an empty staging folder 2. the Trainer's files 3. flush, marker, rename 4. older checkpoints go.

        The time it takes is left out of the log's speeds. Raises SaveError where the disk takes no more.
        """
        began = self.throughput.clock()
        run_folder, name = self.run_folder, f"checkpoint-{self.state.global_step}"
        staging = run_folder / STAGING
        try:
            if self.args.should_save:
                shutil.rmtree(staging, ignore_errors=True)
            self.accelerator.wait_for_everyone()
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                finish(staging / name, run_folder / name, self.state.global_step, self.shape)
                staging.rmdir()
                drop_old(run_folder, self.num_kept)
        except Exception as error:
            if not is_write_error(error):
                raise
            shutil.rmtree(staging, ignore_errors=True)  # what was written of it only takes room
            raise write_failure(error, run_folder / name, run_folder) from error
        self.accelerator.wait_for_everyone()
        self.throughput.start += self.throughput.clock() - began

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if self.args.should_save:
            folder = str(output_dir or self.run_folder)
            save_weights(self.accelerator.unwrap_model(self.model), folder, state_dict)
            if self.processor is not None:
                self.processor.save_pretrained(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_weights(model or self.model, Path(resume_from_checkpoint))


class TellEpoch(TrainerCallback):
    """Tells batches and data set which epoch begins, before its worker processes start."""

    def __init__(self, steps_per_epoch: int) -> None:
        self.steps_per_epoch = steps_per_epoch

    def on_epoch_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **kwargs: Any) -> None:
        epoch = state.global_step // self.steps_per_epoch
        train_dataloader.batch_sampler.set_epoch(epoch)
        train_dataloader.dataset.set_epoch(epoch)


class Collate:
    """The data set's collator, counts for the log, and a borrowed picture for batches of text alone."""

    def __init__(self, collator: Callable[[list[Any]], dict[str, Any]], image_size: int, image_token_id: int) -> None:
        self.collator = collator
        self.image_size = image_size
        self.image_token_id = image_token_id

    def __call__(self, examples: list[Any]) -> dict[str, Any]:
        batch = self.collator(examples)
        counts = {
            "num_tokens": sum(len(example.input_ids) for example in examples),
            "num_images": sum(len(example.image_grids) for example in examples),
        }
        return counts | with_picture(batch, image_size=self.image_size, image_token_id=self.image_token_id)


def next_tokens(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels (B, N) -> the next token's at the K positions that need logits (B, K), and those positions (K,).

    At least one position is kept, so that a batch without loss still goes through the whole model.
    """
    targets = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORE)
    wanted = (targets != IGNORE).any(dim=0)
    wanted[0] |= ~wanted.any()
    positions = wanted.nonzero()[:, 0]
    return targets[:, positions], positions


def mean_loss(history: list[dict[str, Any]]) -> float:
    """The mean over all steps of a run, of the lines of its log (each a mean since the line before)."""
    total, last = 0.0, 0
    for line in history:
        if "loss" in line:
            total += line["loss"] * (line["step"] - last)
            last = line["step"]
    return total / max(last, 1)


def _restore_use_cache(config: Any, before: bool | None) -> None:
    """The Trainer notes use_cache=False in the model's config, which would be saved with the model."""
    if before is None:
        vars(config).pop("use_cache", None)
    else:
        config.use_cache = before
