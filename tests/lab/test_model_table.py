"""The table of docs/models.md is what the command writes, and its sums are the published ones."""

import pytest

from tests.documents import ROOT
from videochat_online.info import model_facts
from videochat_online.lab.model_table import facts_of, main, published, put_into, table_text


@pytest.mark.parametrize("row", published(), ids=lambda row: row["id"])
def test_sums_of_parameters_are_the_published_ones(row):
    counted = model_facts(facts_of(row["config"]))["parameters"]["total"]
    assert counted / 1e9 == pytest.approx(row["published_billions"], rel=0.015)


def test_the_page_holds_what_the_command_writes(tmp_path):
    page = (ROOT / "docs/models.md").read_text("utf-8")
    assert put_into(page) == page
    copy = tmp_path / "page.md"
    copy.write_text(page.replace(table_text(), "old"), "utf-8")
    assert main(["--write", str(copy)]) == 0 and copy.read_text("utf-8") == page
    assert all(f"`{row['id']}`" in page for row in published())


def test_a_page_without_marks_is_an_error(tmp_path, capsys):
    (tmp_path / "page.md").write_text("nothing")
    assert main(["--write", str(tmp_path / "page.md")]) == 2
    assert "the page needs one <!-- table" in capsys.readouterr().err
