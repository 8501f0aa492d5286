"""Training samples about scenes, in the formats the ordinary loaders read.

Offline: LLaVA video, image and text conversations, VideoChat2-IT rows. Online: dialogues, narrations and temporal
grounding whose human turns carry `timestamps`, and tracking with boxes. Pure functions of a scene and a random
generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .labels import caption
from .questions.context import Decks
from .questions.engine import PERCEPTION_KINDS, ask_perception, ask_questions, default_times
from .questions.perception import NOTHING, OUT_OF_SIGHT, bare_name, doing
from .questions.types import WorldQuestion
from .scenes import Scene, Thing
from .vocabulary import ACTION_NAMES, clock, duration

Sample = dict[str, Any]
VIDEO, IMAGE = "<video>\n", "<image>\n"

SYSTEM = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
    "objects, and the action and pose of persons. Based on your observations, select the best option that accurately "
    "addresses the question.\n"
)
"""OVBench's own system text: half of the conversations are under it, half under the template's."""
SUMMARIZE = "Summarize the events up to the current frame that were not mentioned before."
DESCRIBE = "Describe the events in this video."
LOG = "What does the video show?"
CAPTION = "Describe the picture."
ANSWER = "Answer the question about the video."
CHOOSE = "Choose the right option."
TRACK = "Track the object at <bbox>."


def turns(question: WorldQuestion, *, options: bool, at: bool = False, media: str = "") -> list[Sample]:
    """Human and assistant turn; `at` adds when the question is asked."""
    human: Sample = {"from": "human", "value": media + question.prompt(options=options, time=options)}
    if at:
        human["timestamps"] = question.time
    return [human, {"from": "gpt", "value": question.answer}]


CHOICES = 0.5
"""Share of the questions of a conversation that come with options. The answer is the option's text, not its letter:
it says more to learn from, and to find the letter is a second thing to learn after it."""
PICTURE_CHOICES = 0.2
"""The same of questions about single pictures: options make a conversation twice as long."""
WHOLE_SECONDS = 0.65
"""Share of the parts of videos whose frames stand at whole seconds."""
NUM_QUESTIONS = 24
"""Of a conversation about a video."""
NUM_MOMENTS = 20
"""Of a conversation about single seconds."""
LOG_SECONDS = 30
"""Longest part of a video that such a conversation is about: training takes so many frames at one a second."""


def first_second(rng: np.random.Generator) -> float:
    """Where a part of a video begins: so that its frames, each from the middle of a second, stand at whole seconds as
    those of a live stream do, or at half ones."""
    return 0.5 if rng.random() < WHOLE_SECONDS else 0.0


def frame_moments(start: float, end: float) -> list[float]:
    """Seconds at which a part of a video shows frames, one a second: each from the middle of its second."""
    return np.arange(start + 0.5, end).tolist()


def _system(rng: np.random.Generator) -> list[Sample]:
    return [{"from": "system", "value": SYSTEM}] if rng.random() < 0.5 else []


VIDEO_KINDS = tuple(kind for kind in PERCEPTION_KINDS if kind != "step")
"""A video shows which goal a thing has; `step` asks about any."""


def _mixed(
    scene: Scene, num: int, rng: np.random.Generator, times: Sequence[float], decks: Decks
) -> list[WorldQuestion]:
    """Questions of the sub-tasks and simple ones, half and half, in order of time."""
    hard = ask_questions(scene, None, num - num // 2, rng, times, decks=decks)
    simple = ask_perception(scene, VIDEO_KINDS, num // 2, rng, times, decks=decks)
    return _shuffled([*hard, *simple], rng)


def _shuffled(questions: list[WorldQuestion], rng: np.random.Generator) -> list[WorldQuestion]:
    """In order of time, those of one moment in any order: their kind must not be known from their place."""
    anyhow = [questions[place] for place in rng.permutation(len(questions))]
    return sorted(anyhow, key=lambda question: question.time)


def last_moment(scene: Scene) -> float:
    """The last half second at which the video still shows a frame."""
    return default_times(scene)[-1]


def offline_events(scene: Scene, video: str) -> Sample:
    """LLaVA: what happened in the whole video.

    Not in one conversation with questions: who has read the events need not look to answer.
    """
    turns = _said(VIDEO + DESCRIBE, narration(scene, 0.0, last_moment(scene)))
    return {"id": f"{scene.key}/events", "video": video, "conversations": turns}


def offline_log(scene: Scene, video: str, rng: np.random.Generator) -> list[Sample]:
    """LLaVA: what is to be seen in single frames of the video, at most LOG_SECONDS of it, one a second, in any order;
    none where nothing is certain.

    To look a moment up is most of what there is to learn, and nothing asks for it as often in as few words. (Second by
    second in order, each line is a copy of the one before.)
    """
    start = float(rng.integers(max(0, int(scene.seconds) - LOG_SECONDS) + 1)) + first_second(rng)
    end = min(start + LOG_SECONDS, scene.seconds)
    conversation: list[Sample] = []
    for time in rng.permutation(frame_moments(start, end))[:NUM_MOMENTS].tolist():
        seen = seen_at(scene, time)
        if seen is not None:
            asked = f"At {clock(time)}?" if conversation else f"{VIDEO}{LOG} At {clock(time)}?"
            conversation += _said(asked, seen)
    row = {"id": f"{scene.key}/log", "video": video, "start": start, "end": end, "conversations": conversation}
    return [row] if conversation else []


def seen_at(scene: Scene, time: float) -> str | None:
    """ "red circle spin left-top, blue ring moving", "nothing"; None unless it is certain."""
    found = [(thing, doing(scene, thing, time)) for thing in scene.things]
    if not all(what for _, what in found):
        return None
    return ", ".join(f"{bare_name(thing, time)} {what}" for thing, what in found if what != OUT_OF_SIGHT) or NOTHING


def offline_video(scene: Scene, video: str, rng: np.random.Generator, decks: Decks) -> list[Sample]:
    """LLaVA: questions asked at the end of the video, in one conversation; none where there is nothing to ask."""
    conversation: list[Sample] = []
    for question in _mixed(scene, NUM_QUESTIONS, rng, [last_moment(scene)], decks):
        conversation += turns(question, options=bool(rng.random() < CHOICES), media="" if conversation else VIDEO)
    if not conversation:
        return []
    return [{"id": f"{scene.key}/questions", "video": video, "conversations": _system(rng) + conversation}]


def offline_qa(scene: Scene, video: str, rng: np.random.Generator, decks: Decks) -> list[Sample]:
    """VideoChat2-IT: rows of up to 16 questions about the video up to a moment."""
    rows = []
    for time in rng.permutation(default_times(scene))[:3].tolist():
        questions = _mixed(scene, 16, rng, [time], decks)
        choose = bool(rng.random() < CHOICES)
        qa = [choice_row(question, choose=choose) for question in questions]
        rows += [{"video": video, "start": first_second(rng), "end": time, "QA": qa}] if qa else []
    return rows


def choice_row(question: WorldQuestion, *, choose: bool) -> Sample:
    """A question of a VideoChat2-IT row, with options or without."""
    asked = question.prompt(options=choose, time=choose)
    return {"i": CHOOSE if choose else ANSWER, "q": asked, "a": question.answer}


OPEN_KINDS = ("count", "colour", "shape", "where", "box", "what_at", "action")
CLAIM_KINDS = ("presence", "is_at", "is_performing")
PICTURE_CLAIMS = ("AP", "SV")
"""Those of the yes-or-no questions that a single picture answers."""
ORDERS = ("open questions first", "any", "alone")


def offline_image(
    scene: Scene, image: str, time: float, rng: np.random.Generator, decks: Decks, *, choices: float = CHOICES
) -> Sample:
    """LLaVA: simple questions about one frame in any order, then its caption: who has read it need not look."""
    asked = ask_perception(scene, OPEN_KINDS + CLAIM_KINDS, 10, rng, [time], decks=decks)
    conversation = _asked_anyhow(asked, rng, choices) + _said(CAPTION, caption(scene, time))
    conversation[0]["value"] = IMAGE + conversation[0]["value"]
    return {"id": f"{scene.key}/image-{time:g}", "image": image, "conversations": conversation}


def offline_claims(
    scene: Scene, image: str, time: float, rng: np.random.Generator, decks: Decks, *, order: str
) -> list[Sample]:
    """LLaVA: claims about one frame to say yes or no to, in one of ORDERS; none where there is nothing to claim.

    To compare a claim with a picture is learnt late. After open questions their answers can be compared with, word by
    word, which is learnt at once; it goes over to pictures whose tokens resemble words.
    """
    claims = ask_perception(scene, CLAIM_KINDS, 9, rng, [time], decks=decks)
    claims += ask_questions(scene, PICTURE_CLAIMS, 4, rng, [time], decks=decks)
    if not claims:
        return []
    asked = [] if order == "alone" else ask_perception(scene, OPEN_KINDS, 9, rng, [time], decks=decks)
    parts = [asked, claims] if order == "open questions first" else [asked + claims]
    return [_about_picture(f"{scene.key}/claims-{time:g}", image, parts, rng)]


def offline_steps(
    scene: Scene, image: str, time: float, rng: np.random.Generator, decks: Decks, *, order: str
) -> list[Sample]:
    """LLaVA: the next step of what acts in a frame, for any goal it may have, in one of ORDERS; none if nothing acts.

    What is seen and what is known of the routines are learnt apart; to put them together takes samples of nothing else.
    """
    steps = ask_perception(scene, ("step",), 6, rng, [time], decks=decks)
    if not steps:
        return []
    kinds = {"open questions first": ("action",), "any": ("action", "where", *CLAIM_KINDS), "alone": ()}[order]
    asked = ask_perception(scene, kinds, 4, rng, [time], decks=decks) if kinds else []
    parts = [asked + steps] if order == "any" else [asked, steps]
    return [_about_picture(f"{scene.key}/steps-{time:g}", image, parts, rng)]


def _about_picture(key: str, image: str, parts: list[list[WorldQuestion]], rng: np.random.Generator) -> Sample:
    """One part after the other, each in any order."""
    conversation = [turn for part in parts for turn in _asked_anyhow(part, rng, PICTURE_CHOICES)]
    conversation[0]["value"] = IMAGE + conversation[0]["value"]
    return {"id": key, "image": image, "conversations": conversation}


ROUTINE_KINDS = ("follows", "procedure", "continues")


def routines(scene: Scene, rng: np.random.Generator, decks: Decks) -> Sample:
    """LLaVA, text alone: what is known of the routines; the scene only lends its name."""
    asked = ask_perception(scene, ROUTINE_KINDS, 6, rng, decks=decks)
    return {"id": f"{scene.key}/routines", "conversations": _asked_anyhow(asked, rng, PICTURE_CHOICES)}


def _asked_anyhow(questions: list[WorldQuestion], rng: np.random.Generator, choices: float) -> list[Sample]:
    """Questions of one moment in any order, a share of them with options, without saying when."""
    said: list[Sample] = []
    for question in _shuffled(questions, rng):
        choose = bool(rng.random() < choices)
        said += _said(question.prompt(options=choose, time=False), question.answer)
    return said


def _said(question: str, answer: str) -> list[Sample]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def _online(scene: Scene, video: str, kind: str, conversation: list[Sample], rng: np.random.Generator) -> Sample:
    return {
        "id": f"{scene.key}/{kind}",
        "video": video,
        "clip": [first_second(rng), scene.seconds],
        "need_reset_timestamp": False,
        "conversations": conversation,
    }


def online_dialogue(scene: Scene, video: str, rng: np.random.Generator, decks: Decks) -> Sample:
    """Questions at their moments while the stream runs; more than half of them with options."""
    conversation = _system(rng)
    for question in _mixed(scene, NUM_QUESTIONS, rng, default_times(scene), decks):
        conversation += turns(question, options=bool(rng.random() < CHOICES), at=True, media=VIDEO)
    return _online(scene, video, "dialogue", conversation, rng)


def single_questions(dialogue: Sample) -> list[Sample]:
    """Each question of a dialogue as a sample of its own, as if nothing had been asked before."""
    said = dialogue["conversations"]
    system, said = (said[:1], said[1:]) if said[0]["from"] == "system" else ([], said)
    pairs = zip(said[::2], said[1::2], strict=True)
    return [
        {**dialogue, "id": f"{dialogue['id']}-{number}", "conversations": [*system, human, answer]}
        for number, (human, answer) in enumerate(pairs, start=1)
    ]


def narration(scene: Scene, after: float, until: float) -> str:
    """The events in (after, until], one a line: "12.0s: the red circle performs the spin."; "Nothing." if none."""
    events = [event for event in scene.events if after < event.time <= until]
    return "\n".join(f"{clock(event.time)}: {scene.sentence(event)}." for event in events) or "Nothing."


def online_narration(scene: Scene, video: str, rng: np.random.Generator) -> Sample:
    """Dense captioning: now and then, what happened since the last time."""
    conversation: list[Sample] = []
    before, time, last = 0.0, 0.0, last_moment(scene)
    while time < last:
        time = min(last, time + float(rng.integers(8, 17)) / 2 * scene.pace // 0.5 * 0.5)
        conversation += _asked(VIDEO + SUMMARIZE, time, narration(scene, before, time))
        before = time
    return _online(scene, video, "narration", conversation, rng)


def _asked(question: str, time: float, answer: str) -> list[Sample]:
    return [{"from": "human", "value": question, "timestamps": time}, {"from": "gpt", "value": answer}]


def online_grounding(scene: Scene, video: str, rng: np.random.Generator) -> Sample | None:
    """When an action took place; asked while it lasts ("12.0s - now") or after it. None without actions."""
    moments = default_times(scene)
    rows = [(thing, act) for thing in scene.things for act in thing.acts if act.start + 1 <= moments[-1]]
    conversation: list[Sample] = []
    asked = []
    for place in rng.permutation(len(rows))[:6]:
        thing, act = rows[place]
        asked.append((float(rng.choice([time for time in moments if time >= act.start + 1])), thing, act))
    for time, thing, act in sorted(asked, key=lambda row: (row[0], row[2].start)):
        latest = [other for other in thing.acts if other.action == act.action and other.start + 1 <= time][-1]
        end = "now" if latest.end > time else clock(latest.end)
        length = duration(min(latest.end, time) - latest.start)
        question = f"When did {thing.name(time)} last perform the {ACTION_NAMES[act.action]}?"
        conversation += _asked(VIDEO + question, time, f"{clock(latest.start)} - {end} (duration: {length})")
    return _online(scene, video, "grounding", conversation, rng) if conversation else None


def longest_view(scene: Scene) -> tuple[Thing, float, float] | None:
    """The thing that stays in full or moving view for longest, and from when to when; None below 3 seconds."""
    best: tuple[Thing, float, float] | None = None
    for thing in scene.things:
        begin: float | None = None
        for segment in thing.segments:
            if segment.kind not in ("rest", "act", "move", "meet") or scene.passes_wall(segment):
                begin = None
                continue
            begin = segment.start if begin is None else begin
            end = min(segment.end, last_moment(scene))
            if end - begin >= 3 and (best is None or end - begin > best[2] - best[1]):
                best = (thing, begin, end)
    return best


def tracking(scene: Scene, folder: str, thing: Thing, times: Sequence[float], fps: float) -> Sample:
    """One thing followed through a folder of frames 000001.jpg, ... taken at `times`; time 0 is the first frame."""
    boxes = []
    for number, time in enumerate(times):
        x, y = thing.position(time)
        r = thing.radius
        corners = (min(1.0, max(0.0, value)) for value in (x - r, y - r, x + r, y + r))
        boxes.append({"timestamp": number / fps, "bbox": "[" + ", ".join(f"{value:.2f}" for value in corners) + "]"})
    return {
        "id": f"{scene.key}/track",
        "video": folder,
        "fps": fps,
        "all_image_files": [f"{number + 1:06d}.jpg" for number in range(len(times))],
        "image_bboxes": boxes,
        "query_template": {"from": "human", "value": VIDEO + TRACK},
    }
