"""One odd video does not end a run: the command replaces its samples, says so, and trains on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.odd_media import with_damaged_second_page, with_unknown_codec
from tests.training.world import CLIP, save_small_model, write_online_list
from videochat_online.media import video_index
from videochat_online.training.commands import main


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A model, and a list of five samples of which two are odd."""
    folder = tmp_path_factory.mktemp("odd")
    write_online_list(folder, 5)
    shutil.copy(CLIP / "sample.mp4", folder)
    with_unknown_codec(folder / "unknown.mp4")
    with_damaged_second_page(folder / "pages.tif")
    rows = json.loads((folder / "rows.json").read_text())
    rows[1]["video"], rows[3]["video"] = "unknown.mp4", "pages.tif"
    (folder / "rows.json").write_text(json.dumps(rows))
    lists = json.loads((folder / "list.json").read_text())
    lists["online"]["data_root"] = str(folder)
    (folder / "list.json").write_text(json.dumps(lists))
    places = ["--model", str(save_small_model(folder / "model")), "--data", str(folder / "list.json")]
    sizes = ["--global-batch-size", "5", "--warmup", "0", "--num-workers", "0", "--max-failed-share", "0.2"]
    return [*places, *sizes, "--cpu", "--tracker", "none"]


def test_training_goes_on(flags: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture):
    assert main([*flags, "--output-dir", str(tmp_path / "run")]) in (0, None)
    replaced = [record.getMessage() for record in caplog.records if "cannot be used and is replaced" in record.message]
    assert len(replaced) == 2
    assert any("online, row 1 " in line and "its codec 'zz9z' is unknown to FFmpeg" in line for line in replaced)
    assert any("online, row 3 " in line and "pages.tif: is broken (TypeError" in line for line in replaced)


def test_our_own_mistake_ends_it(flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def mistake(*args: object, **options: object) -> None:
        raise AttributeError("a bug of ours")

    monkeypatch.setattr(video_index, "_duration_and_fps", mistake)
    with pytest.raises(AttributeError, match="a bug of ours"):
        main([*flags, "--output-dir", str(tmp_path / "run")])
