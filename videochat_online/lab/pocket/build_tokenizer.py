"""Trains the small model's tokenizer: python -m videochat_online.lab.pocket.build_tokenizer [FOLDER]

Byte-level BPE over text that this file makes itself: the words of a world of coloured shapes, questions as OVBench
words them, and the prompts around them. The same file gives the same tokenizer, byte for byte. Knows no model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count, cycle, islice, repeat
from pathlib import Path
from string import Formatter

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from ...command_line import CommandParser
from ..shapeworld.vocabulary import ACTION_NAMES, GOAL_NAMES, REGION_NAMES

VOCAB_SIZE = 2816
MAX_NUMBER = 600
"""Whole numbers up to this one are single tokens: seconds of a stream are looked up, not spelt."""


def _words(text: str) -> list[str]:
    return text.split()


# Ids 0 to 14. Names and whitespace rule are those of Phi-3 and InternVL: a role's mark swallows the newline behind it.
END_OF_TEXT, START = "<|endoftext|>", "<s>"
ROLE_MARKS = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
IMAGE_MARKS = ("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")

# A word takes the space before it, and its second half where it has one ("left-top"); before a number also the space
# behind it, so that a whole number of up to three digits is the same token wherever it stands. ".5s" and "0.5" (of a
# box) are one each, and so are what stands around them in every prompt: ", " inside a box, ".5s: " before a picture,
# the heads of options and answer. Digits right behind a letter are spelt: a frame's number may be any.
PATTERN = (
    r"'(?:s|t|re|ve|m|ll|d)|, (?=\p{N})|: (?!\S)|\n(?:\(\p{Lu}\)|Options:|Answer:)| ?\p{L}+(?:-\p{L}+)?(?: (?=\p{N}))?"
    r"|(?<=\p{L}\p{N}?\p{N}?)\p{N}|\.\p{N}s?(?:: (?!\S))?|(?<![\p{N}.])0\.\p{N}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+(?: (?=\p{N}))?|\s+(?!\S)|\s+"
)

COLOURS = _words("red green blue yellow purple orange cyan white black grey pink brown")
SHAPES = _words("circle square triangle star cross diamond heart ring hexagon pentagon")
SIDES = _words("left right top bottom center middle corner edge side")
PLACES = _words(
    """
    left right top bottom center middle left-top right-top left-bottom right-bottom left-middle right-middle
    stationary uncertain up down above below inside outside behind front near far
    """
)
# base form, -s form, then the rest
ACTIONS = _words(
    """
    appear/appears/appeared/appearing disappear/disappears/disappeared/disappearing move/moves/moved/moving
    turn/turns/turned/turning change/changes/changed/changing hide/hides/hid/hidden/hiding meet/meets/met/meeting
    leave/leaves/left/leaving come/comes/came/coming return/returns/returned/returning blink/blinks/blinked/blinking
    grow/grows/grew/grown/growing shrink/shrinks/shrank/shrunk/shrinking stop/stops/stopped/stopping
    stay/stays/stayed/staying rotate/rotates/rotated/rotating spin/spins/spun/spinning bounce/bounces/bounced/bouncing
    follow/follows/followed/following cross/crosses/crossed/crossing touch/touches/touched/touching
    pass/passes/passed/passing enter/enters/entered/entering circle/circles/circled/circling
    cover/covers/covered/covering happen/happens/happened/happening wait/waits/waited/waiting
    repeat/repeats/repeated/repeating start/starts/started/starting end/ends/ended/ending
    """
)
PHRASES = (
    *GOAL_NAMES,
    "move left",
    "move right",
    "move up",
    "move down",
    "turn left",
    "turn right",
    "turn around",
    "change colour",
    "hide behind",
    "come back",
    "move to the left",
    "move to the right",
    "move away",
    "come closer",
    "stand still",
    "meet another shape",
    "leave the screen",
)
OBJECTS = _words("person car object shape ball dog people persons objects shapes dot line")
NUMBERS = _words("zero one two three four five six seven eight nine ten twelve first second third last once twice")
COMMON = _words(
    """
    a about achieve achieved action actions after again ago all almost also am an and another answer answers any
    anything apart approximately are area around as at away back background based be because been before began begin
    behind being below beside best between big bigger both but by can choices clear clip close closer color colour
    colours correct corresponding could count current currently dark decrease decreases describe description did
    different direction directly distance do does doing done down during each earlier either else empty equal event
    events every everything exactly exist exists farther fast faster few frame frames from get gets give given go goal
    goes going got had half has have he her here him his how i if image in increase increases indicate information
    inside interval into is it its just kind know large larger later least less letter light likely list little
    location long longer longest look many maximum may me memory minimum minute minutes moment more most much multiple
    my name near neither never new next no noise none not nothing now number object of off often on only option
    options or order other others out outside over past pattern perform performed performing performs period picture
    place position present procedure question quickly recently reference relative remain remains respect roughly
    routine same say scene scenes screen second seconds see seen select sequence several she short shorter shortest
    should show shown size slow slower slowly small smaller so some something soon speed step steps still stream such
    tell texture than that the their them then there these they thing things this those three through time times to
    together too total toward towards tracks trajectory two type ultimate unchanged under until up upon us usually
    very video visible was watch way we were what when where which while who whole why will with within without word
    would yes yet you your
    """
)
# Of questions and narrations about the generated world, beside its actions, regions and goals.
WORLD = _words(
    "wall perform performs performing cross comes hides leaves meets routine sight object objects duration nothing"
)
BEFORE_NUMBERS = _words("at from to last past of for the - (")
SYSTEM_MESSAGES = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。",
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
    "objects, and the action and pose of persons. Based on your observations, select the best option that accurately "
    "addresses the question.\n",
    "You are a helpful assistant that watches a video stream and answers questions about it.",
)
QUESTIONS = (
    "Is the {object} in the current frame still performing the '{phrase}'?",
    "Is the {object} currently in the {box} location in the current frame performing the {action}?",
    "Are there still {digit} {shape}s in the current frame now?",
    "Are there still {digit} people in the current frame now?",
    "Is the {colour} {shape} {box} still in the screen {seconds} seconds before?",
    "How long has the {object} in the scene been performing the '{phrase}'?",
    "How long has the {colour} {shape} been performing the '{phrase}' in the last {digit}0 seconds?",
    "My goal is '{phrase}'. What are the next steps I should take?",
    "What direction do you think the {shape} {box} may move towards in the next second?",
    "What is the time period the {shape} {box} in the current screen appears in the video? And what is the time "
    "period that it disappears?",
    "Did the {object} follow the correct procedure to achieve the '{phrase}'?",
    "Where was the {colour} {shape} currently performing the {action} in the scene {digit} seconds ago?",
    "What is the sequence of actions and the corresponding movement trajectory of the {object} currently in the {box}"
    " location?",
    "Based on the series of actions performed by the {object} in the video, what is the ultimate goal?",
    "What is the sequence of actions the {object} in the scene has performed recently?",
    "What goal was achieved in this video?",
    "Where is the location of the {colour} {shape} {box} in the screen {seconds} second(s) before?",
    "When does the {shape} {box} in the current screen first appear in the video? Give the corresponding position "
    "when it first appears.",
    "Where is the {colour} {shape} currently performing the {action} located in the picture?",
    "What action is the {object} at the location {box} in the image performing?",
    "Which action did the {object} perform for the longest duration in the last {digit}0 seconds?",
    "What actions did the {object} perform in sequence in the last {digit}0 seconds?",
    "What actions did the {object} not perform in the last {digit}0 seconds?",
    "What actions was the {object} performing before the last {digit}5 seconds?",
    "In the video, what is the trajectory of the {shape} {box} in the past {digit} seconds? Also point out the time "
    "period it disappears.",
    "Based on visible information, which option most accurately describes the location of the {shape}s on the screen?"
    " (Note: Positions with counts, e.g., '{place} ({digit})', indicate multiple objects in the same area.)",
    "Which option most accurately describes the relative positions of other {shape}s with respect to the reference "
    "position {box} on the screen?",
    "How many {shape}s were performing the {action} in the scene {digit} seconds ago?",
    "How many people in the current frame are performing the action: {action}?",
    "What action is the {colour} {shape} currently in the {box} location likely to do next?",
    "What location in the frame is the {object} currently in the {box} location likely to move to next?",
    "Compared with {digit} seconds ago, are the {shape} {box} and the {shape} {box} closer or farther apart?",
    "How many {shape}s are there in the screen {seconds} seconds before? Does the number increase or decrease compare"
    " with the past screen?",
    "What is the trajectory of the object among {shape} {box}, {shape} {box} in the past {digit} seconds, which moves"
    " the shortest distance? If an object disappears in the middle, calculate the distance based on the time period "
    "it last appears.",
    "What was the minimum number of {shape}s in the scene over the past {digit}5 seconds?",
    "What is happening now?",
    "What happened before?",
    "What colour is the {shape}?",
    "What colour was the {shape} at {seconds}s?",
    "Which shapes are in the frame?",
    "How many shapes are there?",
    "Where is the {colour} {shape} now?",
    "Describe the video.",
    "Is there a {colour} {shape}?",
    "When did the {colour} {shape} {action}?",
)
ANSWERS = (
    "Yes",
    "No",
    "Yes, it exists.",
    "No, it does not exist.",
    "There is no {colour} {shape}.",
    "There is a {colour} {shape} at {box}.",
    "There are {number} shapes: a {colour} {shape}, a {colour} {shape} and a {colour} {shape}.",
    "A {colour} {shape} {actions} at {seconds}s.",
    "The {colour} {shape} is at the {place} of the frame.",
    "The {colour} {shape} {actions} to the {place}.",
    "At {seconds}s, the {colour} {shape} {actions}.",
    "It {actions} and turns {colour}.",
    "{Colour} {shape}",
    "{Colour}.",
    "{phrase} -> {phrase} -> {phrase}",
    "{phrase} {box} -> {phrase} {box}",
    "{digit}-{digit}s",
    "{place}",
    "{place}, {place} ({digit}), {place}.",
    "{box}",
    "It appears at {seconds} - {seconds}s, {seconds}s. And it disappears at {seconds} - {seconds}s.",
    "It first appears {digit} seconds before, at {box}.",
    "The trajectory is: {box} -> {box} -> {box};",
    "They are getting farther apart.",
    "They are getting closer.",
    "Their distance almost remains unchanged.",
    "{digit} in the past. Compared with the past screen, the number increases.",
    "{digit} in the past. Compared with the past screen, the number decreases.",
    "{digit} in the past. Compared with the past screen, the number remains the same.",
)
PROMPTS = (
    "Frame{digit}: ",
    "Frame{digit}{digit}: ",
    "Frame{digit} at {seconds}s: ",
    "Frame{digit}{digit} at {seconds}s: ",
    "Question at {seconds}s: ",
    "Question: ",
    "\nOptions:\n({letter}) {place}\n({letter}) {phrase}\nAnswer:",
    "\nAnswer with the option's letter from the given choices directly.",
    "\nOnly give the best option.",
    "({letter})",
    "{letter}.",
    "Answer: {letter}",
    "Best option:(",
)


def corpus() -> Iterator[str]:
    """Every text the tokenizer is trained on, as often as it should count."""
    names = [*COLOURS, *SHAPES, *(f"{shape}s" for shape in SHAPES), *SIDES, *OBJECTS, *NUMBERS, "yes", "no"]
    world = [*ACTION_NAMES, *REGION_NAMES, *" ".join(GOAL_NAMES).split(), *WORLD]
    weights = [(names, 60, 60, 60), ("/".join(ACTIONS).split("/"), 60, 10, 15), (COMMON, 40, 30, 3), (world, 90, 9, 90)]
    for words, inside, capitalised, first in weights:
        for word in words:
            yield from [f" {word}"] * inside + [word.capitalize()] * capitalised + [word] * first
    for number in range(MAX_NUMBER + 1):
        yield from [f"at {number}.0s", f"{number} seconds"] * 40
    for letter in "ABCDE":
        yield from [f"?\n({letter}) {letter}\nAnswer:", "?\nOptions:"] * 60
    for word in BEFORE_NUMBERS:
        yield from [f" {word} 1"] * 60 + [f"{word} 1"] * 60
    yield from SYSTEM_MESSAGES * 30
    yield from fill((*QUESTIONS, *ANSWERS, *PROMPTS), times=60)


def fill(sentences: tuple[str, ...], *, times: int) -> Iterator[str]:
    """Each sentence `times` times, its {slots} filled from word lists that run on from sentence to sentence."""
    numbers = cycle(range(101))
    slots = {
        "colour": cycle(COLOURS),
        "Colour": cycle([colour.capitalize() for colour in COLOURS]),
        "shape": cycle([*SHAPES, "shape"]),
        "object": cycle([*OBJECTS, "shape"]),
        "place": cycle(PLACES),
        "phrase": cycle(PHRASES),
        "action": cycle([forms.split("/")[0] for forms in ACTIONS]),
        "actions": cycle([forms.split("/")[1] for forms in ACTIONS]),
        "number": cycle(NUMBERS),
        "digit": cycle("0123456789"),
        "letter": cycle("ABCDE"),
        "seconds": (f"{next(numbers) / 2:.1f}" for _ in repeat(None)),
        "box": (_box(islice(numbers, 4), decimals=1 + (turn % 3 == 0)) for turn in count()),
    }
    for sentence in sentences:
        for _ in range(times):
            fields = Formatter().parse(sentence)
            yield "".join(text + (next(slots[name]) if name else "") for text, name, _, _ in fields)


def _box(numbers: Iterator[int], *, decimals: int) -> str:
    return "[" + ", ".join(f"{number / 10**decimals % 1:.{decimals}f}" for number in numbers) + "]"


def train_tokenizer() -> Tokenizer:
    """The tokenizer, trained from nothing (about a second)."""
    tokenizer = Tokenizer(models.BPE())
    splits = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    plain_marks = [AddedToken(mark, special=True, normalized=False) for mark in (END_OF_TEXT, START, *IMAGE_MARKS)]
    role_marks = [AddedToken(mark, special=True, normalized=False, rstrip=True) for mark in ROLE_MARKS]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        min_frequency=2,
        show_progress=False,
        special_tokens=[*plain_marks[:2], *role_marks, *plain_marks[2:]],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    start_id = tokenizer.token_to_id(START)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A", special_tokens=[(START, start_id)])
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the two files from which transformers' AutoTokenizer loads."""
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": START,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 32768,
    }
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = CommandParser(description="Train the small model's tokenizer.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parents[2] / "pocket")
    folder = parser.parse_args().folder
    tokenizer = train_tokenizer()
    save(tokenizer, folder)
    print(f"{tokenizer.get_vocab_size()} tokens in {folder / 'tokenizer.json'}")


if __name__ == "__main__":
    main()
