"""What counts as a checkpoint, which one is taken, and what is said about those that do not count."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from tests.training.tiny import make_loop, tiny_model
from videochat_online.training import checkpoints
from videochat_online.training.checkpoints import (
    MARKER,
    STAGING,
    Checkpoint,
    check_shape,
    choose_checkpoint,
    drop_old,
    find_checkpoints,
    finish,
    full_disk_named,
    skipped,
)
from videochat_online.training.plan import RunShape

SHAPE = RunShape(world_size=2, strategy="ddp", batch_size=4, accumulation=8)


def make(run: Path, step: int, shape: RunShape = SHAPE) -> Path:
    staged = run / STAGING / f"checkpoint-{step}"
    (staged / "inner").mkdir(parents=True)
    (staged / "weights").write_bytes(b"12345")
    (staged / "inner" / "state").write_bytes(b"1")
    finish(staged, run / staged.name, step, shape)
    return run / staged.name


def test_finish_makes_a_whole_checkpoint(tmp_path: Path):
    folder = make(tmp_path, 5)
    assert find_checkpoints(tmp_path) == [Checkpoint(folder, 5)]
    assert json.loads((folder / MARKER).read_text())["files"] == {"inner/state": 1, "weights": 5}
    assert not (tmp_path / STAGING / folder.name).exists()


def test_the_marker_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """When the marker is written every file has been flushed, and the folder does not have its name yet."""
    flushed: list[Path] = []
    flush, write = checkpoints.flush_tree, checkpoints.write_json

    def note(folder: Path) -> None:
        flushed.extend(checkpoints.files_below(folder))
        flush(folder)

    def check(path: Path, value: object) -> None:
        assert {one.name for one in flushed} == {"weights", "state"} and not (tmp_path / "checkpoint-5").exists()
        write(path, value)

    monkeypatch.setattr(checkpoints, "flush_tree", note)
    monkeypatch.setattr(checkpoints, "write_json", check)
    assert choose_checkpoint("auto", tmp_path) is None
    assert choose_checkpoint("auto", tmp_path) is None
    make(tmp_path, 5)
    assert (tmp_path / "checkpoint-5" / MARKER).exists()


DAMAGE = {
    "no marker": (lambda folder: (folder / MARKER).unlink(), "has no complete.json"),
    "cut off": (lambda folder: (folder / "weights").write_bytes(b"123"), "weights has 3 bytes instead of 5"),
    "file gone": (lambda folder: (folder / "inner" / "state").unlink(), "inner/state is missing"),
    "marker broken": (lambda folder: (folder / MARKER).write_text("{"), "complete.json cannot be read"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_auto_passes_over_what_is_incomplete_and_names_it(tmp_path: Path, name: str):
    damage, reason = DAMAGE[name]
    whole, damaged = make(tmp_path, 9), make(tmp_path, 10)
    damage(damaged)
    assert choose_checkpoint("auto", tmp_path) == Checkpoint(whole, 9)
    said = skipped("auto", tmp_path)
    assert len(said) == 1 and str(damaged) in said[0] and reason in said[0]
    with pytest.raises(ValueError, match=f"checkpoint-10: the checkpoint is incomplete, .*{reason}"):
        choose_checkpoint(str(damaged), tmp_path)


def test_what_was_being_written_is_named(tmp_path: Path):
    (tmp_path / STAGING / "checkpoint-7").mkdir(parents=True)
    assert choose_checkpoint("auto", tmp_path) is None
    said = skipped("auto", tmp_path)
    assert len(said) == 1 and "checkpoint-7, which was being written" in said[0]


def test_numbers_are_compared_not_names(tmp_path: Path):
    for step in (90, 1000, 100):
        make(tmp_path, step)
    (tmp_path / "checkpoint-best").mkdir()
    assert choose_checkpoint("auto", tmp_path) == Checkpoint(tmp_path / "checkpoint-1000", 1000)


def test_a_fresh_run_does_not_walk_over_an_older_one(tmp_path: Path):
    assert choose_checkpoint("never", tmp_path) is None
    make(tmp_path, 3)
    with pytest.raises(ValueError, match="already holds checkpoint-3: resume it with --resume auto"):
        choose_checkpoint("never", tmp_path)


@pytest.mark.parametrize("name", ["no/such/checkpoint-3", "elsewhere", "checkpoint-x"])
def test_a_checkpoint_that_is_not_there(tmp_path: Path, name: str):
    with pytest.raises(ValueError, match="expected never, auto or a folder checkpoint-STEP"):
        choose_checkpoint(str(tmp_path / name), tmp_path)


def test_a_named_checkpoint_that_is_not_the_newest_of_its_run(tmp_path: Path):
    """Resumed, it would take the old branch's later checkpoints for its own."""
    older, newer = make(tmp_path / "run", 4), make(tmp_path / "run", 6)
    with pytest.raises(ValueError, match=r"also holds checkpoint-6, .* move them away, or choose another"):
        choose_checkpoint(str(older), tmp_path / "run")
    assert choose_checkpoint(str(older), tmp_path / "other") == Checkpoint(older, 4)
    assert choose_checkpoint(str(newer), tmp_path / "run") == Checkpoint(newer, 6)
    (newer / MARKER).unlink()
    assert choose_checkpoint(str(older), tmp_path / "run") == Checkpoint(older, 4)


def test_old_ones_go_and_incomplete_ones_stay(tmp_path: Path):
    folders = [make(tmp_path, step) for step in (1, 2, 3, 4)]
    (folders[1] / MARKER).unlink()
    drop_old(tmp_path, keep=2)
    assert [checkpoint.step for checkpoint in find_checkpoints(tmp_path)] == [2, 3, 4]


SHAPES = [
    (RunShape(1, "ddp", 4, 16), None),  # the same samples in each step, on one process
    (RunShape(4, "ddp", 4, 4), None),
    (RunShape(2, "ddp", 4, 4), "2 processes, 8 x 4 samples"),
    (RunShape(2, "ddp", 8, 4), "8 x 8 samples"),
    (RunShape(2, "zero3", 4, 8), "zero3 on 2 processes"),
]


@pytest.mark.parametrize(("shape", "problem"), SHAPES)
def test_the_shape_of_the_run(tmp_path: Path, shape: RunShape, problem: str | None):
    checkpoint = Checkpoint(make(tmp_path, 1), 1)
    if problem is None:
        check_shape(checkpoint, shape)
    else:
        with pytest.raises(ValueError, match=problem) as error:
            check_shape(checkpoint, shape)
        assert "ddp on 2 processes, 16 x 4 samples" in str(error.value)


FULL_DISK = (
    OSError(28, "No space left on device"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    RuntimeError("[enforce fail] PytorchStreamWriter failed writing file data/0"),
)


@pytest.mark.parametrize("error", [*FULL_DISK, RuntimeError("CUDA error: out of memory")], ids=str)
def test_which_errors_mean_a_full_disk(tmp_path: Path, error: Exception):
    is_full = error in FULL_DISK
    naming = full_disk_named(tmp_path / "model", tmp_path, tmp_path / STAGING)
    with pytest.raises(ValueError if is_full else RuntimeError) as raised, naming:
        raise error
    assert (f"{tmp_path / 'model'} could not be written ({error})" in str(raised.value)) == is_full


def test_an_error_that_is_no_full_disk_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    loop = make_loop(tmp_path, count=4)
    monkeypatch.setattr(loop.state, "files", lambda folder, copied: [][0])
    with pytest.raises(IndexError):
        loop.train()


def test_a_disk_that_fills_at_the_last_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    loop = make_loop(tmp_path, count=8, save_every=1)
    write = checkpoints.write_json

    def full(path: Path, value: object) -> None:
        if path.name == MARKER and path.parent.name == "checkpoint-2":
            raise OSError(28, "No space left on device", str(path))
        write(path, value)

    monkeypatch.setattr(checkpoints, "write_json", full)
    with pytest.raises(ValueError, match=r"checkpoint-2 could not be written .*No space left.*checkpoint-1 is whole"):
        loop.train()
    assert choose_checkpoint("auto", tmp_path) == Checkpoint(tmp_path / "checkpoint-1", 1)


def test_a_checkpoint_of_another_shape(tmp_path: Path):
    """Weights that do not fit the model are an error that names them, not a warning."""
    make_loop(tmp_path, count=4).train()
    wider = tiny_model(img_context_token_id=7, downsample_ratio=1.0)
    with pytest.raises(ValueError, match=r"checkpoint-1 .*mlp1"):
        make_loop(tmp_path, count=4, model=wider, resume="auto").train()


def test_checkpoints_hold_the_model_in_the_public_layout(tmp_path: Path):
    from videochat_online.model.weights import load_pretrained

    loop = make_loop(tmp_path, count=4)
    loop.train()
    model = load_pretrained(tmp_path / "checkpoint-1")
    for key, weight in loop.state.model.state_dict().items():
        assert torch.equal(model.state_dict()[key], weight), key
    assert not hasattr(model.config, "use_cache")


def test_a_checkpoint_of_an_earlier_version_is_refused(tmp_path: Path):
    """transformers' Trainer wrote a file of the same name."""
    loop = make_loop(tmp_path, count=4)
    (tmp_path / "trainer_state.json").write_text(json.dumps({"global_step": 1, "log_history": []}))
    with pytest.raises(ValueError, match="was written by an earlier version"):
        loop.state.load(tmp_path)
