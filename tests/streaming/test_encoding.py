"""Encoding for several sessions at once, work ahead in a thread, and frames that did not change."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from videochat_online import StreamingSession, load_model, open_video
from videochat_online.media.readers import MediaError
from videochat_online.streaming import encoding
from videochat_online.streaming.encoding import FrameEncoder, SharedEncoder
from videochat_online.streaming.threads import stream_pieces
from videochat_online.streaming.watching import watch

from .sessions import pictures


def held(session):
    return [(frame.index, frame.level, frame.features) for frame in session.memory.read()]


def same_memory(one, other):
    for (index, level, features), (other_index, other_level, other_features) in zip(
        held(one), held(other), strict=True
    ):
        assert (index, level) == (other_index, other_level)
        torch.testing.assert_close(features, other_features, atol=1e-4, rtol=1e-4)


def test_sessions_share_an_encoder_and_do_not_touch(pocket):
    before = threading.active_count()
    with SharedEncoder(*pocket, wait=0.05) as encoder:
        sessions = [StreamingSession(*pocket, encoder=encoder) for _ in range(4)]
        barrier = threading.Barrier(4)

        def run(number):
            for k, picture in enumerate(pictures(10, number)):
                barrier.wait()
                sessions[number].see(picture, float(k))

        threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert encoder.num_batches < 40, "frames of several sessions must go through the model together"
    for number, session in enumerate(sessions):
        alone = StreamingSession(*pocket)
        alone.see_many(pictures(10, number), range(10))
        same_memory(session, alone)
    assert threading.active_count() == before
    with pytest.raises(ValueError, match="closed"):
        encoder.encode(torch.zeros(1, 3, 64, 64))


def test_an_error_reaches_the_session_it_belongs_to_and_the_encoder_goes_on(pocket):
    with SharedEncoder(*pocket) as encoder:
        with pytest.raises(Exception, match=r"channels|size|shape"):
            encoder.encode(torch.zeros(1, 5, 64, 64))
        assert encoder.encode(torch.zeros(2, 3, 64, 64)).shape == (2, 512, 4, 4)


def test_others_go_first_between_pieces_and_their_time_is_no_encoding(pocket, monkeypatch):
    now, told = [0.0], []
    monkeypatch.setattr(encoding, "time", SimpleNamespace(monotonic=lambda: now[0]))
    pixels = torch.rand(10, 3, 64, 64)
    with SharedEncoder(*pocket) as encoder:
        encoder.before_batch = lambda: now.__setitem__(0, now[0] + 100)
        encoder.on_batch = lambda num, seconds: told.append((num, seconds))
        torch.testing.assert_close(encoder.encode(pixels), FrameEncoder(*pocket).encode(pixels), atol=1e-4, rtol=1e-4)
        assert told == [(4, 0.0), (4, 0.0), (2, 0.0)] and encoder.num_batches == 3 and now == [300.0]
        encoder.before_batch = iter([None]).__next__  # the second piece fails
        with pytest.raises(StopIteration):
            encoder.encode(pixels)
        encoder.before_batch = lambda: None
        assert len(encoder.encode(pixels)) == 10


def test_watch_equals_seeing_by_hand(pocket):
    with open_video("videochat_online/pocket/sample.mp4") as video:
        indices = list(range(0, len(video), 5))
        watched, progress = StreamingSession(*pocket), []
        watch(watched, video, indices, on_progress=progress.append)
        by_hand = StreamingSession(*pocket)
        for frame in video.read(indices):
            by_hand.see(frame.image, frame.timestamp)
    same_memory(watched, by_hand)
    assert sum(progress) == len(indices) == watched.stats()["frames_seen"]


def test_pieces_keep_their_order_and_hand_on_errors():
    def counting(emit, stop):
        for number in range(50):
            emit(number)

    def failing(emit, stop):
        emit(1)
        raise MediaError("clip.mp4: broken")

    assert list(stream_pieces(counting, depth=2)) == list(range(50))
    items = stream_pieces(failing)
    assert next(items) == 1
    with pytest.raises(MediaError, match="broken"):
        next(items)


def test_leaving_early_ends_the_thread():
    before, made = threading.active_count(), []

    def endless(emit, stop):
        while not stop.is_set():
            made.append(1)
            emit(len(made))

    items = stream_pieces(endless, depth=2)
    assert next(items) == 1
    items.close()
    assert threading.active_count() == before
    count = len(made)
    time.sleep(0.05)
    assert len(made) == count <= 5


class CountingEncoder:
    """Counts frames that reach the model."""

    def __init__(self, session):
        self.inner, self.count = session.encoder, 0
        self.prepare, self.on_device = self.inner.prepare, self.inner.on_device

    def encode(self, pixels):
        self.count += len(pixels)
        return self.inner.encode(pixels)


@pytest.mark.parametrize("together", [True, False])
def test_unchanged_frames_are_not_encoded(pocket, together):
    scenes = pictures(3)
    shown = [scenes[0]] * 5 + [scenes[1]] * 6 + [scenes[0]] + [scenes[2]] * 4
    plain, skipping = StreamingSession(*pocket), StreamingSession(*pocket, skip_below=1.0)
    skipping.encoder = CountingEncoder(skipping)
    plain.see_many(shown, range(len(shown)))
    if together:
        skipping.see_many(shown, range(len(shown)))
    else:
        for k, picture in enumerate(shown):
            skipping.see(picture, float(k))
    same_memory(plain, skipping)  # equal pictures have equal features, so nothing is lost
    assert skipping.encoder.count == 4 and skipping.stats()["frames_skipped"] == 12
    assert plain.stats()["frames_skipped"] == 0


def test_small_changes_add_up(pocket):
    """A frame is compared with the last encoded one, so a slow drift is not missed."""
    session = StreamingSession(*pocket, skip_below=4.0)
    session.encoder = CountingEncoder(session)
    for k in range(20):
        session.see(np.full((48, 48, 3), 10 * 1 + k, np.uint8), float(k))
    assert 4 <= session.encoder.count <= 6


def test_a_threshold_must_be_a_difference(pocket):
    for wrong in (0.0, -1.0):
        with pytest.raises(ValueError, match="skip_below must be a difference"):
            StreamingSession(*pocket, skip_below=wrong)


def test_closing_a_shared_encoder_leaves_nobody_waiting(pocket):
    encoder, ended = SharedEncoder(*pocket, wait=0.0), []

    def run():
        pixels = encoder.prepare(pictures(1))
        with pytest.raises(ValueError, match="is closed"):
            while True:
                encoder.encode(pixels)
        ended.append(True)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    encoder.close()
    encoder.close()
    for thread in threads:
        thread.join(timeout=10)
    assert len(ended) == 4


def test_an_error_while_watching_ends_the_thread_that_reads(pocket, golden):
    session, before = StreamingSession(*pocket, encode_batch_size=2), threading.active_count()
    session.see(pictures(1)[0], 100.0)  # the video's times lie before it
    with open_video(golden / "media" / "v10.mp4") as video:
        with pytest.raises(ValueError, match="time went back") as caught:
            watch(session, video, range(20))
        assert threading.active_count() == before, caught.value  # the error, and with it the call, is still at hand


@pytest.mark.gpu
def test_on_a_gpu_frames_are_sent_ahead_and_memory_is_that_of_the_cpu(pocket, golden):
    on_gpu = load_model("pocket", device="cuda", dtype="float32")
    with open_video(golden / "media" / "v10.mp4") as video:
        sessions = [StreamingSession(*loaded, skip_below=skip) for loaded in (pocket, on_gpu) for skip in (None, 2.0)]
        for session in sessions:
            watch(session, video, range(60))
    for cpu, gpu in zip(sessions[:2], sessions[2:], strict=True):
        assert gpu.encoder.prepare(pictures(2)).is_cuda
        same_memory(cpu, gpu)


def test_a_shared_encoder_says_when_it_is_busy(pocket, monkeypatch):
    with SharedEncoder(*pocket, wait=0.0) as encoder:
        assert not encoder.is_busy
        seen = []
        inner = pocket[0].encode_frames
        monkeypatch.setattr(pocket[0], "encode_frames", lambda pixels: seen.append(encoder.is_busy) or inner(pixels))
        encoder.encode(encoder.prepare(pictures(1)))
        assert seen == [True]
