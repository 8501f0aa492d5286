"""Benchmarks of speaking unasked: real rows, the authors' rules written a second time, runs on stand-in clips."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.conftest import write_video
from videochat_online.cli import main
from videochat_online.evaluation.commands import PUSHED_NAMES
from videochat_online.evaluation.pushed.benchmarks import PUSHED, area, judged_replies
from videochat_online.evaluation.standing import deaf_players, with_others
from videochat_online.streaming.reading import StandingRow

REAL = {
    "omnimmi": ("omnimmi", 200, {"once after n seconds": (136, 25.0)}, 25.0),
    "ovo-timing": ("ovo_bench", 172, {"every n seconds": (5, 29.4), "once after n seconds": (5, 20.5)}, 34.0),
    "ovo-forward": ("ovo_bench", 275, {"silent": (1, 26.4)}, 59.5),
    "streamingbench-pushed": ("streamingbench", 250, {"once after n seconds": (7, 52.4)}, 52.4),
    "streamingbench-polled": ("streamingbench", 250, {"once after n seconds": (7, 52.4)}, 52.4),
}
"""Folder, rows, and what players get that never look, as they were counted before this code was written."""


def test_the_command_names_what_there_is():
    assert list(PUSHED_NAMES) == list(PUSHED)


@pytest.mark.parametrize("name", REAL)
def test_real_rows_and_who_never_looks(name: str, shared: Path, capsys):
    folder, number, best, blind = REAL[name]
    if not (path := shared / "benchmarks" / folder).exists():
        pytest.skip(f"needs {path}, which is not there")
    rows, left_out = PUSHED[name]().read(path)
    assert (len(rows), left_out) == (number, [])
    assert main(["eval", "standing", "--benchmark", name, "--annotations", str(path), "--blind"]) == 0
    said = capsys.readouterr().out
    for player, (level, score) in best.items():
        assert f"| {player}, best n: {level} | {score} |" in said
    assert said.endswith(f"in each task the best such player: {blind}\n")


def test_always_yes_and_one_is_the_known_floor_of_the_probes(shared: Path):
    """OVO-Bench's own floor: Yes everywhere and a count of 1 give 49.2."""
    if not (path := shared / "benchmarks/ovo_bench").exists():
        pytest.skip(f"needs {path}, which is not there")
    benchmark = PUSHED["ovo-forward"]()
    rows, _ = benchmark.read(path)
    figures = benchmark.score(rows, [[row.begin] for row in rows])
    assert {task: round(100 * value, 1) for task, value in figures.items()} == {"REC": 20.5, "SSR": 67.2, "CRR": 60.0}


# ---- the authors' rules, written again, on replies that were made up ----------------------------------------------


def made_up(rng: np.random.Generator, row: StandingRow, end: float) -> list[float]:
    near = [time + rng.normal(0, 3) for _, time in row.moments for _ in range(rng.integers(0, 3))]
    return sorted(float(t) for t in (*near, *rng.uniform(row.begin, end, rng.integers(0, 3))) if t >= row.begin)


def test_omnimmi_by_its_authors_rule():
    rng = np.random.default_rng(0)
    benchmark = PUSHED["omnimmi"]()
    records = [{"video": f"v{n}.mp4", "question": "Tell me when it rains.", "answer": [10, 20 + n]} for n in range(40)]
    rows = [row for record in records for row in benchmark.rows_of(record, Path("x"))]
    said = [made_up(rng, row, 60) for row in rows]
    first = precision = overlap = 0.0
    for record, times in zip(records, said, strict=True):
        low, high = record["answer"]
        if times:
            first += low <= times[0] <= high
            precision += sum(low <= t <= high for t in times) / len(times)
            both = max(0, min(times[-1], high) - max(times[0], low))
            overlap += both / (max(times[-1], high) - min(times[0], low))
    expected = {"first alert right": first / 40, "precision": precision / 40, "overlap": overlap / 40}
    assert benchmark.score(rows, said) == pytest.approx(expected) and 0 < first < 40


TIMED = [
    {"id": 1, "task": "REC", "video": "a.mp4", "activity": "jump", "start_times": [3, 9, 30], "end_times": [5, 11, 32],
     "test_info": [{"realtime": 6, "count": 1}, {"realtime": 40, "count": 3}]},
    {"id": 2, "task": "SSR", "video": "b.mp4", "tutorial": "MakeTeaNow", "all_steps": ["boil", "pour"],
     "start_time": [2, 20], "end_time": [9, 25],
     "test_info": [{"realtime": 4, "step": "boil", "type": 1}, {"realtime": 22, "step": "boil", "type": 0},
                   {"realtime": 10, "step": "pour", "type": 0}, {"realtime": 24, "step": "pour", "type": 1}]},
    {"id": 3, "task": "CRR", "video": "c.mp4", "question": "What does he do?", "ask_time": 50, "clue_time": 60,
     "test_info": [{"realtime": 52, "type": 0}, {"realtime": 70, "type": 1}]},
    {"id": 4, "task": "EPM"},
]  # fmt: skip


def test_ovo_timing_by_its_authors_rule():
    rng = np.random.default_rng(1)
    benchmark = PUSHED["ovo-timing"]()
    rows = [row for record in TIMED for row in benchmark.rows_of(record, Path("x"))]
    assert [row.text for row in rows][:2] == [
        "How many times does the event: jump happen?",
        "Describe the steps of make tea now",
    ]
    assert [(row.start, row.begin, row.until) for row in rows] == [(0, 0, 40), (0, 0, 24), (50, 50, 70)]
    due = {"REC": [5, 11, 32], "SSR": [4, 22], "CRR": [60]}
    for _ in range(50):
        said = [made_up(rng, row, row.until) for row in rows]
        expected = {}
        for row, times in zip(rows, said, strict=True):
            left, hits = list(times), 0
            for moment in due[row.kind]:
                for place, time in enumerate(left):
                    if abs(time - moment) <= 2:
                        hits += 1
                        left.pop(place)
                        break
            r, p = hits / len(due[row.kind]), hits / len(times) if times else 0
            expected[row.kind] = 2 * r * p / (r + p) if r + p else 0
        assert benchmark.score(rows, said) == pytest.approx(expected)


def test_probes_are_answered_from_what_was_said():
    benchmark = PUSHED["ovo-forward"]()
    rows = [row for record in TIMED for row in benchmark.rows_of(record, Path("x"))]
    assert [row.text for row in rows] == ["jump", "boil", "pour", "What does he do?"]
    perfect = [[5.0, 11.0, 32.0], [2.0], [20.0], [60.0]]
    assert benchmark.score(rows, perfect) == {"REC": 1.0, "SSR": 1.0, "CRR": 1.0}
    assert benchmark.score(rows, [[5.0, 31.0], [], [], [51.0]]) == {"REC": 0.5, "SSR": 0.5, "CRR": 0.5}


@pytest.mark.parametrize("omega", [0, 0.5, 1])
def test_the_area_of_proactive_videoqa(omega: float):
    rng = np.random.default_rng(2)
    assert area({}, (3, 9), omega) == 0.25
    for _ in range(20):
        times = sorted(rng.uniform(3, 9, 4).tolist())
        worth = dict(zip(times, rng.integers(0, 3, 4).tolist(), strict=True))
        fine = np.linspace(0, 6, 600_001)[:-1]  # the integral of the steps, by sums
        steps = np.full(len(fine), 0.5)
        for time, score in worth.items():
            steps[fine >= (time - 3) * (1 - omega) - 1e-12] = score
        assert area(worth, (3, 9), omega) == pytest.approx(steps.mean() / 2, abs=1e-5)


def test_which_replies_a_judge_sees():
    answer = {"content": "a bus", "related_timespan": [2, 6], "reply_timespan": [2, 12]}
    asked = []

    def judge(messages):
        asked.append(messages[-1]["content"].split("Predicted Answer: ")[1])
        return {"a car": "2", "a car a bus": "3.", "a car a bus red": "1", "a car a bus red blue": "none"}[asked[-1]]

    times, texts = [1, 3, 4, 5, 7, 8, 13], ["early", "a car", "a car", "a bus", "red", "blue", "late"]
    assert judged_replies("What comes?", answer, times, texts, judge) == {3: 1, 5: 2}  # red is worse, after the moment
    assert asked == ["a car", "a car a bus", "a car a bus red", "a car a bus red blue"]


def test_controls_are_another_instruction_of_the_same_seconds():
    rows = [StandingRow("a", "x", ()), StandingRow("a", "y", ()), StandingRow("b", "x", (), until=9.0)]
    every, own, others = with_others(rows)
    assert [(row.video, row.text, row.until) for row in every[3:]] == [("b", "y", 9.0)] and own == [0, 1, 2]
    assert [every[n].text for n in others] == ["y", "x", "y"]
    assert with_others([StandingRow("a", "x", ()), StandingRow("b", "x", ())])[2] == []
    late = deaf_players([StandingRow("a", "x", (), begin=8.0)], [10.0])
    assert late["once after n seconds"] == {0: [[8.0]], 1: [[9.0]], 2: [[10.0]]}


# ---- runs, on stand-in clips under the names of real rows -----------------------------------------------------------

STREAMING = [
    {"questions": [{"question": f'When the ball {what}, output "{what}".', "time_stamp": "00:00:04",
                    "ground_truth_time_stamp": "00:00:09", "ground_truth_output": what}],
     "video_path": f"./videos/sample_{n}_proactive.mp4"} for n, what in enumerate(("falls", "rises"))
]  # fmt: skip
OMNIMMI = [
    {"video": f"G7oh5A7gGpQ_{210 + n}.0_{222 + n}.0.mp4", "question": f"Tell me when {what}.", "answer": [4, 8]}
    for n, what in enumerate(("it rains", "it snows"))
]
VIDEOQA = [
    {"question_id": f"q{n}", "video": f"v{n}.mp4", "conversation": [{"role": "user", "content": what}],
     "answer": [{"content": "a bus", "related_timespan": [2, 6], "reply_timespan": [0, 9]}]}
    for n, what in enumerate(("What comes?", "Who is there?"))
]  # fmt: skip
RUNS = {
    "omnimmi": ("proactive_alerting.json", OMNIMMI, [f"videos/{row['video']}" for row in OMNIMMI]),
    "ovo-timing": ("ovo_bench_new.json", TIMED, ["src_videos/a.mp4", "b.mp4", "chunked_videos/3_1.mp4"]),
    "ovo-forward": ("ovobench_timing.json", TIMED, ["src_videos/a.mp4", "b.mp4", "chunked_videos/3_1.mp4"]),
    "streamingbench-pushed": ("q.json", STREAMING, ["videos/sample_0_proactive.mp4", "proactive/sample_1/video.mp4"]),
    "streamingbench-polled": ("q.json", STREAMING, ["videos/sample_0_proactive.mp4", "proactive/sample_1/video.mp4"]),
    "proactivevideoqa": ("WEB/anno.json", VIDEOQA, ["WEB/videos/v0.mp4", "WEB/videos/v1.mp4"]),
}


def run(name: str, folder: Path, *more: str) -> tuple[int, dict]:
    file, records, videos = RUNS[name]
    path = folder / "annotations" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records))
    for video in videos:
        write_video(folder / "videos" / video, 75 if "3_1" in video else 42 if "a.mp4" in video else 26, fps=2)
    command = ["eval", "standing", "--benchmark", name, "--annotations", str(path), "--videos", str(folder / "videos")]
    status = main([*command, "--output", str(folder / "run"), *more])
    report = folder / "run/report.json"
    return status, json.loads(report.read_text()) if report.is_file() else {}


@pytest.mark.parametrize("name", RUNS)
def test_a_run(name: str, tmp_path: Path, capsys):
    status, report = run(name, tmp_path)
    said, found = capsys.readouterr().out, report["benchmark"]
    assert status == 0 and found["name"] == name and f"## {PUSHED[name].title}, by its own rule" in said
    assert {"likelihood", "likelihood, another instruction", "random", "silent"} <= found["players"].keys()
    assert all(0 <= one["score"] <= 1 for one in found["players"].values())
    assert found["best_blind"] >= max(one["score"] for one in found["blind"].values()) - 1e-9
    assert ("likelihood" in found["words"]) == PUSHED[name].needs_words
    picture = (tmp_path / "run/report.svg").read_text()
    assert picture.startswith("<svg") and picture.count("<polyline") == len(report["players"])
    if name.startswith("streamingbench"):
        assert set(found["words"]["likelihood"]) == {"right words in time"}
        lines = [json.loads(line) for line in (tmp_path / "run/words-likelihood.jsonl").read_text().splitlines()]
        assert [len(line["times"]) for line in lines] == [len(line["words"]) for line in lines]
    rows = [json.loads(line) for line in (tmp_path / "run/probabilities.jsonl").read_text().splitlines()]
    begun = {"omnimmi": (0, 12), "proactivevideoqa": (0, 9)}.get(name, (4, 13) if "streaming" in name else None)
    if begun:  # read out from the second at which it is asked to the last that counts
        assert {(row["times"][0], row["times"][-1]) for row in rows} == {begun}


class JudgeOfAll(BaseHTTPRequestHandler):
    """Finds everything mostly right."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert "Ground Truth Answer: a bus" in asked["messages"][-1]["content"]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"choices": [{"message": {"content": "3"}}]}).encode())

    def log_message(self, *_: object) -> None:
        pass


def test_a_judge_gives_the_area(tmp_path: Path):
    with ThreadingHTTPServer(("127.0.0.1", 0), JudgeOfAll) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/v1"
        status, report = run("proactivevideoqa", tmp_path, "--judge", address, "--judge-model", "m")
        server.shutdown()
    words = report["benchmark"]["words"]
    assert status == 0 and words["silent"] == {f"PAUC, omega {omega}": 0.25 for omega in ("0", "0.5", "1")}
    lines = [json.loads(line) for line in (tmp_path / "run/words-likelihood.jsonl").read_text().splitlines()]
    spoke = [any(0 <= t <= 9 for t in line["times"]) and any(line["words"]) for line in lines]
    assert words["likelihood"]["PAUC, omega 1"] == np.mean([1.0 if one else 0.25 for one in spoke]) and any(spoke)


def test_mistakes(tmp_path: Path, capsys):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([*OMNIMMI, {"video": "x"}, {"video": "y", "question": "Is it?", "answer": [9, 2]}, 3]))
    command = ["eval", "standing", "--benchmark", "omnimmi", "--annotations", str(path)]
    assert main(command) == 2 and "--videos and --output say what is watched" in capsys.readouterr().err
    assert main([*command, "--blind"]) == 0
    said = capsys.readouterr()
    assert "a.json, item 2 has no 'question'" in said.err and "from <= start <= time" in said.err
    assert "item 4 is not as expected" in said.err and "2 rows" in said.out
    assert main([*command, "--judge", "http://x/v1"]) == 2
    assert main([*command, "--judge", "http://x/v1", "--judge-model", "m"]) == 2
    assert "--judge is for a --benchmark that counts words" in capsys.readouterr().err
    path.write_text("[]")
    assert main(command) == 2 and "has no rows of OmniMMI" in capsys.readouterr().err
    assert main([*command[:2], "--annotations", str(path), "--blind"]) == 2
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main([*command[:-1], str(empty)]) == 2 and "expected proactive_alerting.json" in capsys.readouterr().err


def test_a_video_that_ends_before_its_instruction(tmp_path: Path, capsys):
    file, records, _ = RUNS["streamingbench-pushed"]
    (tmp_path / file).write_text(json.dumps(records))
    for n in range(2):
        write_video(tmp_path / f"videos/sample_{n}_proactive.mp4", 3)
    command = ["eval", "standing", "--benchmark", "streamingbench-pushed", "--annotations", str(tmp_path / file)]
    assert main([*command, "--videos", str(tmp_path), "--output", str(tmp_path / "run")]) == 2
    assert "has no frame for the instruction" in capsys.readouterr().err


def test_odd_videos_cost_their_own_rows_only(tmp_path: Path, capsys):
    file, records, _ = RUNS["streamingbench-pushed"]
    more = [{**records[0], "video_path": f"./videos/sample_{n}_proactive.mp4"} for n in (2, 3, 4)]
    (tmp_path / file).write_text(json.dumps([*records, *more]))
    for n, frames in ((0, 26), (1, 26), (2, 3)):
        write_video(tmp_path / f"videos/sample_{n}_proactive.mp4", frames, fps=2)
    (tmp_path / "videos/sample_3_proactive.mp4").write_bytes(b"no video")
    command = ["eval", "standing", "--benchmark", "streamingbench-pushed", "--annotations", str(tmp_path / file)]
    assert main([*command, "--videos", str(tmp_path), "--output", str(tmp_path / "run")]) == 3
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert (report["videos"], report["instructions"], len(report["left_out"])) == (2, 2, 3)
    said = capsys.readouterr()
    for why in ("has no frame for the instruction", "is not a video", "sample_4_proactive.mp4: not found below"):
        assert said.err.count(why) == 1 and said.out.count(why) == 1
    (tmp_path / "videos/sample_1_proactive.mp4").unlink()
    assert main([*command, "--videos", str(tmp_path), "--output", str(tmp_path / "run")]) == 2
    assert "two of the 5 videos or more must be watchable, such as sample_1" in capsys.readouterr().err


NAN = float("nan")
ODD = {
    "omnimmi": (OMNIMMI[0], [{"answer": []}, {"answer": "48"}, {"answer": [NAN, 8]}, {"answer": [[4], 8]}]),
    "ovo-timing": (TIMED[0], [{"start_times": []}, {"start_times": [NAN]}, {"test_info": [{"realtime": NAN}]}]),
    "ovo-forward": (TIMED[1], [
        {"all_steps": ["boil", "boil"]}, {"start_time": [NAN, 20]}, {"test_info": []},
        *({"test_info": [{"realtime": 24, "step": "pour", "type": 1, **odd}]}
          for odd in ({"realtime": "late"}, {"realtime": NAN}, {"step": "stir"}, {"step": None}, {"type": None})),
    ]),
    "streamingbench-polled": (STREAMING[0], [{"questions": [{"question": "x"}]}, {"questions": None}]),
    "proactivevideoqa": (VIDEOQA[0], [
        {"answer": []}, {"conversation": []},
        *({"answer": [{**VIDEOQA[0]["answer"][0], **odd}]}
          for odd in ({"content": None}, {"reply_timespan": [0, NAN]}, {"related_timespan": None})),
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_odd_records_are_left_out(name: str, tmp_path: Path, capsys):
    record, odd = ODD[name]
    path = tmp_path / "x.json"
    path.write_text(json.dumps([record, *({**record, **change} for change in odd)]))
    assert main(["eval", "standing", "--benchmark", name, "--annotations", str(path), "--blind"]) == 2  # one video
    path.write_text(json.dumps([record, {**record, **SECOND}, *({**record, **change} for change in odd)]))
    assert main(["eval", "standing", "--benchmark", name, "--annotations", str(path), "--blind"]) == 0
    said = capsys.readouterr()
    assert [f"item {n}" in said.err for n in range(len(odd) + 2)] == [False, False, *[True] * len(odd)]
    assert f"{2 * len(record.get('all_steps', 'x'))} rows" in said.out and "nan" not in said.out


SECOND = {"video": "other_0.0_60.0.mp4", "video_path": "./videos/other_proactive.mp4"}


def test_numbers_that_are_texts_count_as_numbers():
    benchmark = PUSHED["ovo-forward"]()
    written = json.loads(json.dumps(TIMED[2]), parse_int=str)
    rows = [row for record in (TIMED[2], written) for row in benchmark.rows_of(record, Path("x"))]
    assert benchmark.score(rows[:1], [[55.0]]) == benchmark.score(rows[1:], [[55.0]]) == {"CRR": 1.0}
    assert benchmark.score(rows, [[55.0], [51.0]]) == {"CRR": 0.75}  # two records, though of one id
