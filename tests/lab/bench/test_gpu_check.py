"""What is to run on a GPU, as far as a CPU can show it: the script rehearsed, the 4B shape on the meta device, and no
wait for a device's value that grows with the number of frames."""

from __future__ import annotations

import ast
import copy
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache

from videochat_online.lab.bench.gpu_check import STEPS, Step, _need_gradients, main
from videochat_online.lab.bench.paper import PUBLISHED_4B
from videochat_online.model.memory_bank import PyramidMemoryBank
from videochat_online.model.videochat import VideoChatOnline
from videochat_online.model_config import VideoChatOnlineConfig
from videochat_online.processing import load_model
from videochat_online.streaming.session import StreamingSession

ROOT = Path(__file__).parents[3]


def test_a_step_writes_what_it_finds_and_the_report_says_what_is_missing(tmp_path: Path):
    assert main(["bank", "--output", str(tmp_path), "--device", "cpu", "--tiny"]) == 0
    row, *fused = json.loads((tmp_path / "bank.json").read_text())["tables"]["the memory bank, a frame"]
    assert (row["way"], len(fused)) == ("plain", os.environ.get("TRITON_INTERPRET") == "1")
    assert row["ms"] > 0 and row["waits_a_batch"] is None  # a CPU has nothing to wait for
    assert main(["report", "--output", str(tmp_path)]) == 0
    page = (tmp_path / "gpu.md").read_text()
    assert page.count("Nothing was measured.") == len(STEPS) - 1 and "the memory bank, a frame" in page


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_says_how_to_rehearse(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["ask", "--output", str(tmp_path)]) == 1
    assert "--device cpu --tiny" in capsys.readouterr().err and not (tmp_path / "ask.json").exists()


@pytest.mark.slow
def test_the_whole_script_rehearsed(tmp_path: Path):
    settings = {**os.environ, "TINY": "1", "PYTHON": sys.executable}
    done = subprocess.run(
        ["bash", str(ROOT / "shell/gpu_check.sh"), str(tmp_path)], env=settings, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    for name in STEPS:
        assert json.loads((tmp_path / f"{name}.json").read_text())["tables"]
    page = (tmp_path / "gpu.md").read_text()
    assert "Nothing was" not in page and "skipped" in page  # the tests that want a GPU, here


@pytest.fixture(scope="module")
def whole() -> VideoChatOnline:
    """The 4B model without weights: every operation checks devices and shapes, none computes."""
    config = VideoChatOnlineConfig(**copy.deepcopy(PUBLISHED_4B))
    with torch.device("meta"):
        return VideoChatOnline(config).to(torch.bfloat16)


def test_frames_of_the_4b_model_stay_on_their_device(whole: VideoChatOnline):
    pixels = torch.empty(8, 3, 448, 448, device="meta", dtype=torch.bfloat16)
    with torch.no_grad():
        maps = whole.encode_frames(pixels)
        tokens = whole.project([maps[0], maps[1][:, :4, :4]])
        logits = whole(inputs_embeds=torch.empty(1, 12_872, 3072, device="meta", dtype=torch.bfloat16),
                       logits_to_keep=1).logits  # fmt: skip
    assert maps.shape == (8, 4096, 16, 16) and tokens.shape == (256 + 16, 3072) and logits.shape[:2] == (1, 1)
    assert {one.device.type for one in (maps, tokens, logits)} == {"meta"}


def test_a_training_step_of_the_4b_model_stays_on_its_device(whole: VideoChatOnline, monkeypatch: pytest.MonkeyPatch):
    # transformers looks whether a row is packed, which reads a value; there is none here
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda positions: None)
    embeds = torch.empty(1, 1024, 3072, device="meta", dtype=torch.bfloat16, requires_grad=True)
    labels = torch.full((1, 1024), 5, device="meta")
    whole(inputs_embeds=embeds, labels=labels, use_cache=False).loss.backward()
    assert embeds.grad is not None and embeds.grad.device.type == "meta"
    weight = whole.language_model.model.layers[0].mlp.down_proj.weight
    assert weight.grad is not None and weight.grad.shape == weight.shape
    whole.zero_grad(set_to_none=True)


class Waits(TorchDispatchMode):
    """Counts what makes a CPU wait for a GPU: a value read as a Python number."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("number", [1, 40])
def test_the_bank_waits_once_a_batch(number: int, monkeypatch: pytest.MonkeyPatch):
    transfers = []
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: transfers.append(self.shape) or self)
    with Waits() as waits:
        PyramidMemoryBank().write(torch.randn(number, 32, 16, 16), list(range(number)))
    assert waits.count == 0 and transfers == [(number, 32)]  # the summaries of the batch


READS = ("cpu", "item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__")
"""Of a tensor, what makes Python wait until the device has it."""


@pytest.mark.parametrize("watches", [False, True], ids=["see", "see, with an instruction"])
def test_a_session_reads_no_value_of_a_frame(watches: bool, monkeypatch: pytest.MonkeyPatch):
    """As many values are read for 4 frames as for 16: those of a batch, and those of a readout, none of each frame."""
    session = StreamingSession(*load_model("pocket", device="cpu"))
    pictures = list(np.random.default_rng(0).integers(0, 255, (16, 64, 64, 3), dtype=np.uint8))
    session.see_many(pictures, list(range(16)))  # what is made once is made
    if watches:
        session.watch_for("Is there a circle?", threshold=0.999)
    reads: list[str] = []
    for name in READS:
        plain = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda self, *args, name=name, plain=plain, **more: reads.append(name)
            or plain(self, *args, **more),
        )  # fmt: skip
    counts = {}
    for number in (4, 16):
        reads.clear()
        with Waits() as waits:
            if watches:  # one readout a call of `see`, whatever came with it
                session.see(pictures[0], session.memory.num_written)
            else:
                session.see_many(pictures[:number], [session.memory.num_written + k for k in range(number)])
        counts[number] = (waits.count, len(reads))
    assert counts[4] == counts[16], (counts, reads)
    assert watches or counts[16] <= (1, 2), (counts, reads)


@pytest.mark.parametrize("through_encoder", [False, True])
def test_step_train_keeps_the_backward_pass_out_of_the_encoder_or_not(through_encoder: bool, tmp_path: Path):
    model, _ = Step("train", tmp_path, torch.device("cpu"), is_tiny=True).large()
    model.requires_grad_(False)
    if through_encoder:
        _need_gradients(model.vision_model)
    maps = model.vision_model(torch.zeros(1, 3, 56, 56))
    assert maps.requires_grad == through_encoder


def test_the_limits_of_all_steps_together_are_under_ten_minutes():
    script = (ROOT / "shell/gpu_check.sh").read_text()
    steps = re.findall(r"^  step (\w+) (\d+)", script, re.MULTILINE)
    grace = int(re.findall(r"--kill-after=(\d+)", script)[0])
    assert [name for name, _ in steps] == ["tests", *STEPS]  # the order of worth, in which the page shows them too
    assert sum(int(seconds) + grace for _, seconds in steps) <= 600


def test_the_4b_models_cache_grows_on_its_device(whole: VideoChatOnline):
    """The prompts of step `ask`: cold, then a question's own tokens, then one."""
    for prompt in (1_256, 12_872):
        cache = DynamicCache()
        for new in (prompt, 30, 1):
            embeds = torch.empty(1, new, 3072, device="meta", dtype=torch.bfloat16)
            seen = cache.get_seq_length()
            positions = torch.arange(seen, seen + new, device="meta")[None]
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                held = {"past_key_values": cache, "use_cache": True}
                logits = whole(inputs_embeds=embeds, position_ids=positions, logits_to_keep=1, **held).logits
            keys = cache.layers[-1].keys
            assert keys is not None and keys.shape == (1, 32, seen + new, 96) and logits.shape == (1, 1, 32020)
            assert {keys.device.type, logits.device.type} == {"meta"} and keys.dtype == torch.bfloat16


MOVES = ("to", "to_empty", "empty", "zeros", "ones", "full", "tensor", "arange", "randn", "as_tensor", "eye")
"""Calls that say where a tensor lies."""


def test_no_tensor_of_the_product_is_moved_to_a_device_by_name():
    """`"cuda"` may be compared with; whatever is moved goes to the device where the model or the pictures are."""
    named = ("cuda", "mps", "xpu")
    for path in sorted((ROOT / "videochat_online").rglob("*.py")):
        if "lab" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                where = f"{path.name}:{node.lineno}"
                assert node.func.attr != "cuda", where
                given = [one.value for one in node.keywords if one.arg in ("device", "device_map")]
                given += node.args if node.func.attr in MOVES else []
                texts = [part for one in given for part in ast.walk(one)]  # also in f"cuda:{rank}"
                words = [one.value for one in texts if isinstance(one, ast.Constant) and isinstance(one.value, str)]
                is_own = path.name == "parts.py" and "LOCAL_RANK" in words  # the process's own, to quantize
                assert is_own or not [word for word in words if word.startswith(named)], where
