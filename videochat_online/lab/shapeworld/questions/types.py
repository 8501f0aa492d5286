"""What a question is, and the 16 sub-tasks of OVBench (arXiv 2501.00584) it may belong to."""

from __future__ import annotations

from dataclasses import dataclass

LETTERS = "ABCDE"
NOW_SECONDS = 2.0
"""Evidence that lies wholly within the last two seconds is still visible now."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class WorldSubTask:
    """One of the 16. `key` is unique; OVBench itself uses the letters OP twice."""

    key: str
    name: str
    category: str
    answer_type: str
    """The category's name in OVBench's flat files."""
    source: str
    """The flat file it comes in: ava, coin (and hirest) or tao."""

    @property
    def abbreviation(self) -> str:
        return self.key.split("-")[-1]


def _of(category: str, answer_type: str, *rows: tuple[str, str, str]) -> dict[str, WorldSubTask]:
    return {key: WorldSubTask(key, name, category, answer_type, source) for source, key, name in rows}


SUB_TASKS: dict[str, WorldSubTask] = {
    **_of(
        "Future Prediction", "FuturePrediction",
        ("ava", "AA", "Action Anticipation"), ("coin", "GSP", "Goal/Step Prediction"),
        ("tao", "MP", "Movement Prediction"),
    ),
    **_of(
        "Temporal Hallucination Verification", "Hallucination",
        ("ava", "AP", "Action Persistence"), ("coin", "SV", "Step Verification"), ("tao", "THV-OP", "Object Presence"),
    ),
    **_of(
        "Past Memory", "PastMemory",
        ("ava", "AR", "Action Retrieval"), ("coin", "PR", "Procedure Recall"), ("tao", "TR", "Trajectory Retrieval"),
    ),
    **_of(
        "Spatio Perception", "SpatialPerception",
        ("ava", "AL", "Action Location"), ("tao", "SP-OP", "Object Position"),
    ),
    **_of(
        "Spatio Temporal Perception", "SpatioTemporalPerception",
        ("ava", "AT", "Action Trajectory"), ("tao", "OT", "Object Trajectory"),
    ),
    **_of(
        "Temporal Perception", "TemporalPerception",
        ("ava", "AS", "Action Sequence"), ("coin", "SL", "Step Localization"), ("tao", "OES", "Object Existence State"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Draft:
    """A question before its options are shuffled."""

    template: str
    """Which wording: "sl_when"."""
    question: str
    answer: str
    wrong: tuple[str, ...]
    evidence: tuple[Interval, ...]
    """When what is needed to answer was to be seen, seconds; all of it is needed."""
    time: float | None = None
    """When to ask, where the template has chosen that itself."""

    def __post_init__(self) -> None:
        if len({self.answer, *self.wrong}) != 1 + len(self.wrong):
            raise ValueError(f"options of {self.template} must differ, got {self.answer!r} and {self.wrong}")


@dataclass(frozen=True)
class WorldQuestion:
    """A question about a stream, asked at `time` seconds about what was seen up to then."""

    id: str
    sub_task: str
    """Key of SUB_TASKS, or the kind of a perceptual training question."""
    template: str
    time: float
    question: str
    options: tuple[str, ...]
    answer_index: int
    evidence: tuple[Interval, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.answer_index < len(self.options):
            raise ValueError(f"{self.id}: answer {self.answer_index} is none of its {len(self.options)} options")
        if any(end > self.time or start > end for start, end in self.evidence):
            raise ValueError(f"{self.id}: evidence {self.evidence} lies after the question at {self.time} s")

    @property
    def answer(self) -> str:
        """The answer in words: free form."""
        return self.options[self.answer_index]

    @property
    def letter(self) -> str:
        return LETTERS[self.answer_index]

    @property
    def category(self) -> str:
        return SUB_TASKS[self.sub_task].category if self.sub_task in SUB_TASKS else "Training"

    @property
    def visible_now(self) -> bool:
        """Whether the last NOW_SECONDS alone show the answer; False where the past is needed."""
        return all(start >= self.time - NOW_SECONDS for start, _ in self.evidence)

    def prompt(self, *, options: bool = True, time: bool = True) -> str:
        """The user's words. With options in the form of OVBench's own evaluation, which ends in "Answer:"."""
        text = f"Question at {self.time:.1f}s: {self.question}" if time else self.question
        if not options:
            return text
        lines = [f"({letter}) {option}" for letter, option in zip(LETTERS, self.options, strict=False)]
        return "\n".join([text, "Options:", *lines, "Answer:"])
