"""Which option a reply chooses, as a careful reader takes it. Knows no benchmark; published rules stay with theirs.

The order of trust: a letter that stands first or alone, one in a box or a tag, one that is announced ("the answer is
C"), one in brackets, one on its own, the words of exactly one option.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

THOUGHTS = re.compile(r"^.*[<◁]/think(?:ing)?[>▷]|[<◁]think(?:ing)?[>▷].*$", re.DOTALL | re.IGNORECASE)
"""What is not the answer: all up to the end of the thinking, or thinking that was cut off."""
MARKS = re.compile(r"<\|[^|>]*\|>|\bassistant\s*:|[*`$\"“”‘’]|(?<!\w)'|'(?!\w)", re.IGNORECASE)
"""Marks of a chat template and of markdown, quotes; an apostrophe stays."""
NEXT = r"(?![^\W_\u3040-\u9fff\uac00-\ud7a3]|['’-]\w)"
"""The letter is no part of a word; a line below it is no letter, and CJK writes no space behind it."""
ANNOUNCED = (
    r"(?:(?<!\w)(?:answer|choice|choose|chose|pick|picked|select|selected|say|go\s+with|"
    r"(?:correct|right|best)\s+(?:option|one|choice)|r[ée]ponse|respuesta|resposta|antwort|risposta|ответ)|"
    r"答案|答え|正解|正答|정답|选择?|選擇?)"
)
LINKS = (
    r"(?:[\s:=,\-(\[【]|\b(?:is|be|would|must|should|option|choice|letter|the|est|es|ist|é|è)\b|"
    r"是|为|為|は|项|項|은|는)*"
)
WRONG = r"(?!\W*(?:is|are|was|seems)\s+(?:wrong|incorrect|false|not\b))"
NOUN_FOLLOWS = re.compile(
    r"\s+(?!(?:is|was|and|or|because|since|as|seems|would|in|on|at|from|for|to|with|that|which|here|so|but|not|it|he|she|they)\b)[a-z]"
)
JOINED = r"(?:[/&+和与與跟及或とや및와과]|\b(?:and|or|nor|und|oder|et|ou|y)\b)"
COMMA = "[,;、，]"
DENIED = re.compile(r"(?:\b(?:not|nor|never|neither)|n[’']t(?:\s+be)?)\s+$", re.IGNORECASE)


def read_letter(reply: str, letters: str = "ABCDE", options: Sequence[str] = ()) -> str | None:
    """The option that `reply` chooses, a capital of `letters`; None where no answer can be found.

    The article is not option A: a small letter counts only where it is marked (`(a)`, a line `b.`, `answer: c`), and
    an A before a noun (`A man walks`) does not count. `options`: their texts, in the order of
    `letters`; one of them counts where no letter stands and no other option is named.

    Several letters in one breath (`both A and B`), and options that are repeated one after the other, choose none.

    >>> [read_letter(text) for text in ("(B) a dog", "A is wrong; the answer is C.", "A man walks", "Both A and B")]
    ['B', 'C', None, None]
    """
    # 1. what was answered, without thoughts and marks, in plain letters
    text = MARKS.sub(" ", unicodedata.normalize("NFKC", THOUGHTS.sub("", reply))).strip()
    text = _without_lists(text, letters, options)
    said = set(re.findall(r"\w+", text.upper()))
    if len(said) > 1 and said <= set(letters):
        return None  # nothing but several letters
    # 2. a letter
    for found in _letters(text, f"[{letters}{letters.lower()}]", f"[{letters}]"):
        return found.upper()
    # 3. the words of one option
    return _option_named(text, letters, options)


def _letters(text: str, letter: str, capital: str) -> Iterator[str]:
    """Letters that may be the answer, most trusted first."""
    # 1. nothing else is there, or it stands first: "B", "(b) a ball", "B: a ball", "B - a ball"
    yield from re.findall(rf"^\W*({letter})\W*$", text)
    yield from re.findall(rf"^[(\[【]\s*({letter})\s*[)\]】]{WRONG}", text)
    yield from re.findall(rf"^({letter})(?:\s*[.):\]】]|\s+[-–—]\s)", text)
    yield from re.findall(rf"^({capital})(?:[,;_\t\n]|[-–—](?!\w))", text)
    # 2. in a box or a tag: the last one
    marked = rf"(?:\\boxed\{{\W*(?:\\text\w*\{{)?|(?i:<answer>))\W*({letter}){NEXT}"
    yield from reversed([m[1] for m in re.finditer(marked, text) if not _is_article(text, m)])
    # 3. announced: the last one; a small letter where no noun can follow it
    announced = rf"(?i:{ANNOUNCED}{LINKS})({letter}){NEXT}{WRONG}"
    yield from reversed([m[1] for m in re.finditer(announced, text) if not _is_article(text, m)])
    named = rf"(?i:\b(?:option|choice)\s*:?\s*)({letter}){NEXT}{WRONG}"
    yield from [m[1] for m in re.finditer(named, text) if not _is_article(text, m)]
    # 4. in brackets, a line of its own, or a capital that is no article; none that is denied
    alone = "|".join(
        (
            rf"[(\[【]\s*({letter})\s*[)\]】]{WRONG}",
            rf"(?m:^[^\S\n]*({letter})[^\S\n]*(?:[.):]|$))",
            rf"(?<![\w'’-])({capital}){NEXT}{WRONG}",
        )
    )
    for match in re.finditer(alone, text):
        if not _is_article(text, match) and not DENIED.search(text, 0, match.start()):
            yield match[match.lastindex or 0]


def _without_lists(text: str, letters: str, options: Sequence[str]) -> str:
    """`text` without letters that are named together, and without options repeated one after the other."""
    small, named = letters.lower(), r"(?:(?i:options?|choices?)\s+)?"
    one = rf"[(\[]?(?<![^\W_\u3040-\u9fff\uac00-\ud7a3])[{letters}{small[1:]}]{NEXT}[)\]]?"  # "and a dog" names no A
    first = rf"(?:\b[{small}]\b|{one})(?:\s*{COMMA}\s*{one}){{0,25}}"
    text = re.sub(rf"{first}{COMMA}?(?:\s*{JOINED}\s*{named}{one})+", " ", text)
    text = re.sub(rf"(?<=[:{{>是为])\s*{one}(?:\s*{COMMA}\s*{one})+", " ", text)
    texts = zip(letters, map(str.strip, options), strict=False)
    entries = [rf"[(\[]?(?<!\w){letter}\W*{re.escape(option)}" for letter, option in texts if option]
    return re.sub(rf"(?:(?:{'|'.join(entries)})[\s,;.]*){{2,}}", " ", text) if entries else text


def _is_article(text: str, match: re.Match[str]) -> bool:
    """Whether the letter that was found may be the word "a" before a noun."""
    start, end = match.span(match.lastindex or 0)
    return text[start:end] in ("A", "a") and NOUN_FOLLOWS.match(text, end) is not None


def _option_named(text: str, letters: str, options: Sequence[str]) -> str | None:
    """The letter of the only option whose words stand in the text; of options within one another, the longest."""
    words, said = words_of(text), [words_of(option) for option in options]
    if sorted(said) == ["no", "yes"] and (first := re.match(r"(yes|no)\b(?! (?:(?:and|or) )?(?:yes|no)\b)", words)):
        return letters[said.index(first[0])]  # what follows explains: Yes, there is no dog left
    named = [option for option in said if option and f" {option} " in f" {words} "]
    longest = [one for one in named if not any(one != other and f" {one} " in f" {other} " for other in named)]
    return letters[said.index(longest[0])] if len(longest) == 1 else None


def words_of(text: str) -> str:
    """A text as answers are compared: its words in small letters, without punctuation and marks, a space between."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))
