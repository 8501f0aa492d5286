"""Answers made together: each session says what it would say alone, whoever else is answered, comes or goes."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from videochat_online import StreamingSession
from videochat_online.streaming import together
from videochat_online.streaming.language import LanguageSide, sampling
from videochat_online.streaming.together import SharedDecoder, aside

from .sessions import pictures, watching
from .test_cache import LINE, MODELS, tiny  # noqa: F401 (a fixture)

QUESTIONS = ("What is happening now?", "Where is the red circle?", "What happened before that?", "How many are there?")


@pytest.fixture(autouse=True)
def nobody_is_late(monkeypatch):
    """A pass waits for every row, however slow this machine: what is made together does not depend on time."""
    monkeypatch.setattr(together, "GATHER_SECONDS", 1e6)


@pytest.fixture
def decoder(pocket):
    with SharedDecoder(pocket[0]) as shared:
        yield shared


def at_once(sessions, ask):
    """`ask(number, session)` of all, begun at the same moment."""
    start = threading.Barrier(len(sessions))

    def run(number):
        start.wait()
        return ask(number, sessions[number])

    with ThreadPoolExecutor(len(sessions)) as pool:
        return list(pool.map(run, range(len(sessions))))


def ids_of(question, **options):
    def ask(number, session):
        session.ask(question, **options)
        return session._last_answer.ids

    return ask


def held_together(decoder, sessions):
    """Nothing of the answers is left at the decoder, and each cache holds its prompt and answer."""
    assert not decoder._groups and not decoder._expected and not decoder._waiting and decoder.num_bytes == 0
    for session in sessions:
        cache = session.language.cache
        assert len(cache) == cache.kv.get_seq_length() > 100


def test_over_turns_frames_and_evictions(tiny):  # noqa: F811
    """Sessions of other lengths, on models with other rotary factors, windows and layouts; some frames of which leave."""
    with SharedDecoder(tiny[0]) as decoder:
        here = [StreamingSession(*tiny, decoder=decoder) for _ in range(4)]
        alone = [StreamingSession(*tiny) for _ in range(4)]
        shown, longest = 0, 0
        for turn in range(7):
            for sessions in (here, alone):
                for number, session in enumerate(sessions):
                    more = 1 + (turn + number) % 3
                    at = [100 * turn + k for k in range(more)]
                    session.see_many(pictures(more, seed=shown + number), at)
                    if (turn + number) % 3 == 1:
                        session.prefill()
            shown += 7
            ask = lambda number, session: ids_of(f"What was at {turn}? " * (1 + number), max_new_tokens=3 + 2 * number)(0, session)  # noqa: B023, E501, E731
            expected = [ask(number, session) for number, session in enumerate(alone)]
            assert at_once(here, ask) == expected
            longest = max(longest, *(session.stats()["prompt_tokens"] for session in here))
        assert [session.turns for session in here] == [session.turns for session in alone]
        assert longest > LINE + 20 and decoder.num_tokens > 2 * decoder.num_passes
        held_together(decoder, here)
        assert all(session.stats()["cached_tokens"] > 100 for session in here[:1])
