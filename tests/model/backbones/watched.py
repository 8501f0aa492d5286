"""Pictures of a model's own size, sessions that saw some, and the class's own inputs for the same pictures."""

import numpy as np
import torch

from videochat_online import StreamingSession
from videochat_online.config import stream_grid

SHAPE = [1, 1]
"""Height and width, in proportion, of the pictures: the fixture `tiny` sets it. Encoders of squares see squares."""


def pictures(model, num, seed=0):
    rng, facts = np.random.default_rng(seed), model.config
    rows, columns = stream_grid(*SHAPE, facts.grid) if facts.any_shape else (facts.grid, facts.grid)
    side = facts.image_size // facts.grid
    return list(rng.integers(0, 255, (num, rows * side, columns * side, 3), dtype=np.uint8))


def watching(tiny, num=20, seed=0, **options):
    session = StreamingSession(*tiny, **options)
    session.see_many(pictures(tiny[0], num, seed), [k / 2 for k in range(num)])
    return session


def class_inputs(tiny, rendered, frames):
    """What transformers' own class is called with, for the ids of our prompt and these pictures."""
    model, processor = tiny
    pixels = processor.frames(frames, processor.picture_size(frames[0], model.config))
    ids = torch.tensor([rendered.ids])
    kind = model.config.model_type
    if kind.startswith("qwen"):
        patches, grids = qwen_patches(model, frames)
        types = (ids == model.config.img_context_token_id).int()
        return {"input_ids": ids, "pixel_values": patches, "image_grid_thw": grids, "mm_token_type_ids": types}
    return {"input_ids": ids, "pixel_values": pixels[None] if kind == "smolvlm" else pixels}


def qwen_patches(model, frames):
    """Patches and grids by transformers' own image processor, which needs no torchvision."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    vision, picture = model.config.own.vision_config, model.config.picture
    made = Qwen2VLImageProcessorPil(
        patch_size=vision.patch_size,
        merge_size=vision.spatial_merge_size,
        image_mean=list(picture["mean"]),
        image_std=list(picture["std"]),
        min_pixels=1,
        max_pixels=10**9,
    )
    found = made(images=frames, return_tensors="pt")
    return found["pixel_values"], found["image_grid_thw"]
