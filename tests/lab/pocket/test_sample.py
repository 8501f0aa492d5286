"""The clip that ships: a held-out stream of the generated world, and what the quickstart asks about it."""

from __future__ import annotations

import numpy as np

from videochat_online import StreamingSession, load_model, open_video
from videochat_online.files import SHIPPED_MODELS
from videochat_online.lab.shapeworld import render_frames
from videochat_online.lab.shapeworld.simulate import sample_stream
from videochat_online.lab.shapeworld.vocabulary import REGION_NAMES

CLIP = SHIPPED_MODELS["pocket"] / "sample.mp4"
SCENE = sample_stream(18, "test", 2, 20.0)
ASKED_AT, EARLIER = 19.5, 11.5


def test_the_clip_is_the_scene():
    with open_video(CLIP) as video:
        assert (len(video.timestamps), video.fps, video.size) == (160, 8.0, (128, 128))
        for frame in video.read([0, 92, 156]):
            drawn = render_frames(SCENE, [frame.timestamp], 128)[0].astype(float)
            assert np.abs(frame.image.astype(float) - drawn).mean() < 8  # chroma at half size, and compression


def test_the_model_knows_where_the_square_is_and_where_it_was():
    square = next(thing for thing in SCENE.things if thing.name(ASKED_AT) == "the yellow square")
    session = StreamingSession(*load_model("pocket", device="cpu"))
    with open_video(CLIP) as video:
        for frame in video.read(range(0, int(ASKED_AT * 8) + 1, 8)):
            session.see(frame.image, frame.timestamp)
    now, then = (REGION_NAMES[square.at(moment).place] for moment in (ASKED_AT, EARLIER))
    assert now != then
    assert session.ask("Where is the yellow square?") == now
    assert session.ask("Where was the yellow square 8 seconds ago (at 11.5s)?") == then
