"""Every parser over every annotation file as its authors publish it: read, or refused in a sentence; never a traceback.

The files are too large for the repository; without ../shared these tests are skipped and say so.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from videochat_online.evaluation.benchmarks import BENCHMARKS, Benchmark, StreamingBench

PARSERS = BENCHMARKS
FILES: dict[str, tuple[str, int]] = {
    "ovbench": ("ovbench", 7005),
    "ovbench/ava.json": ("ovbench", 1396),
    "ovbench/coin.json": ("ovbench", 1948),
    "ovbench/hirest.json": ("ovbench", 1714),
    "ovbench/tao.json": ("ovbench", 1947),
    "benchmarks/ovo_bench": ("ovobench", 3035),
    "benchmarks/ovo_bench/ovo_bench_new.json": ("ovobench", 3035),
    "benchmarks/streamingbench": ("streamingbench", 4500),
    "benchmarks/streamingbench/questions_real.json": ("streamingbench", 2500),
    "benchmarks/streamingbench/questions_omni.json": ("streamingbench", 1500),
    "benchmarks/streamingbench/questions_sqa.json": ("streamingbench", 250),
    "benchmarks/streamingbench/questions_proactive.json": ("streamingbench", 250),
    "benchmarks/streamingbench/questions_proactive_50.json": ("streamingbench", 51),
    "benchmarks/omnimmi/proactive_alerting.json": ("none yet", 0),
}
"""File or folder -> the benchmark it is of, and its questions."""


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("name", FILES)
def test_a_published_file(name: str, parser: str, shared: Path):
    path, (owner, num_questions), benchmark = shared / name, FILES[name], PARSERS[parser]()
    if not path.exists():
        pytest.skip(f"needs {path}, which is not there")
    if owner != parser:
        refused_in_a_sentence(benchmark, path)
        return
    examples = benchmark.read(path)
    ids = [question.id for task in examples.tasks for question in task.questions]
    assert examples.left_out == []
    assert len(ids) == len(set(ids)) == num_questions


def refused_in_a_sentence(benchmark: Benchmark, path: Path) -> None:
    """Another benchmark's file: a ValueError, or none of its records can be asked."""
    try:
        examples = benchmark.read(path)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert examples.tasks == [] and examples.left_out


def test_no_published_file_is_forgotten(shared: Path):
    found = {str(path.relative_to(shared)) for path in shared.glob("benchmarks/*/*.json")}
    found |= {str(path.relative_to(shared)) for path in shared.glob("ovbench/*.json")}
    assert found <= set(FILES)


def test_the_rows_with_too_many_options_are_shown_as_the_authors_show_them(shared: Path):
    path = shared / "benchmarks/streamingbench/questions_omni.json"
    if not path.exists():
        pytest.skip(f"needs {path}, which is not there")
    tasks = StreamingBench().load(path)
    odd = [question for task in tasks for question in task.questions if not question.options]
    assert len(odd) == 13
    assert {question.labels for question in odd} == {("A", "B", "C", "D")}
    assert "more than four options: 13." in "\n".join(StreamingBench().notes(tasks, []))
