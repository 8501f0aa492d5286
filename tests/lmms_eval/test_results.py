"""lmms-eval's exit status is 0 where it left nothing: what its folder holds decides."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.lmms_eval.conftest import INSTALL

pytest.importorskip("lmms_eval", reason=INSTALL)

from lmms_eval_ovbench.results import main, newest_results


def test_a_tasks_own_file_is_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """ovo_forward leaves submissions/forward_acc_results.json; it may be newer than lmms-eval's own file."""
    (tmp_path / "submissions").mkdir()
    (tmp_path / "submissions/forward_acc_results.json").write_text("[]")
    assert main([str(tmp_path)]) != 0
    assert "lmms-eval left no results" in capsys.readouterr().err
    (tmp_path / "pocket").mkdir()
    results = tmp_path / "pocket/20261201_054736_results.json"
    results.write_text('{"results": {}}')
    os.utime(results, (1e9, 1e9))
    assert newest_results(tmp_path) == results
    with pytest.raises(ValueError, match="left no results"):
        newest_results(tmp_path, since=2e9)
