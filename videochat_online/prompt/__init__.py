"""Words in: a dialogue with frames becomes token ids and a loss mask."""

from .messages import (
    IMG_CONTEXT,
    IMG_END,
    IMG_START,
    TEMPLATES,
    Image,
    Message,
    Template,
    frame_line,
    frame_parts,
    get_template,
)
from .render import IGNORE_INDEX, Rendered, describe, end_token_ids, render

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
