"""Encoders that take pictures of any shape: a camera is not squeezed, and small frames are the class's own."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from videochat_online import MemoryConfig, StreamingSession, load_model
from videochat_online.model.backbone import TRAINED_HERE, memory_on
from videochat_online.streaming.encoding import SharedEncoder
from videochat_online.streaming.state import read_session, write_session

from .conftest import ANY_SHAPE
from .watched import qwen_patches

CAMERA = (90, 160)
"""Height and width; its maps are 12 x 21, 6 x 10 and 3 x 5, and one token is 8 px wide."""
GRIDS = ((12, 21), (6, 10), (3, 5))


def shots(num, size=CAMERA, seed=0):
    return list(np.random.default_rng(seed).integers(0, 255, (num, *size, 3), dtype=np.uint8))


def held(session):
    return [(frame.index, frame.level, frame.features) for frame in session.memory.read()]


def same(one, other):
    assert one.memory.num_tokens == other.memory.num_tokens
    for (index, level, features), (index2, level2, features2) in zip(held(one), held(other), strict=True):
        assert (index, level) == (index2, level2)
        torch.testing.assert_close(features, features2, atol=1e-4, rtol=1e-4)


@pytest.fixture(params=ANY_SHAPE)
def qwen(loaded, request):
    return loaded[request.param]


@torch.no_grad()
def features_of_class(model, frames, grid):
    """(T, C, h, w): what transformers' class gives for pictures that its own processor has prepared."""
    patches, grids = qwen_patches(model, frames)
    assert grids.tolist() == [[1, 2 * grid[0], 2 * grid[1]]] * len(frames)
    found = model.held.model.get_image_features(patches, grids)
    maps = torch.cat(found.pooler_output).view(len(frames), *grid, -1)
    deep = getattr(found, "deepstack_features", None) or ()  # of each layer, a piece a picture
    deep = [torch.cat(tuple(layer)).view(len(frames), *grid, -1) for layer in deep]
    return torch.cat([maps, *deep], dim=-1).permute(0, 3, 1, 2)


def test_small_frames_are_the_features_of_the_smaller_picture(qwen):
    model, processor = qwen
    session, frames = StreamingSession(model, processor), shots(24)
    session.see_many(frames, range(24))
    assert session.memory.grids == GRIDS and session.stats()["frames_held"] == [2, 2, 12]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (processor.transform.mean, processor.transform.std))
    large = processor.frames(frames, (96, 168))
    for level, grid in enumerate(GRIDS):
        size = (8 * grid[0], 8 * grid[1])
        small = [
            ((each * std + mean) * 255).round().byte().permute(1, 2, 0).numpy()
            for each in processor.transform.smaller(large, size)
        ]
        expected = features_of_class(model, small, grid)
        found = [frame for frame in held(session) if frame[1] == level]
        assert len(found) == session.memory.num_held[level]
        for index, _, features in found:
            torch.testing.assert_close(features, expected[index], atol=2e-4, rtol=1e-4)
        # and the smaller picture is what PIL makes of the larger one
        whole = Image.fromarray(((large[0] * std + mean) * 255).round().byte().permute(1, 2, 0).numpy())
        by_pil = np.asarray(whole.resize(size[::-1], Image.Resampling.BICUBIC)).astype(int)
        assert np.abs(small[0].astype(int) - by_pil).max() <= 2  # rarely: PIL rounds between its two passes, too


def test_pooled_frames_are_averages_of_the_whole_map(qwen):
    model, processor = qwen
    session = StreamingSession(model, processor, memory=MemoryConfig.pyramid(small_frames="pooled"))
    frames = shots(24)
    session.see_many(frames, range(24))
    with torch.no_grad():
        maps = model.encode_frames(processor.frames(frames, (96, 168)))
    assert {tuple(features.shape[1:]) for _, _, features in held(session)} == set(GRIDS)
    whole, _, cells = ([frame for frame in held(session) if frame[1] == level] for level in range(3))
    torch.testing.assert_close(whole[0][2], maps[whole[0][0]], atol=1e-5, rtol=1e-5)
    expected = torch.nn.functional.adaptive_avg_pool2d(maps[cells[0][0]], GRIDS[2])
    torch.testing.assert_close(cells[0][2], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("way", ["encoded", "pooled"])
@pytest.mark.parametrize("policy, cascade", [("pyramid", True), ("merge", False), ("uniform", False)])
def test_one_by_one_equals_together_and_bytes_stay_within_the_bound(loaded, way, policy, cascade):
    model, processor = loaded["qwen3_vl"]
    memory = MemoryConfig.pyramid(capacities=(1, 2, 3), policy=policy, cascade=cascade, small_frames=way)
    together, single = (StreamingSession(model, processor, memory=memory) for _ in range(2))
    frames = shots(21)
    frames[5:9] = [frames[4]] * 4
    together.see_many(frames, range(21))
    for k, frame in enumerate(frames):
        single.see(frame, k)
    same(together, single)
    bound = memory_on(model.config, memory).max_cells * model.config.feature_size * 4
    assert 0 < together.stats()["bytes"] <= bound
    square = StreamingSession(model, processor, memory=memory)
    square.see_many(shots(21, (64, 64)), range(21))
    assert square.stats()["bytes"] == bound and square.memory.grids == ((16, 16), (8, 8), (4, 4))


@pytest.mark.parametrize("way", ["encoded", "pooled"])
def test_a_saved_session_goes_on_with_its_shape(loaded, way, tmp_path):
    model, processor = loaded["qwen3_vl"]
    one = StreamingSession(model, processor, memory=MemoryConfig.pyramid(small_frames=way))
    one.save(tmp_path / "empty")
    assert StreamingSession.restore(model, processor, tmp_path / "empty").memory.grids[0] == (16, 16)
    one.see_many(shots(11), range(11))
    one.save(tmp_path / "session")
    again = StreamingSession.restore(model, processor, tmp_path / "session")
    assert again.memory.grids == GRIDS and again.memory.is_encoded == (way == "encoded")
    for session in (one, again):  # frames go down that were seen before, and a frame of another shape comes
        session.see_many([*shots(9, seed=1), *shots(1, (160, 90))], range(11, 21))
    same(one, again)
    assert one.ask("What?", max_new_tokens=4) == again.ask("What?", max_new_tokens=4)


def test_a_later_frame_of_another_shape_stands_between_bars(loaded):
    model, processor = loaded["qwen3_vl"]
    session = StreamingSession(model, processor)
    tall, nearly = np.full((160, 90, 3), 200, np.uint8), np.full((90, 155, 3), 200, np.uint8)
    session.see(shots(1)[0], 0.0)
    pixels = session.prepare([tall, nearly])
    assert pixels.shape == (2, 3, 96, 168)
    black, grey = ((value / 255 - 0.5) / 0.5 for value in (0, 200))
    inside = pixels[0, :, :, 57:111]
    torch.testing.assert_close(inside, torch.full_like(inside, grey))
    for bar in (pixels[0, :, :, :57], pixels[0, :, :, 111:]):
        torch.testing.assert_close(bar, torch.full_like(bar, black))
    torch.testing.assert_close(pixels[1], torch.full_like(pixels[1], grey))  # within 5 %: stretched
    session.see_prepared(pixels, [1.0, 2.0])
    assert session.memory.grids == GRIDS
    session.reset()
    session.see(tall, 0.0)
    assert session.memory.grids[0] == (21, 12), "the next stream has its own shape"


def test_a_refused_first_frame_decides_nothing(loaded):
    session = StreamingSession(*loaded["qwen3_vl"])
    for frames, times in (([shots(1, (160, 90))[0], "no picture"], [0, 1]), (shots(1, (160, 90)), [float("nan")])):
        with pytest.raises(ValueError):
            session.see_many(frames, times)
    session.see(shots(1)[0], 0.0)
    assert session.memory.grids == GRIDS


def test_pixels_of_another_size_are_refused(loaded):
    session = StreamingSession(*loaded["qwen3_vl"])
    session.see(shots(1)[0], 0.0)
    for size, message in (((128, 128), r"grids \(\(12, 21\).* not \(\(16, 16\)"), ((95, 168), "no whole number")):
        with pytest.raises(ValueError, match=message):
            session.see_prepared(torch.zeros(1, 3, *size), [1.0])
    assert session.memory.num_written == 1


def test_pixels_made_elsewhere_decide_the_shape_as_a_first_frame_does(loaded):
    session = StreamingSession(*loaded["qwen3_vl"])
    session.see_prepared(session.encoder.prepare(shots(1)), [0.0])  # squares
    session.see(shots(1)[0], 1.0)
    assert session.memory.grids[0] == (16, 16) and session.memory.num_written == 2


def test_a_session_saved_without_a_shape_is_of_pooled_squares(loaded, tmp_path):
    """As they were before sessions knew of shapes."""
    model, processor = loaded["qwen3_vl"]
    session = StreamingSession(model, processor, memory=MemoryConfig.pyramid(small_frames="pooled"))
    session.see_prepared(session.encoder.prepare(shots(9)), list(range(9)))
    session.save(tmp_path / "session")
    about, tensors = read_session(tmp_path / "session")
    del about["picture_size"], about["memory"]["small_frames"]
    write_session(tmp_path / "older", tensors, about)
    again = StreamingSession.restore(model, processor, tmp_path / "older")
    same(session, again)
    again.see(shots(1)[0], 9.0)
    assert again.memory.grids[0] == (16, 16) and not again.memory.is_encoded


def test_a_session_of_a_model_that_sees_squares_goes_on_as_squares(loaded, folders, tmp_path):
    """As of a Qwen that `train` wrote, continued on the model that it was trained from."""
    folder = shutil.copytree(folders / "qwen3_vl", tmp_path / "trained")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, TRAINED_HERE: "squares, averaged"}))
    one = StreamingSession(*load_model(folder, device="cpu"))
    one.see_many(shots(9), range(9))
    one.save(tmp_path / "session")
    again = StreamingSession.restore(*loaded["qwen3_vl"], tmp_path / "session")
    for session in (one, again):
        session.see(shots(1)[0], 9.0)
    assert again.memory.grids[0] == (16, 16) and again.stats()["frames_seen"] == 10
    assert again.stats()["frames_held"] == one.stats()["frames_held"]


def test_frames_that_hardly_change_are_not_encoded_at_any_scale(loaded):
    model, processor = loaded["qwen3_vl"]
    still = [shots(1)[0]] * 20
    plain, skipping = StreamingSession(model, processor), StreamingSession(model, processor, skip_below=1.0)
    plain.see_many(still, range(20))
    for k, frame in enumerate(still):
        skipping.see(frame, k)
    same(plain, skipping)
    assert skipping.stats()["frames_skipped"] == 19


def test_streams_of_several_shapes_share_an_encoder(loaded):
    from concurrent.futures import ThreadPoolExecutor

    model, processor = loaded["qwen3_vl"]
    sizes = [CAMERA, (160, 90), (64, 64), CAMERA]
    with SharedEncoder(model, processor, wait=0.05) as encoder, ThreadPoolExecutor(4) as pool:
        sessions = [StreamingSession(model, processor, encoder=encoder) for _ in sizes]
        done = [
            pool.submit(session.see_many, shots(9, size, seed), range(9))
            for seed, (session, size) in enumerate(zip(sessions, sizes, strict=True))
        ]
        for each in done:
            each.result()
    for seed, (session, size) in enumerate(zip(sessions, sizes, strict=True)):
        alone = StreamingSession(model, processor)
        alone.see_many(shots(9, size, seed), range(9))
        same(session, alone)


def test_what_cannot_encode_small_frames_says_so(loaded, family):
    model, processor = loaded[family]
    memory = MemoryConfig.pyramid(small_frames="encoded")
    if family in ANY_SHAPE:
        assert StreamingSession(model, processor, memory=memory).memory.is_encoded
        assert StreamingSession(model, processor).memory.is_encoded, "it is what the family was trained on"
        pooled = replace(model.config, small_frames="pooled")
        assert memory_on(pooled).small_frames == "pooled" and "averaged" in pooled.note
        return
    with pytest.raises(ValueError, match=r"cannot be encoded by this \w+ model: .* pictures of one size \(64x64 px\)"):
        StreamingSession(model, processor, memory=memory)
    assert not StreamingSession(model, processor).memory.is_encoded


def test_options_of_a_memory_keep_the_way(loaded):
    way = MemoryConfig.pyramid(small_frames="pooled")
    assert way.adapted(policy="fifo").small_frames == "pooled" == way.for_encoder(16).small_frames
    assert MemoryConfig.from_dict(way.to_dict()) == way and "small_frames" not in MemoryConfig.pyramid().to_dict()
    with pytest.raises(ValueError, match="small_frames must be pooled or encoded, got 'half'"):
        MemoryConfig.pyramid(small_frames="half")
