"""One sample as the model will see it, for people: its prompt as text, its pictures on one sheet."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw, ImageFont

from ..media.transforms import FrameTransform
from ..prompt.render import describe
from .dataset import ConversationDataset
from .formats import read_row

SHEET_COLUMNS = 8
THUMBNAIL = 176
"""Side of a picture on the sheet, pixels."""
CAPTION_HEIGHT = 18
MARGIN = 6


@dataclass(frozen=True)
class SamplePreview:
    """A sample for people."""

    text: str
    """Facts, then the prompt: {n} stands for n image tokens, « » enclose what training asks for."""
    pictures: list[Image.Image]
    """What the encoder gets, as pictures again."""
    captions: list[str]
    """One a picture."""


def preview_sample(dataset: ConversationDataset, set_number: int, row: int) -> SamplePreview:
    """The sample of one row. MediaError or SampleError where it cannot be made: nothing is replaced here."""
    name = dataset.data_sets[set_number].name
    sample = read_row(dataset.annotations[set_number][row])
    with dataset.prepare(set_number, row) as (layout, rendered):
        example = dataset.example(layout, rendered, (name, row))
    grids = ", ".join(f"{count} of {grid}x{grid}" for grid, count in Counter(layout.grids).items())
    lines = [
        f"{name}, row {row}: {sample.kind}, {sample.name}",
        f"{len(rendered.ids)} tokens: {rendered.num_image_tokens} of images, {sum(rendered.loss_mask)} with loss",
        f"{len(layout.grids)} pictures" + (f": {grids}" if grids else ""),
        "",
        describe(rendered, dataset.processor.tokenizer, mark_loss=True),
    ]
    pictures = _as_images(example.pixel_values, dataset.processor.transform)
    return SamplePreview("\n".join(lines), pictures, layout.captions)


def _as_images(pixel_values: torch.Tensor, transform: FrameTransform) -> list[Image.Image]:
    """The normalised (T, 3, S, S) as PIL images."""
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in (transform.mean, transform.std))
    values = ((pixel_values * std + mean) * 255).round().clamp(0, 255).byte()
    return [Image.fromarray(picture) for picture in values.permute(0, 2, 3, 1).contiguous().numpy()]


def contact_sheet(pictures: Sequence[Image.Image], captions: Sequence[str]) -> Image.Image:
    """All pictures in rows of eight, each with its caption below. ValueError without pictures."""
    if not pictures:
        raise ValueError("the sample shows no pictures, so there is no contact sheet to save")
    columns = min(SHEET_COLUMNS, len(pictures))
    step = THUMBNAIL + MARGIN, THUMBNAIL + CAPTION_HEIGHT + MARGIN
    size = columns * step[0] + MARGIN, math.ceil(len(pictures) / columns) * step[1] + MARGIN
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        left, top = MARGIN + number % columns * step[0], MARGIN + number // columns * step[1]
        sheet.paste(picture.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS), (left, top))
        draw.text((left, top + THUMBNAIL + 2), caption, fill="black", font=font)
    return sheet
