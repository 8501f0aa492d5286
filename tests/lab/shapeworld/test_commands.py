"""`world build | preview | stats` from the command line, and the contact sheet."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest
from PIL import Image

from videochat_online.lab.shapeworld import sample_stream
from videochat_online.lab.shapeworld.build import VERSION, WorldConfig
from videochat_online.lab.shapeworld.commands import add_world_commands
from videochat_online.lab.shapeworld.preview import PAPER, RIGHT, WIDTH, scene_sheet


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    add_world_commands(parser.add_subparsers(required=True))
    options = parser.parse_args(["world", *arguments])
    return options.run(options)


def test_build_prints_what_it_made(tmp_path, capsys):
    folder = tmp_path / "world"
    options = ["--videos", "2", "--seed", "4", "--seconds", "20", "--level", "1", "2", "--fps", "2", "--size", "64"]
    assert run("build", str(folder), *options) == 0
    printed = capsys.readouterr().out
    assert "2 videos, 32 questions" in printed and f"DATA_ROOT={folder}" in printed
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["complete"] and manifest["config"]["level"] == [1, 2] and manifest["version"] == VERSION
    assert len(list((folder / "videos").iterdir())) == 2


def test_preview_is_a_readable_picture(tmp_path, capsys):
    path = tmp_path / "sheet.png"
    assert run("preview", str(path), "--scenes", "2", "--level", "2", "4", "--questions", "6") == 0
    assert capsys.readouterr().out.strip() == str(path)
    with Image.open(path) as image:
        assert image.format == "PNG" and image.width == WIDTH and 800 < image.height < 2400
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert (pixels == PAPER).all(-1).mean() > 0.2
    green = (np.abs(pixels - RIGHT).sum(-1) < 40).sum(1)
    assert (green > 0).sum() > 6 * 2 * 8  # twelve right answers, some ten rows of pixels each
    assert [entry.name for entry in tmp_path.iterdir()] == ["sheet.png"]


def test_preview_shows_the_scenes_of_the_world_of_that_seed(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(
        "videochat_online.lab.shapeworld.preview.write_preview", lambda path, scenes, num: shown.extend(scenes)
    )
    assert run("preview", "x.png", "--seed", "3", "--scenes", "2", "--seconds", "20", "30", "--level", "1", "4") == 0
    assert shown == [scene for scene, _ in WorldConfig(2, 3, seconds=(20, 30), level=(1, 4)).scenes()]


def test_contact_sheet_grows_with_its_questions():
    scene = sample_stream(3, "dev", 2, 30)
    assert scene_sheet([scene], 8).height > scene_sheet([scene], 2).height
    assert scene_sheet([scene, scene], 2).height == 2 * scene_sheet([scene], 2).height
    with pytest.raises(ValueError, match="at least one scene"):
        scene_sheet([])


def test_stats_prints_a_line_for_each_sub_task(capsys):
    assert run("stats", "--scenes", "12", "--train-scenes", "12", "--level", "3") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 18 and lines[-1].startswith("all") and "chance" in lines[0]
    assert all(len(line.split()) == 6 for line in lines[1:])


def test_an_unknown_level_is_refused(capsys):
    with pytest.raises(SystemExit):
        run("preview", "x.png", "--level", "9")
    assert "invalid choice: 9" in capsys.readouterr().err
