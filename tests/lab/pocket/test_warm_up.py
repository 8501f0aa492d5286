"""Stage 0 of the pocket model: its labels, a falling loss, and going on after an interruption."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from videochat_online import load_model
from videochat_online.files import locked
from videochat_online.lab.pocket import warm_up
from videochat_online.lab.pocket.align import AlignSettings
from videochat_online.lab.pocket.warm_up import LabelledFrames, ReadOuts, WarmUpSettings, losses

ALIGN = AlignSettings(scenes=3, steps=2, batch_size=8)
SMALL = WarmUpSettings(steps=6, batch_size=16, warm_up_steps=2, save_every=2, levels=(1,), align=ALIGN)


@pytest.mark.parametrize("number", [2, 3], ids=["stream", "crowds"])
def test_regions_say_what_the_dense_labels_say(number):
    scene = LabelledFrames(SMALL, 0, 8, 64).scene(number)
    assert scene["frames"].shape == (16, 64, 64, 3) and scene["regions"].shape == (16, 9, 3)
    shown = {tuple(facts) for facts in scene["regions"].reshape(-1, 3) if facts[0]}
    cells = np.stack([scene[name] for name in ("shape", "colour", "action")], axis=-1).reshape(-1, 3)
    assert shown and shown <= {tuple(facts) for facts in cells}


def test_frames_are_the_same_every_time_and_shared_by_workers():
    frames = LabelledFrames(SMALL, 5, 8, 64)
    loaded = iter(DataLoader(frames, batch_size=None, num_workers=2))
    for number in (5, 6, 7):
        assert np.array_equal(next(loaded)["frames"], frames.scene(number)["frames"])


def test_a_seed_out_of_range_is_named():
    for settings in (WarmUpSettings, AlignSettings):
        with pytest.raises(ValueError, match="seed must be from 0 to 255, got 256"):
            settings(seed=256)


def test_the_encoder_learns_and_nothing_else_changes():
    torch.manual_seed(0)
    model, processor = load_model("pocket", device="cpu")
    heads = ReadOuts(model.config.vision_config.hidden_size, model.config.feature_size)
    scene = {name: torch.as_tensor(value) for name, value in LabelledFrames(SMALL, 0, 8, 64).scene(1).items()}
    pixels = processor.frames([frame.numpy() for frame in scene.pop("frames")])
    optimizer = torch.optim.AdamW([*model.vision_model.parameters(), *heads.parameters()], lr=1e-3)
    before, sums = {name: p.clone() for name, p in model.language_model.named_parameters()}, []
    for _ in range(12):
        found = losses(model, heads, pixels, scene)
        loss = torch.stack([value for name, value in found.items() if not name.startswith("accuracy")]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        sums.append(float(loss.detach()))
    assert sums[-1] < 0.8 * sums[0]
    assert all(torch.equal(p, before[name]) for name, p in model.language_model.named_parameters())


def test_an_interrupted_run_ends_like_one_that_was_not(tmp_path, monkeypatch):
    whole = warm_up.warm_up(tmp_path / "whole", SMALL, num_workers=0)
    calls = iter(range(5))

    def die_in_the_fourth(*arguments):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return losses(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(warm_up, "losses", die_in_the_fourth)
        warm_up.warm_up(tmp_path / "cut", SMALL, num_workers=0)
    cut = warm_up.warm_up(tmp_path / "cut", SMALL, num_workers=0)
    models = [load_model(folder, device="cpu")[0].state_dict() for folder in (whole, cut)]
    for name, value in models[0].items():
        torch.testing.assert_close(value, models[1][name], atol=1e-6, rtol=1e-5)
    assert json.loads((tmp_path / "cut" / "settings.json").read_text())["steps"] == 6


def test_a_folder_of_other_settings_is_refused(tmp_path):
    warm_up.warm_up(tmp_path, WarmUpSettings(steps=1, batch_size=16, levels=(1,), align=ALIGN), num_workers=0)
    with pytest.raises(ValueError, match="use another folder"):
        warm_up.warm_up(tmp_path, SMALL, num_workers=0)


def test_two_runs_keep_out_of_each_other_and_one_without_steps_is_refused(tmp_path):
    with locked(tmp_path), pytest.raises(ValueError, match="is being written by another process"):
        warm_up.warm_up(tmp_path, SMALL, num_workers=0)
    for settings in (WarmUpSettings, AlignSettings):
        with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
            settings(steps=0)
