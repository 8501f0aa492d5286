"""The pyramid memory bank against recorded values of the published one, and against a plain re-implementation."""

from __future__ import annotations

import hashlib
import importlib.util
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from videochat_online.config import MEMORY_POLICIES, MemoryConfig
from videochat_online.model.memory_bank import PyramidMemoryBank


def random_maps(num_frames, channels=6, grid=16, seed=0):
    maps = torch.randn(num_frames, channels, grid, grid, generator=torch.Generator().manual_seed(seed))
    return maps.cumsum(0) * 0.3 + torch.randn(1, channels, 1, 1, generator=torch.Generator().manual_seed(seed + 1))


def same_bank(one, other):
    left, right = one.state_dict(), other.state_dict()
    assert left.keys() == right.keys()
    for key in left:
        assert torch.equal(left[key], right[key]), key


@pytest.fixture(scope="module")
def recorded(golden):
    spec = importlib.util.spec_from_file_location("gen_maps", golden / "gen_maps.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    data = json.loads((golden / "memory_bank.json").read_text())
    maps = {}
    for name, how in data["generators"].items():
        values = module.gen_maps(how["kind"], how["T"], how["C"], how["seed"])
        assert hashlib.sha256(values.tobytes()).hexdigest() == how["sha256"]
        maps[name] = torch.from_numpy(values).permute(0, 3, 1, 2)
    return data["cases"], maps, np.load(golden / "memory_bank_arrays.npz")


def test_equals_the_published_bank(recorded):
    cases, maps, arrays = recorded
    compared_events = 0
    for case in cases:
        features = maps[case["gen"]]
        bank = PyramidMemoryBank(MemoryConfig.pyramid(capacities=tuple(case["capacities"])))
        events = bank.write(features, range(len(features)))
        until = case["first_fragile_event"]  # from there on float noise decides in the published code
        for event, expected in zip(events[:until], case["events"][:until], strict=until is None):
            assert [event.step, event.from_level, event.position, event.frame, event.to_level] == expected[:5]
            assert event.similarity == pytest.approx(expected[5], abs=1e-4)
            compared_events += 1
        if until is not None:
            continue
        frames = bank.read()
        assert [f.index for f in frames] == case["indices"]
        assert [f.num_tokens for f in frames] == case["token_counts"]
        groups = [sorted(f.index for f in frames if f.level == k) for k in range(3)]
        assert groups == [sorted(group) for group in case["groups"]]
        means = torch.stack([f.features.mean((1, 2)) for f in frames])
        np.testing.assert_allclose(means, arrays[f"{case['name']}/frame_mean"], atol=1e-4)
        if f"{case['name']}/tokens" in arrays:
            tokens = torch.cat([f.features.flatten(1).t() for f in frames])
            np.testing.assert_allclose(tokens, arrays[f"{case['name']}/tokens"], atol=1e-4)
    assert compared_events > 4000


@pytest.mark.parametrize("grids", [(16, 8, 4), (8, 8, 4), (12, 5, 5)])
def test_chunks_are_alike_on_any_grids(grids):
    features, config = random_maps(120), MemoryConfig.pyramid(grids=grids, capacities=(2, 3, 5), cascade=True)
    whole, single = PyramidMemoryBank(config), PyramidMemoryBank(config)
    whole.write(features, range(120))
    for k in range(120):
        single.write(features[k : k + 1], [k])
    same_bank(whole, single)
    if grids[1] != 5:  # equal cells: each map is still its own frame's
        for frame in whole.read():
            torch.testing.assert_close(frame.features.mean((1, 2)), features[frame.index].mean((1, 2)))


@pytest.mark.parametrize("policy", MEMORY_POLICIES)
@pytest.mark.parametrize("cascade", [False, True])
@pytest.mark.parametrize("capacities", [(2, 3, 5), (2, 0, 5), (0, 3, 5), (2, 0, 0)])
def test_encoded_frames_keep_the_maps_they_came_with(policy, cascade, capacities):
    """Every map is the one that was given for this frame and level, however many frames come at once."""
    config = MemoryConfig.pyramid(policy=policy, cascade=cascade, capacities=capacities, small_frames="encoded")
    grids = ((12, 21), (6, 10), (3, 5))
    given = [torch.randn(80, 6, *grid, generator=torch.Generator().manual_seed(k)) for k, grid in enumerate(grids)]
    banks = []
    for size in (80, 1, 7):
        bank = PyramidMemoryBank(config)
        bank.reset(grids)
        for first in range(0, 80, size):
            last = min(80, first + size)
            maps = {k: given[k][first:last][places] for k, places in bank.wanted(last - first).items()}
            bank.write(maps, range(first, last))
        banks.append(bank)
        same_bank(banks[0], bank)
    for frame in bank.read():
        if frame.num_merged == 1:
            assert torch.equal(frame.features, given[frame.level][frame.index])
    assert bank.num_bytes == 4 * 6 * sum(
        capacities[k] * sum(h * w for j, (h, w) in enumerate(grids) if j >= k and capacities[j]) for k in range(3)
    )
    again = PyramidMemoryBank(config)
    again.reset(grids)
    again.load_state_dict(bank.state_dict())
    for one in (bank, again):
        one.write({k: given[k][:16][places] for k, places in one.wanted(16).items()}, range(80, 96))
    same_bank(bank, again)


@pytest.mark.parametrize("policy", MEMORY_POLICIES)
@pytest.mark.parametrize("cascade", [False, True])
@pytest.mark.parametrize("layout", ["channels_last", "channels_first"])
def test_one_by_one_in_chunks_or_at_once(policy, cascade, layout):
    features = random_maps(200)
    features[50:70] = features[50]  # a still scene: ties
    if layout == "channels_last":
        features = features.to(memory_format=torch.channels_last)
    config = MemoryConfig.pyramid(policy=policy, cascade=cascade, capacities=(2, 3, 5))
    times = np.arange(200) / 2.0
    whole = PyramidMemoryBank(config)
    events = whole.write(features, times)
    for sizes in ([1] * 200, [7] * 29, [1, 64, 3, 132]):
        bank, chunked_events, at = PyramidMemoryBank(config), [], 0
        for size in sizes:
            chunked_events += bank.write(features[at : at + size], times[at : at + size])
            at += size
        assert chunked_events == events
        same_bank(bank, whole)


@pytest.mark.parametrize("order", [(2, 3, 0, 1), (0, 3, 2, 1), (0, 1, 3, 2)])
@pytest.mark.parametrize("step", [1, 2])
def test_chunks_are_alike_in_any_memory_layout(order, step):
    features = random_maps(120).permute(order).contiguous().permute(np.argsort(order).tolist())[::step]
    config = MemoryConfig.pyramid(grids=(16, 9, 1), capacities=(2, 3, 5), cascade=True)
    whole, single = PyramidMemoryBank(config), PyramidMemoryBank(config)
    whole.write(features, range(len(features)))
    for k in range(len(features)):
        single.write(features[k : k + 1], [k])
    same_bank(whole, single)


def plain_bank(features, capacities, *, cascade):
    """The rule of arXiv 2501.00584 said as plainly as possible: every cosine again at each insert."""
    grids, every = (16, 8, 4), (8, 4, 1)
    levels: list[list[tuple[int, torch.Tensor]]] = [[], [], []]

    def insert(level, frame, demoted):
        group = levels[level]
        if len(group) == capacities[level]:
            means = torch.stack([m.double().mean((1, 2)) for _, m in group])
            at = int(F.cosine_similarity(means[:-1], means[1:]).float().argmax()) if len(group) > 1 else 0
            number, pushed = group.pop(at)
            if level < 2 and (cascade or not demoted):
                insert(level + 1, (number, F.adaptive_avg_pool2d(pushed, grids[level + 1])), True)
        group.append(frame)

    for number, features_of_frame in enumerate(features):
        level = next(k for k in range(3) if number % every[k] == 0)
        insert(level, (number, F.adaptive_avg_pool2d(features_of_frame, grids[level])), False)
    held = [(number, k, m) for k, group in enumerate(levels) for number, m in group]
    return sorted(held, key=lambda entry: entry[0])


@pytest.mark.parametrize("cascade", [False, True])
@pytest.mark.parametrize("capacities", [(2, 2, 12), (1, 1, 1), (3, 1, 4), (6, 5, 2)])
def test_equals_a_plain_implementation(capacities, cascade):
    features = random_maps(150, seed=3)
    bank = PyramidMemoryBank(MemoryConfig.pyramid(capacities=capacities, cascade=cascade))
    bank.write(features, range(150))
    expected = plain_bank(features, capacities, cascade=cascade)
    frames = bank.read()
    assert [(f.index, f.level) for f in frames] == [(number, level) for number, level, _ in expected]
    for frame, (_, _, values) in zip(frames, expected, strict=True):
        torch.testing.assert_close(frame.features, values, atol=1e-5, rtol=1e-5)


def test_a_level_of_capacity_zero_passes_its_frames_down():
    bank = PyramidMemoryBank(MemoryConfig.pyramid(capacities=(0, 2, 4)))
    bank.write(random_maps(100), range(100))
    assert bank.num_held == (0, 2, 4)
    no_middle = PyramidMemoryBank(MemoryConfig.pyramid(capacities=(2, 0, 4)))
    no_middle.write(random_maps(100), range(100))
    assert no_middle.num_held == (2, 0, 4)
    top_only = PyramidMemoryBank(MemoryConfig.pyramid(capacities=(2, 0, 0)))
    top_only.write(random_maps(100), range(100))
    assert top_only.num_held == (2, 0, 0)
    assert all(f.index % 8 == 0 for f in top_only.read())


def test_arrivals_say_where_each_frame_came_in():
    bank = PyramidMemoryBank(MemoryConfig.pyramid(capacities=(2, 0, 4)))
    events = bank.write(random_maps(9), range(9))
    assert events.arrivals == [(number, 2 if number % 8 else 0) for number in range(9)]
    assert bank.write(random_maps(1), [9]).arrivals == [(9, 2)]
    top_only = PyramidMemoryBank(MemoryConfig.pyramid(capacities=(2, 0, 0)))
    assert top_only.write(random_maps(2), range(2)).arrivals == [(0, 0), (1, -1)]


def test_policies_keep_what_they_say():
    features, times = random_maps(64), np.arange(64.0)

    def kept(policy):
        bank = PyramidMemoryBank(MemoryConfig.single(policy, capacity=8, grid=4))
        bank.write(features, times)
        return bank.read()

    assert [f.index for f in kept("fifo")] == list(range(56, 64))
    assert [f.index for f in kept("recent")] == list(range(56, 64))
    spread = [f.index for f in kept("uniform")]
    assert spread[0] == 0 and spread[-1] == 63
    gaps = np.diff(spread[:-1])  # the newest frame is always there, however near its neighbour
    assert gaps.max() <= 2 * gaps.min()
    merged = kept("merge")
    assert sum(f.num_merged for f in merged) == 64  # nothing is thrown away, only averaged
    total = sum(f.features.mean((1, 2)) * f.num_merged for f in merged)
    torch.testing.assert_close(total, features.mean((2, 3)).sum(0), atol=1e-3, rtol=1e-3)


def test_never_grows():
    config = MemoryConfig.pyramid(capacities=(2, 2, 12))
    bank = PyramidMemoryBank(config)
    features = random_maps(100, channels=4)
    bytes_held = set()
    for start in range(0, 10_000, 100):
        bank.write(features, np.arange(start, start + 100) / 8.0)
        bytes_held.add(bank.num_bytes)
        assert len(bank) <= config.capacity and bank.num_tokens <= config.max_tokens
    assert bytes_held == {config.max_tokens * 4 * 4}
    assert bank.num_written == 10_000
    assert [f.index for f in bank.read()] == sorted(f.index for f in bank.read())


def test_what_was_read_stays_as_it_was():
    bank = PyramidMemoryBank()
    features = random_maps(60)
    bank.write(features[:30], range(30))
    frames = bank.read()
    before = [f.features.clone() for f in frames]
    bank.write(features[30:], range(30, 60))
    assert all(torch.equal(f.features, b) for f, b in zip(frames, before, strict=True))


@pytest.mark.parametrize("policy", MEMORY_POLICIES)
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_state_dict_goes_on_where_it_was(policy, layout, tmp_path):
    """To the last bit, also through a file, which keeps no memory layout."""
    features = random_maps(90).contiguous(memory_format=layout)
    config = MemoryConfig.pyramid(policy=policy, capacities=(2, 2, 6))
    bank, restored = PyramidMemoryBank(config), PyramidMemoryBank(config)
    bank.write(features[:50], range(50))
    save_file({key: value.contiguous() for key, value in bank.state_dict().items()}, tmp_path / "bank")
    restored.load_state_dict(load_file(tmp_path / "bank"))
    same_bank(bank, restored)
    bank.write(features[50:], range(50, 90))
    restored.write(features[50:], range(50, 90))
    same_bank(bank, restored)
    with pytest.raises(ValueError, match=r"level2.features has shape \(6, 6, 4, 4\), expected \(1, 6, 4, 4\)"):
        PyramidMemoryBank(MemoryConfig.pyramid(capacities=(2, 2, 1))).load_state_dict(bank.state_dict())


def test_reset_forgets_everything():
    bank = PyramidMemoryBank()
    bank.write(random_maps(40), range(40))
    bank.reset()
    assert len(bank) == bank.num_tokens == bank.num_written == bank.num_bytes == 0 and bank.read() == []
    bank.write(random_maps(1, channels=3), [0.0])
    assert bank.read()[0].index == 0


def test_other_grids_and_maps_that_do_not_divide():
    config = MemoryConfig.pyramid(grids=(7, 3, 2), capacities=(2, 2, 4))
    bank = PyramidMemoryBank(config)
    features = random_maps(50, grid=7)
    bank.write(features, range(50))
    for frame in bank.read():
        side = config.grids[frame.level]
        assert frame.features.shape == (6, side, side)


def test_equal_token_budgets():
    like = MemoryConfig.pyramid()
    assert like.max_tokens == 832 and like.capacity == 16
    for policy in MEMORY_POLICIES:
        assert 832 - 256 < MemoryConfig.of_budget(policy, like).max_tokens <= 832
    assert MemoryConfig.from_dict(like.to_dict()) == like


def test_empty_batch_is_no_event():
    bank = PyramidMemoryBank()
    events = bank.write(torch.zeros(0, 4, 16, 16), [])
    assert events == [] and events.arrivals == []
    assert len(bank) == 0


@pytest.mark.gpu
def test_on_cuda_features_stay_on_the_device():
    bank, reference = PyramidMemoryBank(), PyramidMemoryBank()
    features = random_maps(100)
    assert bank.write(features.cuda(), range(100)) == reference.write(features, range(100))
    assert all(f.features.is_cuda for f in bank.read())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_on_cuda_chunks_change_no_bit(layout, dtype):
    maps = random_maps(64, channels=96).to("cuda", dtype, memory_format=layout)
    whole, chunked = PyramidMemoryBank(), PyramidMemoryBank()
    whole.write(maps, range(64))
    for first, end in ((0, 1), (1, 2), (2, 9), (9, 41), (41, 64)):
        chunked.write(maps[first:end], range(first, end))
    same_bank(whole, chunked)
