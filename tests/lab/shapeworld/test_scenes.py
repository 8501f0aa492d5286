"""Scenes: the same seed the same scene, splits that never meet, tracks without contradictions."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise, product

import pytest

from videochat_online.lab.shapeworld.scenes import UNSEEN, WALL_HALF, Scene
from videochat_online.lab.shapeworld.simulate import LEVELS, MAX_SEED, SPLITS, are_neighbours, rook_cells, sample_stream
from videochat_online.lab.shapeworld.vocabulary import (
    ACTION_NAMES,
    COLOUR_NAMES,
    GOAL_NAMES,
    REGION_NAMES,
    action_after,
    cell_centre,
    goal_of,
    region_at,
    relation,
)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [sample_stream(seed, "train", level, 40) for level in LEVELS for seed in range(40)]


def test_same_seed_same_scene_and_every_part_of_the_seed_matters():
    scene = sample_stream(5, "train", 3, 30)
    assert scene == sample_stream(5, "train", 3, 30)
    others = [sample_stream(6, "train", 3, 30), sample_stream(5, "dev", 3, 30), sample_stream(5, "train", 4, 30)]
    others += [sample_stream(5, "train", 3, 31), sample_stream(5, "train", 3, 30, pace=2)]
    assert all(other.things != scene.things for other in others)


def test_splits_share_no_scene():
    tracks = {split: {sample_stream(seed, split, 3, 30).things for seed in range(200)} for split in SPLITS}
    keys = {split: {sample_stream(seed, split, 3, 30).key for seed in range(200)} for split in SPLITS}
    for found in (tracks, keys):
        assert all(len(values) == 200 for values in found.values())
        assert len(set.union(*found.values())) == 200 * len(SPLITS)


def test_segments_follow_each_other_in_half_seconds(scenes):
    for scene in scenes:
        for thing in scene.things:
            assert thing.segments[0].start == 0.0
            assert thing.segments[-1].end >= scene.seconds + 1
            for before, after in pairwise(thing.segments):
                assert before.end == after.start
                assert 2 * before.end == int(2 * before.end)
                if "away" not in (before.kind, after.kind):  # a thing may come back on another side
                    assert before.knots[-1][1:] == pytest.approx(after.knots[0][1:])


def test_moves_go_along_rows_and_columns_and_two_things_never_stand_in_one_cell(scenes):
    for scene in scenes:
        for thing in scene.things:
            for segment in thing.segments:
                if segment.kind == "move":
                    assert segment.target in rook_cells(segment.place)
                    assert 0 in segment.direction
        for half in range(int(2 * scene.seconds)):
            cells = [thing.at(half / 2).place for thing in scene.things if scene.standing(thing, half / 2)]
            assert len(set(cells)) == len(cells)


def test_actions_follow_the_routine_and_stand_where_they_say(scenes):
    for scene in scenes:
        for thing in scene.things:
            for before, after in pairwise(thing.acts):
                assert after.action == action_after(before.action, thing.goal)
            for act in thing.acts:
                assert region_at(*thing.position(act.start)) == act.place


def test_names_are_never_shared(scenes):
    for scene in scenes:
        names = [{(colour, thing.shape) for _, colour in thing.colours} for thing in scene.things]
        assert sum(map(len, names)) == len(set.union(*names))


def test_events_agree_with_the_tracks(scenes):
    kinds = Counter()
    for scene in scenes:
        assert [event.time for event in scene.events] == sorted(event.time for event in scene.events)
        for event in scene.events:
            thing = scene.things[event.thing]
            kinds[event.kind] += 1
            if event.kind in ("leaves", "hides behind the"):
                assert scene.presence(thing, event.time) is False
            if event.kind == "performs the":
                assert ACTION_NAMES[thing.at(event.time).action] == event.detail
            if event.kind == "turns":
                assert COLOUR_NAMES[thing.colour(event.time)] == event.detail
                assert scene.presence(thing, event.time) is not False
                assert COLOUR_NAMES[thing.colour(event.time - 0.5)] != event.detail
    assert set(kinds) >= {"appears at the", "comes back at the", "leaves", "moves to the", "turns", "meets"}
    assert "hides behind the" in kinds


def test_hidden_things_are_behind_the_wall(scenes):
    hidden = 0
    for scene in scenes:
        for thing in scene.things:
            assert thing.radius < WALL_HALF
            for segment in thing.segments:
                if segment.kind == "hide":
                    hidden += 1
                    assert segment.place == scene.wall and scene.behind_wall(*thing.position(segment.start))
    assert hidden > 5


def test_all_cells_and_directions_are_equally_likely():
    """Chi-square over independent scenes: 8 degrees of freedom stay below 26.1 and 3 below 16.3 (p = 0.001)."""
    cells, directions, goals = Counter(), Counter(), Counter()
    for seed in range(1500):
        thing = sample_stream(seed, "dev", 3, 20).things[0]
        goals[thing.goal] += 1
        cells.update({thing.at(15).place} if thing.at(15).kind in ("rest", "act") else ())
        moves = [segment.direction for segment in thing.segments if segment.kind == "move"]
        directions.update(moves[:1])
    for counts, num, limit in ((cells, 9, 26.1), (directions, 4, 16.3), (goals, len(GOAL_NAMES), 16.3)):
        expected = counts.total() / num
        assert len(counts) == num
        assert sum((count - expected) ** 2 / expected for count in counts.values()) < limit


def test_presence_is_unsure_only_while_something_comes_or_goes(scenes):
    for scene in scenes:
        for thing in scene.things:
            for segment in thing.segments:
                sure = scene.presence(thing, segment.start)
                assert (sure is False) == (segment.kind in UNSEEN)
                if segment.kind in ("enter", "leave"):
                    assert sure is None


def test_long_streams_are_slower():
    def events_a_minute(scene: Scene) -> float:
        return 60 * len(scene.events) / scene.seconds / len(scene.things)

    short = [events_a_minute(sample_stream(seed, "dev", 2, 30)) for seed in range(20)]
    long = [events_a_minute(sample_stream(seed, "dev", 2, 120)) for seed in range(20)]
    assert sum(long) < 0.6 * sum(short)
    assert sample_stream(1, "dev", 2, 600).pace == 4.0


def test_every_ordered_pair_of_actions_belongs_to_one_goal():
    pairs = {}
    for action, goal in product(range(len(ACTION_NAMES)), range(len(GOAL_NAMES))):
        pairs[action, action_after(action, goal)] = goal
        assert goal_of(action, action_after(action, goal)) == goal
    assert len(pairs) == len(ACTION_NAMES) * (len(ACTION_NAMES) - 1)
    with pytest.raises(ValueError, match="no routine repeats"):
        goal_of(1, 1)


def test_relations_and_neighbours():
    left_top, center, right_bottom = (REGION_NAMES.index(name) for name in ("left-top", "center", "right-bottom"))
    assert relation(right_bottom, left_top) == "right-bottom"
    assert relation(left_top, center) == "left-top"
    assert relation(REGION_NAMES.index("top"), center) == "top"
    assert are_neighbours(center, REGION_NAMES.index("bottom")) and not are_neighbours(center, left_top)
    assert not are_neighbours(0, -1)
    assert all(region_at(*cell_centre(cell)) == cell for cell in range(9))
    with pytest.raises(ValueError, match="no direction to itself"):
        relation(4, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "validation"}, "unknown split 'validation', expected one of train"),
        ({"level": 9}, "unknown level 9, expected one of 1, 2, 3, 4"),
        ({"seed": -1}, "got -1"),
        ({"seed": MAX_SEED}, "seed must be from 0"),
        ({"seconds": 1}, "5 to 3600 seconds, got 1"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sample_stream(**{"seed": 0, **arguments})
