"""A contact sheet of scenes: frames, what every thing does over time, and questions with their answers. PIL only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ...files import whole
from .questions.engine import ask_questions
from .questions.types import LETTERS, WorldQuestion
from .render import render_frames
from .scenes import Scene, Segment, Thing
from .vocabulary import ACTION_NAMES, COLOUR_NAMES, COLOURS, GOAL_NAMES, REGION_NAMES

FRAMES, FRAME = 10, 112
GAP, MARGIN, LABEL = 8, 24, 150
WIDTH = 2 * MARGIN + FRAMES * FRAME + (FRAMES - 1) * GAP
BAR, LINE, COLUMNS = 22, 17, 2
PAPER, INK, FAINT, RIGHT = (250, 249, 246), (38, 40, 46), (132, 136, 146), (18, 128, 70)
FILLS = {
    "act": (255, 221, 138), "move": (170, 208, 250), "rest": (226, 226, 222), "meet": (245, 180, 205),
    "enter": (205, 232, 190), "leave": (240, 196, 176), "hide": (204, 178, 150), "away": (250, 249, 246),
}  # fmt: skip


def scene_sheet(scenes: Sequence[Scene], num_questions: int = 8) -> Image.Image:
    """One block a scene, below each other; the picture is WIDTH pixels wide."""
    if not scenes:
        raise ValueError("a contact sheet needs at least one scene")
    blocks = [_block(scene, num_questions) for scene in scenes]
    sheet = Image.new("RGB", (WIDTH, sum(block.height for block in blocks)), PAPER)
    top = 0
    for block in blocks:
        sheet.paste(block, (0, top))
        top += block.height
    return sheet


def write_preview(path: str | Path, scenes: Sequence[Scene], num_questions: int = 8) -> Path:
    """Save the contact sheet as PNG."""
    path = Path(path)
    with whole(path) as beside:
        scene_sheet(scenes, num_questions).save(beside, format="PNG")
    return path


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _block(scene: Scene, num_questions: int) -> Image.Image:
    """1. Title. 2. Frames. 3. Tracks. 4. Questions in two columns."""
    questions = ask_questions(scene, num=num_questions)
    cards = [_card(number + 1, question) for number, question in enumerate(questions)]
    rows = [cards[first : first + COLUMNS] for first in range(0, len(cards), COLUMNS)]
    tracks = (BAR + 5) * len(scene.things) + 26
    height = MARGIN + 34 + FRAME + 28 + tracks + sum(max(card.height for card in row) + 10 for row in rows) + MARGIN
    block = Image.new("RGB", (WIDTH, height), PAPER)
    draw = ImageDraw.Draw(block)
    draw.text((MARGIN, MARGIN - 4), f"ShapeWorld   {scene.key}", INK, _font(18))
    top = _draw_frames(block, draw, scene, MARGIN + 32)
    top = _draw_tracks(draw, scene, questions, top + 8)
    for row in rows:
        for column, card in enumerate(row):
            block.paste(card, (MARGIN + column * (WIDTH - 2 * MARGIN + GAP) // COLUMNS, top))
        top += max(card.height for card in row) + 10
    draw.line((MARGIN, height - 2, WIDTH - MARGIN, height - 2), FAINT)
    return block


def _draw_frames(block: Image.Image, draw: ImageDraw.ImageDraw, scene: Scene, top: int) -> int:
    """The filmstrip; returns where it ends."""
    times = np.round(np.linspace(0, scene.seconds - 0.5, FRAMES) * 2) / 2
    for place, (time, frame) in enumerate(zip(times, render_frames(scene, times, FRAME), strict=True)):
        left = MARGIN + place * (FRAME + GAP)
        block.paste(Image.fromarray(frame), (left, top))
        draw.text((left + 2, top + FRAME + 2), f"{time:.1f}s", FAINT, _font(12))
    return top + FRAME + 20


def _draw_tracks(draw: ImageDraw.ImageDraw, scene: Scene, questions: Sequence[WorldQuestion], top: int) -> int:
    """A bar a thing, and below them when each question is asked; returns where they end."""
    scale = (WIDTH - 2 * MARGIN - LABEL) / scene.seconds
    for thing in scene.things:
        _draw_label(draw, scene, thing, top)
        for segment in thing.segments:
            if segment.start < scene.seconds:
                _draw_segment(draw, segment, top, scale, scene.seconds)
        top += BAR + 5
    last = -100.0
    for number, question in enumerate(questions):
        x = MARGIN + LABEL + question.time * scale
        draw.line((x, top - 3, x, top + 2), RIGHT)
        if x - last > 12:
            draw.text((x, top + 3), str(number + 1), RIGHT, _font(12), anchor="ma")
            last = x
    return top + 26


def _draw_label(draw: ImageDraw.ImageDraw, scene: Scene, thing: Thing, top: int) -> None:
    colour = COLOURS[COLOUR_NAMES[thing.colours[0][1]]]
    draw.ellipse((MARGIN, top + 5, MARGIN + 11, top + 16), colour, outline=INK)
    draw.text((MARGIN + 17, top - 1), thing.name(0).removeprefix("the "), INK, _font(13))
    draw.text((MARGIN + 17, top + 12), GOAL_NAMES[thing.goal], FAINT, _font(10))


def _draw_segment(draw: ImageDraw.ImageDraw, segment: Segment, top: int, scale: float, seconds: float) -> None:
    left = MARGIN + LABEL + segment.start * scale
    right = MARGIN + LABEL + min(segment.end, seconds) * scale
    draw.rectangle((left, top, right, top + BAR), FILLS[segment.kind], outline=(255, 255, 255))
    text = {"act": ACTION_NAMES[segment.action], "move": REGION_NAMES[segment.target]}.get(segment.kind, segment.kind)
    font = _font(11)
    if draw.textlength(text, font) < right - left - 4:
        ink = FAINT if segment.kind == "away" else INK
        draw.text(((left + right) / 2, top + BAR / 2), text, ink, font, anchor="mm")


def _card(number: int, question: WorldQuestion) -> Image.Image:
    """One question with its options, the right one green, and where in time the answer was to be seen."""
    width = (WIDTH - 2 * MARGIN - GAP) // COLUMNS
    font = _font(13)
    seen = "now" if question.visible_now else " and ".join(f"{start:g}-{end:g} s" for start, end in question.evidence)
    head = f"{number}. at {question.time:.1f}s   {question.sub_task}   seen: {seen}"
    lines: list[tuple[str, tuple[int, int, int]]] = [(head, FAINT)]
    lines += [(line, INK) for line in _wrap(question.question, width - 24, font)]
    for place, option in enumerate(question.options):
        right = place == question.answer_index
        lines.append((f"{LETTERS[place]}  {option}", RIGHT if right else FAINT))
    card = Image.new("RGB", (width, LINE * len(lines) + 14), (255, 255, 255))
    draw = ImageDraw.Draw(card)
    for row, (text, colour) in enumerate(lines):
        draw.text((10, 6 + row * LINE), text, colour, _font(11) if row == 0 else font)
        if colour == RIGHT:
            draw.line((4, 8 + row * LINE, 4, 2 + (row + 1) * LINE), RIGHT, width=3)
    draw.rectangle((0, 0, card.width - 1, card.height - 1), outline=(222, 221, 216))
    return card


def _wrap(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Lines of at most `width` pixels, broken between words."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
