"""Standing instructions: what a session is to tell unasked, and the one rule that decides when.

After a new frame every instruction is put behind the cached prompt as a question with its answer opened (a readout), or
a gate looks at the frame; the rule decides by the probability. Knows no model; the session reads out and finds words.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import exp
from typing import Any

from ..prompt.messages import check_text

MOST_STANDING = 16
"""Instructions that one session follows at a time: each costs a readout a frame."""
MOST_CHARACTERS = 500
"""Of an instruction."""
KEPT_EVENTS, KEPT_POINTS = 1000, 600
"""What a session remembers of its own words, and an instruction of its probabilities; the oldest go."""
WORDS = 64
"""Tokens at most of what is said for one moment."""
THRESHOLD, REFRACTORY = 0.5, 3.0
CERTAIN = 30.0
"""Of log P - log (1 - P), at most: so that no probability comes to NEVER."""
NEVER = 1 - 2**-53
LEAD = re.compile(
    r"^(please[, ]+)?((tell|warn|alert|notify|inform|remind) (me|us)|let (me|us) know|say( so)?)[, ]+"
    r"(when|whenever|if|as soon as|once|each time|every time)( that)? +",
    re.IGNORECASE,
)


def as_question(text: str) -> str:
    """An instruction as what is asked at every frame: "... when X" as "Is it so now that X?", a question as it is.

    Every word of it is computed again at every frame.

    >>> as_question("Tell me when the kettle boils.")
    'Is it so now that the kettle boils?'
    """
    text = text.strip()
    if text.endswith(("?", "\uff1f", "\u061f")):  # also in full width, and Arabic
        return text
    found, rest = LEAD.match(text), text.rstrip(".! ")
    return f"Is it so now that {rest[found.end() :]}?" if found else f"Is this the moment for it: {rest}?"


@dataclass(frozen=True)
class StandingEvent:
    """Something said unasked."""

    id: int
    """Counts all events of a session from 1."""
    standing: str
    """Key of the instruction."""
    instruction: str
    time: float
    """Seconds of the stream, of the frame at which it was decided."""
    probability: float
    text: str
    """The model's words; empty where the prompt left no room for any."""
    quiet: bool = False
    """It fell into quiet hours: it is noted, and nobody should be disturbed."""


@dataclass(frozen=True)
class Readout:
    """What is thought of one instruction at one frame."""

    time: float
    """Seconds of the stream."""
    yes: float
    """log P(expected answer) - log P(the other one), as the answer's first word; or what a gate gives for it."""

    @property
    def probability(self) -> float:
        """That the moment has come."""
        return 1 / (1 + exp(-max(-CERTAIN, min(CERTAIN, self.yes))))


@dataclass(frozen=True)
class Rule:
    """When a probability becomes an event. The same for all scorers."""

    threshold: float = THRESHOLD
    """P from which on the moment has come; it must fall below it before the next one can."""
    refractory: float = REFRACTORY
    """Seconds of the stream after an event in which there is no other."""
    once: bool = False
    """The first event ends the instruction."""
    quiet_hours: str | None = None
    """Hours of this machine's clock, such as "22:00-07:00", in which events are noted as quiet."""

    def __post_init__(self) -> None:
        for name, low, high in (("threshold", 0.0, 1.0), ("refractory", -1e-9, float("inf"))):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low < value < high:
                expected = "a probability between 0 and 1" if high == 1 else "seconds >= 0"
                raise ValueError(f"the {name} must be {expected}, got {value!r}")
        if not isinstance(self.once, bool):
            raise ValueError(f"once must be true or false, got {self.once!r}")
        if self.quiet_hours is not None:
            _minutes(self.quiet_hours)

    def is_quiet(self, minute: int | None = None) -> bool:
        """Whether that minute of the day, from 0, lies in the quiet hours; None: now."""
        if self.quiet_hours is None:
            return False
        minute = minute_of_day() if minute is None else minute
        begin, end = _minutes(self.quiet_hours)
        return begin <= minute < end if begin < end else minute >= begin or minute < end


def _minutes(hours: str) -> tuple[int, int]:
    """ "22:00-07:00" as minutes of the day. Raises ValueError."""
    found = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d) *- *([01]?\d|2[0-3]):([0-5]\d)", str(hours).strip())
    times = [int(part) for part in found.groups()] if found else [0, 0, 0, 0]
    begin, end = times[0] * 60 + times[1], times[2] * 60 + times[3]
    if begin == end:
        raise ValueError(f"quiet hours are two different times of the day such as 22:00-07:00, got {hours!r}")
    return begin, end


def minute_of_day() -> int:
    """Of this machine's clock."""
    now = time.localtime()
    return now.tm_hour * 60 + now.tm_min


@dataclass(eq=False)
class Standing:
    """One instruction that stays with a stream, and where its rule stands."""

    key: str
    text: str
    """Asked where the moment has come: the answer is what is said."""
    question: str
    """Asked at every frame; `expect` is the answer that means now."""
    expect: str
    rule: Rule
    probability: float | None = None
    """At the newest frame that was read out."""
    curve: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=KEPT_POINTS))
    """(seconds, P) of the newest readouts."""
    last: StandingEvent | None = None
    """What was said last; it is remembered here only, and no prompt shows it again."""
    is_armed: bool = True
    fired_at: float | None = None
    num_seen: int = 0
    """Frames that the stream had when it was read out."""
    is_paused: bool = False
    """It is not read out until it goes on."""
    readout: Readout | None = None
    """The newest one."""
    webhook: str | None = None
    """Where a server posts what is said; kept for it."""

    def is_unread(self, num_seen: int) -> bool:
        """Whether it is to be read out where the stream has so many frames."""
        return self.num_seen != num_seen and not self.is_paused

    @property
    def wording(self) -> str:
        """What a gate reads: the instruction, or where a question stands for it, that question with its answer."""
        told = self.question != self.text and self.question == as_question(self.text)
        return self.text if told else f"{self.question} {self.expect}"

    def take(self, readout: Readout, num_seen: int) -> bool:
        """Whether the moment has come with this readout."""
        self.readout, self.probability, self.num_seen = readout, readout.probability, num_seen
        self.curve.append((readout.time, readout.probability))
        return self.decide(readout.time, readout.probability)

    def decide(self, seconds: float, probability: float) -> bool:
        """Whether the rule speaks at this probability, after those before."""
        if probability < self.rule.threshold:
            self.is_armed = True
        rests = self.fired_at is not None and seconds - self.fired_at < self.rule.refractory
        if probability < self.rule.threshold or not self.is_armed or rests:
            return False
        self.is_armed, self.fired_at = False, seconds
        return True

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "curve": list(self.curve)}

    @classmethod
    def from_dict(cls, about: dict[str, Any]) -> Standing:
        """Of what `to_dict` gave."""
        last = about["last"] and StandingEvent(**about["last"])
        curve = deque(map(tuple, about["curve"]), maxlen=KEPT_POINTS)
        found = {**about, "rule": Rule(**about["rule"]), "last": last, "curve": curve, "readout": None}
        return cls(**{name: found[name] for name in cls.__dataclass_fields__ if name in found})


class GivesWay(threading.Event):
    """A stop that is asked for as long as somebody wants it, and remembers that it was."""

    def __init__(self, is_wanted: Callable[[], bool]) -> None:
        super().__init__()
        self.is_wanted, self.gave_way = is_wanted, False

    def is_set(self) -> bool:
        self.gave_way = self.gave_way or self.is_wanted()
        return self.gave_way


class Watchlist:
    """The instructions of one session and what was said for them. Under the session's lock, but for `wait`."""

    def __init__(self, num_events: int = 0) -> None:
        self.standing: dict[str, Standing] = {}
        self.events: deque[StandingEvent] = deque(maxlen=KEPT_EVENTS)
        self.num_events = num_events
        """So far; where a stream follows another, its ids go on."""
        self.num_given = 0
        self.on_event: Callable[[Standing], None] = lambda standing: None
        """Called for each event with its instruction, whose `last` it is; under the session's lock: it may not wait."""
        self._news = threading.Condition()

    def add(
        self, text: str, question: str | None = None, expect: str = "Yes", *, webhook: str | None = None, **rule: Any
    ) -> Standing:
        """A new instruction under a `Rule`. Raises ValueError for one that cannot be followed."""
        given = {"an instruction": text} | ({} if question is None else {"the question of an instruction": question})
        for name, value in given.items():
            if not isinstance(value, str) or not value.strip():
                raise ValueError(f"{name} must be a text that is not empty, got {value!r}")
            check_text(value, name)
            if len(value) > MOST_CHARACTERS:
                raise ValueError(f"{name} may have {MOST_CHARACTERS} characters, got {len(value)}")
        if expect not in ("Yes", "No"):
            raise ValueError(f"an instruction expects the answer 'Yes' or 'No', got {expect!r}")
        text, question = text.strip(), (question or as_question(text)).strip()
        if any((text, question) == (each.text, each.question) for each in self.standing.values()):
            raise ValueError(f"the instruction {text!r} stands already")
        if len(self.standing) >= MOST_STANDING:
            raise ValueError(f"{MOST_STANDING} instructions may stand at a time: remove one first")
        self.num_given += 1
        standing = Standing(f"s{self.num_given}", text, question, expect, Rule(**rule), webhook=webhook)
        self.standing[standing.key] = standing
        return standing

    def continued(self) -> Watchlist:
        """The same instructions for another stream, as if just given; events are kept, and their ids go on."""
        other = Watchlist(self.num_events)
        other.events.extend(self.events)
        other.num_given = self.num_given
        other.standing = {
            key: Standing(
                key, one.text, one.question, one.expect, one.rule, is_paused=one.is_paused, webhook=one.webhook
            )
            for key, one in self.standing.items()
        }
        return other

    def remove(self, key: str) -> Standing:
        """Raises ValueError where no instruction of that key stands."""
        if key not in self.standing:
            known = ", ".join(self.standing) or "none"
            raise ValueError(f"no instruction {key!r:.60} stands here; those that do: {known}")
        return self.standing.pop(key)

    def note(self, moment: StandingEvent, text: str) -> StandingEvent:
        """What was said: it gets its number, and whoever waits hears of it."""
        self.num_events += 1
        event = replace(moment, id=self.num_events, text=text)
        with self._news:
            self.events.append(event)
            self._news.notify_all()
        return event

    def after(self, number: int) -> list[StandingEvent]:
        """Events with a greater id that are still kept, oldest first."""
        with self._news:
            return [event for event in self.events if event.id > number]

    def wait(self, number: int, seconds: float) -> list[StandingEvent]:
        """As `after`; waits so long for one."""
        with self._news:
            self._news.wait_for(lambda: bool(self.events) and self.events[-1].id > number, seconds)
        return self.after(number)

    def state_dict(self, unsaid: Sequence[StandingEvent] = ()) -> dict[str, Any]:
        """As plain values. Moments that have no words yet become events without any."""
        events = [asdict(event) for event in (*self.events, *unsaid)]
        kept = [each.to_dict() for each in self.standing.values()]
        return {"standing": kept, "events": events, "num_events": self.num_events, "num_given": self.num_given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.num_events, self.num_given = state["num_events"], state["num_given"]
        for event in (StandingEvent(**about) for about in state["events"]):
            if event.id:
                self.events.append(event)
            else:
                self.note(event, "")
        self.standing = {about["key"]: Standing.from_dict(about) for about in state["standing"]}
