"""ShapeWorld: generated streams of coloured shapes about which every fact is known exactly.

For training without files: `sample_stream` -> `render_frames` and `ask_questions`. For files: `build_world`.
"""

from .labels import DenseLabels, caption, dense_labels
from .questions.context import Decks
from .questions.engine import ask_perception, ask_questions
from .questions.types import SUB_TASKS, WorldQuestion
from .render import render_frames
from .scenes import Event, Scene, Thing
from .simulate import sample_stream

__all__ = [
    "SUB_TASKS",
    "Decks",
    "DenseLabels",
    "Event",
    "Scene",
    "Thing",
    "WorldQuestion",
    "ask_perception",
    "ask_questions",
    "caption",
    "dense_labels",
    "render_frames",
    "sample_stream",
]
