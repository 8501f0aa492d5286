"""What a reader of the scores must know first, lest a number mean something else than it seems to.

Nothing here changes a score. Knows questions and scores, no model and no files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .types import VideoTask

MANY_UNANSWERED = 0.2
"""Share of questions without an answer above which the score says little about what a model knows."""
_TRAINED_ON = re.compile(r"(?:^|/)train-\d{8}-l\d+-")
"""A video of the train split of a generated world begins so (shapeworld/scenes.py names it)."""


@dataclass(frozen=True)
class Background:
    """What is known of a run beside its answers."""

    answer_because: str = ""
    """Why options are answered as they are: the flag, the model, the default."""
    left_out: tuple[str, ...] = ()
    """A line for each record of the annotations that cannot be asked."""
    trained_on: int = 0
    """Videos of a train split."""

    @classmethod
    def of(cls, tasks: Sequence[VideoTask], *, left_out: Sequence[str] = ()) -> Background:
        trained_on = sum(_TRAINED_ON.search(task.video) is not None for task in tasks)
        return cls(left_out=tuple(left_out), trained_on=trained_on)

    def cautions(self) -> list[str]:
        """What is known before anything is asked."""
        found = []
        if self.trained_on:
            found.append(
                f"{self.trained_on} of these videos are from the train split of a generated world: a model that was "
                "trained on it is asked about what it was shown. `videochat-online world build DIR --split test` "
                "makes others"
            )
        if self.left_out:
            found.append(
                f"{len(self.left_out)} records of the annotations cannot be asked and are left out of every number; "
                "the report and --check name them"
            )
        return found


def unanswered(scores: Mapping[str, Any], answer: str | None) -> list[str]:
    """That many questions have no answer, and what may help; nothing where it is a fifth of them or fewer."""
    if scores["unanswered"] <= MANY_UNANSWERED:
        return []
    not_asked = scores["not_asked"] / scores["questions"]
    text = (
        f"no answer was found for {100 * scores['unanswered']:.1f} % of the questions, which count as wrong: the score "
        "says little about what the model knows"
    )
    if not_asked:
        text += f". {100 * not_asked:.1f} % could not be asked (see below)"
    if answer == "generate" and scores["unanswered"] > not_asked:
        text += ". It may answer in words where a letter is looked for: see predictions.jsonl, or --answer likelihood"
    return [text]
