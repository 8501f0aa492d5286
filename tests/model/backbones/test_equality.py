"""Held models give the numbers of transformers' own classes: pictures, positions, logits, words."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from videochat_online import MemoryConfig
from videochat_online.model.backbones.families import patches_of

from . import watched
from .conftest import KINDS
from .watched import class_inputs, pictures, qwen_patches, watching

QWEN = ("qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
CLOSE = {"atol": 2e-4, "rtol": 1e-4}
"""Attention over a whole prompt and over a part of it sums in another order."""


def prompt_of(tiny, num=3):
    """A session that keeps whole pictures, its prompt, and these pictures."""
    session = watching(tiny, num, memory=MemoryConfig.recent(num))
    rendered, held = session.prompt("What is happening now?")
    return session, rendered, held, pictures(tiny[0], num)


@torch.no_grad()
def logits_of(session, rendered, held):
    embeds, positions = session.language.embed(rendered, held), session.language.positions(rendered, held)
    return session.model(inputs_embeds=embeds, position_ids=positions).logits[0]


# llava_onevision shows frames as its class shows those of a video: see the test of that
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "llava_onevision"], indirect=True)
def test_logits_and_words_equal_the_class_on_whole_pictures(tiny):
    session, rendered, held, frames = prompt_of(tiny)
    inputs = class_inputs(tiny, rendered, frames)
    with torch.no_grad():
        expected = session.model.held(**inputs).logits[0]
    torch.testing.assert_close(logits_of(session, rendered, held), expected, **CLOSE)
    ends = session.processor.end_token_ids
    made = session.model.held.generate(
        **inputs, max_new_tokens=8, do_sample=False, eos_token_id=ends, pad_token_id=ends[0]
    )
    session.model.held.model.rope_deltas = None  # what the class's own call leaves behind
    session.ask("What is happening now?", max_new_tokens=8)
    assert session._last_answer.ids == made[0, len(rendered.ids) :].tolist()
    assert len(set(session._last_answer.ids)) > 1, "these weights say one word only"


def test_llava_onevision_equals_its_class_as_video(loaded):
    """Up to the end of the last frame, behind which the class puts its newline."""
    tiny = loaded["llava_onevision"]
    session, rendered, held, frames = prompt_of(tiny)
    model, (start, num_tokens) = session.model, rendered.image_spans[-1]
    video, image = model.config.own.video_token_id, model.config.img_context_token_id
    ids = [video if token == image else token for token in rendered.ids[: start + num_tokens]]
    pixels = session.processor.frames(frames)[None]
    with torch.no_grad():
        expected = model.held(input_ids=torch.tensor([[*ids, video]]), pixel_values_videos=pixels).logits[0, : len(ids)]
    torch.testing.assert_close(logits_of(session, rendered, held)[: len(ids)], expected, **CLOSE)


@pytest.mark.parametrize("name", QWEN)
def test_positions_equal_the_class(loaded, name):
    """Of grids as the memory holds them, and of oblong ones."""
    model, _ = loaded[name]
    image, merge = model.config.img_context_token_id, model.config.own.vision_config.spatial_merge_size
    grids, ids, spans = [(4, 4), (2, 7), (1, 1), (6, 3)], [11, 12], []
    for height, width in grids:
        spans.append((len(ids), height * width))
        ids += [image] * (height * width) + [21] * height
    ids += [13, 14, 15]
    tokens = torch.tensor([ids])
    expected, _ = model.held.model.get_rope_index(
        tokens,
        image_grid_thw=torch.tensor([[1, h * merge, w * merge] for h, w in grids]),
        attention_mask=torch.ones_like(tokens),
        mm_token_type_ids=(tokens == image).int(),
    )
    found = model.positions(len(ids), spans, grids)
    assert torch.equal(found[1:], expected) and found[0, 0].tolist() == list(range(len(ids)))


@pytest.mark.parametrize("shape, grid", [((1, 1), (16, 16)), ((9, 16), (12, 21)), ((16, 9), (21, 12))])
@pytest.mark.parametrize("name", QWEN)
def test_patches_equal_the_image_processor(loaded, name, shape, grid, monkeypatch):
    monkeypatch.setattr(watched, "SHAPE", shape)
    model, processor = loaded[name]
    frames = pictures(model, 2)
    patches, grids = qwen_patches(model, frames)
    vision = model.config.own.vision_config
    pixels = processor.frames(frames, processor.picture_size(frames[0], model.config))
    ours = patches_of(pixels, vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size)
    torch.testing.assert_close(ours, patches.to(ours.dtype), atol=1e-5, rtol=1e-5)
    assert grids.tolist() == [[1, 2 * grid[0], 2 * grid[1]]] * 2


@pytest.mark.parametrize(
    "name, resample", [("smolvlm", Image.Resampling.LANCZOS), ("internvl", Image.Resampling.BICUBIC)]
)
def test_a_camera_picture_is_resized_as_by_the_image_processor(loaded, name, resample):
    model, processor = loaded[name]
    frame = np.random.default_rng(1).integers(0, 255, (90, 160, 3), dtype=np.uint8)
    side, recipe = model.config.image_size, model.config.picture
    resized = np.asarray(Image.fromarray(frame).resize((side, side), resample), dtype=np.float32) / 255
    expected = torch.from_numpy((resized - np.float32(recipe["mean"])) / np.float32(recipe["std"])).permute(2, 0, 1)
    limit = 2 / 255 / min(recipe["std"])  # torch's kernel and PIL's differ by 1 of 255, rarely by 2
    assert float((processor.frames([frame])[0] - expected).abs().max()) <= (1e-5 if name == "smolvlm" else limit)


def test_a_cut_cache_that_is_continued_equals_a_cold_one(tiny):
    """Cut in text, before, behind and inside a picture, of a prompt with pooled pictures."""
    session = watching(tiny, 9)
    rendered, held = session.prompt("What is happening now?")
    embeds, positions = session.language.embed(rendered, held), session.language.positions(rendered, held)
    whole = torch.arange(len(rendered.ids))[None] if positions is None else positions
    cold, (start, num_tokens) = logits_of(session, rendered, held), rendered.image_spans[2]
    for cut in (2, start, start + 1, start + num_tokens // 2, start + num_tokens, len(rendered.ids) - 2):
        cache = session.model.new_cache()
        with torch.no_grad():
            session.model(inputs_embeds=embeds, position_ids=whole, cache=cache, use_cache=True)
            cache.crop(cut - len(rendered.ids))
            rest = {"inputs_embeds": embeds[:, cut:], "position_ids": whole[..., cut:]}
            again = session.model(**rest, cache=cache, use_cache=True).logits[0]
        torch.testing.assert_close(again, cold[cut:], **CLOSE)


def test_filled_cold_and_beam_generation_agree(tiny):
    session = watching(tiny, 9)
    rendered, held = session.prompt("What is happening now?")
    embeds, positions = session.language.embed(rendered, held), session.language.positions(rendered, held)
    options = {"inputs_embeds": embeds, "position_ids": positions, "max_new_tokens": 6, "pad_token_id": 0}
    cold = session.model.generate(**options)
    cache = session.model.new_cache()
    whole = torch.arange(len(rendered.ids))[None] if positions is None else positions
    with torch.no_grad():
        session.model(
            inputs_embeds=embeds[:, :-1], position_ids=whole[..., :-1], cache=cache, use_cache=True, logits_to_keep=1
        )
    assert torch.equal(session.model.generate(**options, cache=cache), cold)
    beams = session.model.generate(**options, num_beams=3, num_return_sequences=3)
    assert len(beams) == 3
    scores = [score_of(session, embeds, whole, ids) for ids in (cold[0], beams[0])]
    assert scores[1] >= scores[0] - 1e-3, "a search over three ways found a worse one than no search"


@torch.no_grad()
def score_of(session, embeds, positions, ids):
    """Log-probability of an answer, computed cold."""
    more = torch.cat([embeds, session.model.embed(ids[None, :-1])], dim=1)
    after = positions[..., -1:] + torch.arange(1, len(ids))
    logits = session.model(inputs_embeds=more, position_ids=torch.cat([positions, after], dim=-1)).logits[0]
    chances = logits[-len(ids) :].log_softmax(-1)
    return float(chances[torch.arange(len(ids)), ids].sum())
