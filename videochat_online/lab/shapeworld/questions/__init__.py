"""Questions about scenes: the 16 sub-tasks of OVBench, and simple ones to begin with."""

from .context import Decks
from .engine import PERCEPTION_KINDS, TEMPLATES, ask_perception, ask_questions, default_times
from .types import LETTERS, SUB_TASKS, Question, SubTask

__all__ = [
    "LETTERS",
    "PERCEPTION_KINDS",
    "SUB_TASKS",
    "TEMPLATES",
    "Decks",
    "Question",
    "SubTask",
    "ask_perception",
    "ask_questions",
    "default_times",
]
