"""Words in: a dialogue with frames becomes token ids and a loss mask."""

from .messages import Image, Message, frame_line, frame_parts
from .render import IGNORE_INDEX, Rendered, describe, end_token_ids, render
from .templates import IMG_CONTEXT, IMG_END, IMG_START, TEMPLATES, Template, get_template

__all__ = [
    "IGNORE_INDEX",
    "IMG_CONTEXT",
    "IMG_END",
    "IMG_START",
    "TEMPLATES",
    "Image",
    "Message",
    "Rendered",
    "Template",
    "describe",
    "end_token_ids",
    "frame_line",
    "frame_parts",
    "get_template",
    "render",
]
