"""Pictures: what the scene says is what is to be seen, and the same call gives the same pixels."""

from __future__ import annotations

import numpy as np
import pytest

from videochat_online.lab.shapeworld import caption, dense_labels, render_frames, sample_stream
from videochat_online.lab.shapeworld.labels import visible_things
from videochat_online.lab.shapeworld.render import shape_distance
from videochat_online.lab.shapeworld.vocabulary import ACTION_NAMES, COLOUR_NAMES, COLOURS, SHAPE_NAMES


def clear_moments(level: int, seeds: range):
    """(scene, thing, time) of things in full view that rest."""
    for seed in seeds:
        scene = sample_stream(seed, "dev", level, 30)
        for half in range(2, 58, 5):
            for thing in scene.things:
                if scene.standing(thing, half / 2) and thing.at(half / 2).kind == "rest":
                    yield scene, thing, half / 2


def test_frames_do_not_depend_on_what_is_asked_with_them():
    scene = sample_stream(11, "dev", 4, 30)
    times = [0.0, 3.5, 7.25, 29.5]
    frames = render_frames(scene, times, 64)
    assert frames.shape == (4, 64, 64, 3) and frames.dtype == np.uint8
    assert np.array_equal(frames, render_frames(scene, times, 64))
    assert np.array_equal(frames[::-1], render_frames(scene, times[::-1], 64))
    assert np.array_equal(frames[2], render_frames(scene, [7.25], 64)[0])
    many = render_frames(scene, np.arange(0, 30, 0.125), 64)  # more than one chunk
    assert np.array_equal(many[28], frames[1])


@pytest.mark.parametrize("size", [64, 96, 256])
def test_a_resting_thing_shows_its_colour_where_it_stands(size):
    seen = 0
    for scene, thing, time in clear_moments(3, range(25)):
        if SHAPE_NAMES[thing.shape] == "ring":
            continue
        x, y = thing.position(time)
        frame = render_frames(scene, [time], size)[0].astype(int)
        patch = frame[round(y * size) - 1 : round(y * size) + 2, round(x * size) - 1 : round(x * size) + 2].mean((0, 1))
        distances = [np.abs(patch - np.array(COLOURS[name])).sum() for name in COLOUR_NAMES]
        assert int(np.argmin(distances)) == thing.colour(time)
        assert min(distances) < 60  # noise over nine pixels
        seen += 1
    assert seen > 20


def test_each_action_looks_different_from_rest_and_from_the_others():
    scene = next(s for s in (sample_stream(seed, "dev", 1, 60) for seed in range(40)) if len(s.things[0].acts) > 6)
    thing = scene.things[0]
    looks = {}
    for act in thing.acts:
        time = act.start + 1.0
        if time < scene.seconds:
            x, y = (round(value * 128) for value in thing.position(time))
            frame = np.pad(render_frames(scene, [time], 128)[0].astype(float), ((64, 64), (64, 64), (0, 0)))
            looks[act.action] = frame[y + 64 - 24 : y + 64 + 24, x + 64 - 24 : x + 64 + 24]
    assert set(looks) == set(range(len(ACTION_NAMES)))
    for first in looks:
        for second in looks:
            if first < second:
                changed = np.abs(looks[first] - looks[second]).max(-1) > 60
                assert changed.sum() > 40


def test_away_things_leave_nothing_behind():
    for seed in range(40):
        scene = sample_stream(seed, "dev", 1, 30)
        gone = [part for part in scene.things[0].segments if part.kind == "away" and part.end < 30]
        if gone:
            middle = (gone[0].start + gone[0].end) / 2
            frames = render_frames(scene, [gone[0].start, middle], 64).astype(int)
            assert np.abs(frames[0] - frames[1]).max() < 12 * scene.look.noise  # two noises, nothing else
            assert caption(scene, middle) == "Nothing."
            return
    pytest.fail("no scene with an absence")


def test_a_hidden_thing_is_covered_by_the_wall():
    for seed in range(200):
        scene = sample_stream(seed, "dev", 4, 30)
        for thing in scene.things:
            for part in thing.segments:
                if part.kind == "hide" and part.end < 30:
                    assert thing not in visible_things(scene, part.start)
                    before = next(other for other in thing.segments if other.end == part.start)
                    assert thing in visible_things(scene, before.start)
                    return
    pytest.fail("no scene in which something hides")


def test_noise_differs_from_frame_to_frame():
    scene = sample_stream(3, "dev", 4, 30)
    frames = render_frames(scene, [10.0, 10.1], 64).astype(int)
    assert (frames[0] != frames[1]).mean() > 0.8


@pytest.mark.parametrize("name", SHAPE_NAMES)
def test_shapes_fill_about_their_radius(name):
    axis = np.linspace(-1.5, 1.5, 121)
    inside = shape_distance(SHAPE_NAMES.index(name), axis[None, :], axis[:, None]) < 0
    rows, columns = np.nonzero(inside)
    assert 0.35 < inside.mean() * 9 / np.pi <= 1.0  # of a circle of radius 1
    assert 0.75 < np.abs(axis[rows]).max() <= 1.05 and 0.75 < np.abs(axis[columns]).max() <= 1.05


def test_dense_labels_name_what_is_at_each_cell():
    seen = 0
    for scene, thing, time in clear_moments(3, range(25)):
        labels = dense_labels(scene, time, 8)
        x, y = thing.position(time)
        row, column = int(y * 8), int(x * 8)
        assert labels.shape[row, column] == 1 + thing.shape
        assert labels.colour[row, column] == 1 + thing.colour(time)
        assert labels.action[row, column] == 0
        centre = (np.array([column, row]) + 0.5) / 8
        assert centre + labels.offsets[row, column] == pytest.approx([x, y], abs=1e-6)
        assert (labels.shape == 0).sum() > 30 and not labels.offsets[labels.shape == 0].any()
        assert thing.name(time).capitalize() in caption(scene, time)
        seen += 1
    assert seen > 20


def test_action_labels():
    scene = sample_stream(2, "dev", 1, 30)
    act = scene.things[0].acts[0]
    labels = dense_labels(scene, act.start + 0.5, 8)
    assert set(np.unique(labels.action)) == {0, 1 + act.action}
    assert f"performs the {ACTION_NAMES[act.action]}" in caption(scene, act.start + 0.5)


def test_wrong_times_and_sizes_are_refused():
    scene = sample_stream(0, "dev", 1, 30)
    with pytest.raises(ValueError, match="0 to 30 s, got 31 to 31 s"):
        render_frames(scene, [31.0], 64)
    with pytest.raises(ValueError, match="at least 16 pixels a side, got 8"):
        render_frames(scene, [1.0], 8)
    assert render_frames(scene, [], 64).shape == (0, 64, 64, 3)
