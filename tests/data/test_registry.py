"""Lists: paths from the environment, near matches for wrong keys, one report of all that is wrong."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from videochat_online.data.registry import Annotations, ChangedError, collect_lists, read_lists

ROOT = Path(__file__).parents[2]
ENTRY = {
    "annotation": "${ANNO_ROOT}/a.json",
    "data_root": "${DATA_ROOT}/videos",
    "data_augment": False,
    "repeat_time": 1,
}
ENVIRONMENT = {"ANNO_ROOT": "/anno", "DATA_ROOT": "/data"}
ONLINE = {
    "coin_sl", "hirest_sl", "anet_dvc", "youcook_dvc", "charades_tg", "didemo_tg", "queryd_tg", "hirest_tg", "ava_stad",
    "got10k_track", "lasot_track",
}  # fmt: skip


def write(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value), "utf-8")
    return path


def test_paths_come_from_the_environment_and_start_at_the_list(tmp_path: Path):
    path = write(
        tmp_path / "list.json", {"a": ENTRY, "b": {"annotation": "rows/b.jsonl", "data_root": ".", "repeat_time": 0.5}}
    )
    first, second = read_lists([path], ENVIRONMENT)
    assert (first.annotation, first.data_root) == (Path("/anno/a.json"), Path("/data/videos"))
    assert (second.annotation, second.data_root) == (tmp_path / "rows/b.jsonl", tmp_path)
    assert (second.repeat_time, second.data_augment, second.max_dynamic_patch) == (0.5, False, None)


WRONG = {
    "unset variable": (
        {"a": ENTRY},
        "the environment variable DATA_ROOT is not set, 1 of 1 data sets need it",
    ),
    "unknown key": ({"a": {**ENTRY, "repeat_times": 2}}, "unknown key 'repeat_times'.*did you mean 'repeat_time'"),
    "InternVL's key": ({"a": {**ENTRY, "root": "x"}}, "unknown key 'root'.*did you mean 'data_root'"),
    "no annotation": ({"a": {"data_root": "x"}}, "annotation must be a path, got None"),
    "repeat_time": ({"a": {**ENTRY, "repeat_time": 0}}, "repeat_time must be a number > 0, got 0"),
    "augment": ({"a": {**ENTRY, "data_augment": "yes"}}, "data_augment must be true or false, got 'yes'"),
    "patches": ({"a": {**ENTRY, "max_dynamic_patch": 0}}, "max_dynamic_patch must be an integer >= 1, got 0"),
    "no list": ([ENTRY], "a data-set list is an object .* got rows; `videochat-online data check .* writes their list"),
    "a row": ({"video": "a", "conversations": []}, "a data-set list is an object .*, got rows"),
    "a text": ('"x"', "a data-set list is an object .*, got str"),
    "no set": ({}, "no data sets"),
    "no json": ('{"a": {"annotation": }', r"line 1, column 22: not json"),
    "twice": ('{"a": {}, "a": {}}', "key 'a' stands twice"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_list_says_what_and_where(case: str, tmp_path: Path):
    value, message = WRONG[case]
    path = write(tmp_path / "list.json", value)
    environment = {"ANNO_ROOT": "/anno"} if case == "unset variable" else ENVIRONMENT
    with pytest.raises(ValueError, match=message) as caught:
        read_lists([path], environment)
    assert case == "no set" or str(path) in str(caught.value)


def test_a_table_is_no_list(tmp_path: Path):
    with pytest.raises(ValueError, match=r"t\.CSV is a table: `videochat-online data import .* makes a list of it"):
        read_lists([write(tmp_path / "t.CSV", "video,question,answer\n")])


def test_a_missing_list_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'no.json'}: cannot be read")):
        read_lists([tmp_path / "no.json"])


def test_all_problems_come_together(tmp_path: Path):
    good = write(tmp_path / "good.json", {"a": ENTRY})
    bad = write(tmp_path / "bad.json", {"a": ENTRY, "b": {**ENTRY, "rot": 1}, "c": {**ENTRY, "repeat_time": -1}})
    sets, problems = collect_lists([good, bad, tmp_path / "no.json"], ENVIRONMENT)
    assert [one.name for one in sets] == ["a"]
    assert [
        word in problem for word, problem in zip(("two lists", "'rot'", "-1", "no.json"), problems, strict=True)
    ] == [True] * 4


def test_a_variable_that_nobody_set_is_one_problem_of_all_its_sets(tmp_path: Path):
    path = write(tmp_path / "list.json", {"a": ENTRY, "b": ENTRY, "c": {"annotation": "c.json", "data_root": "."}})
    sets, problems = collect_lists([path], {"DATA_ROOT": ""})
    assert [one.name for one in sets] == ["c"]
    assert [name in problem for name, problem in zip(("ANNO_ROOT", "DATA_ROOT"), problems, strict=True)] == [True, True]


def test_the_shipped_lists_hold_the_recipe():
    offline = {one.name: one for one in read_lists([ROOT / "anno_data/stage1_offline.json"], ENVIRONMENT)}
    joint = {one.name: one for one in read_lists([ROOT / "anno_data/stage2_online.json"], ENVIRONMENT)}
    assert set(joint) - set(offline) == ONLINE
    assert all(joint[name] == offline[name] for name in offline)
    for start in ("videochat2_", "star", "perception_test", "sharegpt4v", "sharegpt4o", "llava_onevision"):
        assert any(name.startswith(start) for name in offline)
    assert joint["coin_sl"].annotation == Path("/anno/anno_online/step_localization/coin/coin_v3.json")
    assert joint["lasot_track"].annotation == Path("/anno/anno_online/object_tracking/lasot_dynamic.json")
    assert all(Path("/data") in one.data_root.parents for one in joint.values())


@pytest.mark.parametrize("installed", [False, True])
def test_the_lists_that_ship_are_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool
):
    """In the source tree they stand beside the package, in a wheel inside it; one in the working folder goes first."""
    if installed:
        (tmp_path / "package").mkdir()
        (tmp_path / "package" / "anno_data").symlink_to(ROOT / "anno_data")
        monkeypatch.setattr("videochat_online.files.PACKAGE", tmp_path / "package")
    monkeypatch.chdir(tmp_path)
    want = read_lists([ROOT / "anno_data/stage2_online.json"], ENVIRONMENT)
    assert read_lists(["anno_data/stage2_online.json"], ENVIRONMENT) == want
    for name in ("stage2_online.json", "anno_data/mine.json"):
        with pytest.raises(ValueError, match=f"{name}: cannot be read"):
            read_lists([name], ENVIRONMENT)
    (tmp_path / "anno_data").mkdir()
    (tmp_path / "anno_data/stage2_online.json").write_text("[]")
    with pytest.raises(ValueError, match="a data-set list is an object"):
        read_lists(["anno_data/stage2_online.json"], ENVIRONMENT)


ROWS = [{"text": "one"}, {"text": "zwölf Zöpfe"}, {"text": "三"}]
LAYOUTS = {
    "a list": json.dumps(ROWS),
    "a list of words as they are": json.dumps(ROWS, ensure_ascii=False, indent=1),
    "a row a line": "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS),
    "lines of Windows": "\r\n".join(["", *(json.dumps(row, ensure_ascii=False) for row in ROWS), ""]),
}


@pytest.mark.parametrize("most", [0, 2**20])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_held_and_rows_of_a_large_file_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, mark: bytes, most: int
):
    monkeypatch.setattr("videochat_online.data.registry.LARGEST_HELD", most)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(mark + LAYOUTS[layout].encode())
    rows = Annotations(path)
    for one in (rows, pickle.loads(pickle.dumps(rows))):
        assert [one[number] for number in range(len(one))] == ROWS


def test_a_large_file_that_is_written_over_is_an_error_a_small_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "rows.json"
    path.write_text(LAYOUTS["a list"])
    held = Annotations(path)
    monkeypatch.setattr("videochat_online.data.registry.LARGEST_HELD", 0)
    read = Annotations(path)
    assert held[2] == read[2] == ROWS[2]
    path.write_text(json.dumps([{"text": "another"}]))
    assert held[2] == ROWS[2]
    with pytest.raises(ChangedError, match=r"rows.json has changed since its rows were counted"):
        read[2]
