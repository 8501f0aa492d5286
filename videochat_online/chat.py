"""`videochat-online chat`: watch a video and answer questions about it, at given moments or while it plays."""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .model_flags import add_memory_flags, add_model_flags, load_from_flags, memory_from_flags

if TYPE_CHECKING:
    from .media.readers import VideoReader
    from .streaming.live_watcher import LiveWatcher
    from .streaming.session import SessionStats, StreamingSession

FIRST_FRAME_SECONDS = 20.0
POLL_SECONDS = 0.02


@dataclass
class AskedAt:
    """A question from the command line."""

    question: str
    at: float | None = None
    """Seconds; None: at the end of the video."""


class _AddQuestion(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        namespace.questions = [*(namespace.questions or []), AskedAt(values)]


class _SetMoment(argparse.Action):
    """--at belongs to the -q before it."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if not namespace.questions or namespace.questions[-1].at is not None:
            parser.error("--at SECONDS belongs behind the -q QUESTION it is meant for")
        namespace.questions[-1].at = values


def add_chat_command(commands: Any) -> None:
    parser = commands.add_parser(
        "chat",
        help="watch a video and answer questions about it",
        description="Watch a video frame by frame through the memory and answer questions. With -q it is watched as "
        "fast as it goes and each question is asked at its moment; without -q it plays in real time and you type.",
        epilog='example: videochat-online chat street.mp4 -q "What is the man doing?" --at 12 -q "And now?"',
    )
    parser.add_argument(
        "video", nargs="?", help="a video file, a gif, a folder of images, or an rtsp://, http:// or udp:// address"
    )
    parser.add_argument("--camera", type=int, metavar="N", help="watch camera number N of this machine instead")
    parser.add_argument(
        "-q", "--question", dest="questions", action=_AddQuestion, metavar="QUESTION", help="may be repeated"
    )
    parser.add_argument(
        "--at",
        type=float,
        action=_SetMoment,
        metavar="SECONDS",
        help="when to ask the -q before it (default: at the end)",
    )
    parser.add_argument("--fps", type=float, default=2.0, help="frames watched a second (default: %(default)s)")
    parser.add_argument(
        "--speed", type=float, default=1.0, help="how fast it plays while you type (default: %(default)s)"
    )
    parser.add_argument(
        "--max-new-tokens", type=int, default=128, help="length of an answer at most (default: %(default)s)"
    )
    parser.add_argument("--system-prompt", help="instead of the model's own")
    parser.add_argument("--no-timestamps", action="store_true", help="do not tell the model the frames' times")
    parser.add_argument("--json", action="store_true", help="print one json document instead of text")
    add_model_flags(parser)
    add_memory_flags(parser)
    parser.set_defaults(run=run_chat, questions=None)


def run_chat(options: argparse.Namespace) -> int:
    """1. open the video 2. load the model 3. watch and ask."""
    from .media.live_network import is_address
    from .media.readers import open_video
    from .media.source import check_fps

    check_fps(options.fps, "--fps")
    check_fps(options.speed, "--speed")
    if (options.video is None) == (options.camera is None):
        raise ValueError("say what to watch: a video or an address, or --camera N")
    if options.camera is not None or is_address(options.video):
        return _chat_live(options)
    with open_video(options.video) as video:
        questions = _check_moments(options.questions, video)
        session = _new_session(options)
        if questions is None:
            return _converse(options, session, video)
        answers = _ask_in_order(options, session, video, questions)
    _print_document(options, options.video, answers)
    return 0


def _new_session(options: argparse.Namespace) -> StreamingSession:
    from .streaming.session import StreamingSession

    model, processor = load_from_flags(options)
    if model.config.note:
        print(f"note: {model.config.note}", file=sys.stderr)
    return StreamingSession(
        model,
        processor,
        memory=memory_from_flags(options, model),
        timestamps=not options.no_timestamps,
        system_prompt=options.system_prompt,
        skip_below=options.skip_below,
    )


def _print_document(options: argparse.Namespace, video: str, answers: list[dict[str, Any]]) -> None:
    if options.json:
        document = {"video": video, "model": options.model, "answers": answers}
        print(json.dumps(document, ensure_ascii=False, indent=1))


def _chat_live(options: argparse.Namespace) -> int:
    """A stream that has no end: questions have their moments, or are typed while it runs."""
    from .media.live import LiveSource, LiveStream
    from .media.live_network import Camera, NetworkStream
    from .streaming.idle import IdlePrefill
    from .streaming.live_watcher import LiveWatcher

    for asked in options.questions or []:
        if asked.at is None:
            raise ValueError(f"a live stream has no end: say with --at SECONDS when to ask {asked.question!r}")
    source: LiveSource = NetworkStream(options.video) if options.camera is None else Camera(options.camera)
    session = _new_session(options)
    with LiveWatcher(session, LiveStream(source, fps=options.fps)) as watcher, IdlePrefill(lambda: [session]):
        watcher.stream.wait_for_frame(timeout=FIRST_FRAME_SECONDS)
        _wait_for_first_frame(session, lambda: watcher.is_over)
        if options.questions:
            _print_document(options, source.name, _ask_at_moments(options, watcher))
        else:
            print(f"watching {source.name}; type a question, leave with Ctrl-D", file=sys.stderr)
            _read_questions(options, session, lambda: source.problem)
    if watcher.error is not None:
        raise watcher.error
    return 0


def _wait_for_first_frame(session: StreamingSession, is_over: Callable[[], bool]) -> None:
    while session.stats()["frames_seen"] == 0 and not is_over():
        time.sleep(POLL_SECONDS)


def _ask_at_moments(options: argparse.Namespace, watcher: LiveWatcher) -> list[dict[str, Any]]:
    """Each question when the stream has come to its second; those behind a stream's end are asked there."""
    answers = []
    for asked in sorted(options.questions, key=lambda asked: asked.at):
        while (watcher.session.stats()["last_timestamp"] or 0.0) < asked.at and not watcher.is_over:
            time.sleep(POLL_SECONDS)
        answers.append(_answered(options, watcher.session, asked.question))
    return answers


def _answered(options: argparse.Namespace, session: StreamingSession, question: str) -> dict[str, Any]:
    from tqdm import tqdm

    text = session.ask(question, max_new_tokens=options.max_new_tokens)
    stats = session.stats()
    if not options.json:
        tqdm.write(f"[{stats['last_timestamp']:.1f} s] {question}\n{text}\n{status_line(stats)}", file=sys.stdout)
    return {"question": question, "at": stats["last_timestamp"], "answer": text, "stats": stats}


def _check_moments(questions: list[AskedAt] | None, video: VideoReader) -> list[AskedAt] | None:
    """The questions in order of time; without a moment they come at the end."""
    for asked in questions or []:
        if asked.at is not None and not 0 <= asked.at <= video.duration:
            raise ValueError(f"--at {asked.at} lies outside the video, which lasts {video.duration:.1f} s")
    return questions and sorted(questions, key=lambda asked: video.duration if asked.at is None else asked.at)


def _ask_in_order(
    options: argparse.Namespace, session: StreamingSession, video: VideoReader, questions: list[AskedAt]
) -> list[dict[str, Any]]:
    from tqdm import tqdm

    from .media.sampling import sample_pass
    from .streaming.watching import watch

    indices = sample_pass(video.timestamps, options.fps, video_fps=video.fps)
    times = [float(video.timestamps[index]) for index in indices]
    answers = []
    with tqdm(total=len(indices), unit="frame", desc="watching", disable=None, leave=False) as progress:
        shown = 0
        for asked in questions:
            until = len(indices) if asked.at is None else sum(time <= asked.at for time in times)
            watch(session, video, indices[shown:until], on_progress=progress.update)
            shown = max(shown, until)
            answers.append(_answered(options, session, asked.question))
    return answers


def _converse(options: argparse.Namespace, session: StreamingSession, video: VideoReader) -> int:
    """Questions from standard input while the video plays in a thread of its own."""
    from .media.sampling import sample_pass
    from .streaming.idle import IdlePrefill
    from .streaming.watching import watch_in_real_time

    stop, failed = threading.Event(), []

    def play() -> None:
        try:
            watch_in_real_time(
                session,
                video,
                sample_pass(video.timestamps, options.fps, video_fps=video.fps),
                speed=options.speed,
                stop=stop,
            )
            if not stop.is_set():
                message = f"(the video is over after {video.duration:.1f} s; ask on, or leave with Ctrl-D)"
                print(f"\n{message}", file=sys.stderr)
        except ValueError as error:
            failed.append(error)
            print(f"\nvideochat-online: error: {error}", file=sys.stderr)

    player = threading.Thread(target=play, name="videochat-online-player", daemon=True)
    player.start()
    print(f"playing {options.video}, {video.duration:.1f} s; type a question, leave with Ctrl-D", file=sys.stderr)
    try:
        _wait_for_first_frame(session, lambda: not player.is_alive())
        with IdlePrefill(lambda: [session]):
            _read_questions(options, session)
    finally:
        stop.set()
        player.join()
    return 2 if failed else 0


def _read_questions(
    options: argparse.Namespace, session: StreamingSession, problem: Callable[[], str | None] = lambda: None
) -> None:
    """Answer lines of standard input until it ends; `problem` says what is wrong with the stream at the moment."""
    while (line := _read_line()) is not None:
        if line.strip():
            if trouble := problem():
                print(f"videochat-online: {trouble}", file=sys.stderr)
            _answer_line(options, session, line.strip())


def _read_line() -> str | None:
    try:
        return input("> " if sys.stdin.isatty() else "")
    except EOFError:
        return None


def _answer_line(options: argparse.Namespace, session: StreamingSession, question: str) -> None:
    try:
        pieces = session.ask_stream(question, max_new_tokens=options.max_new_tokens)
        if options.json:
            text = "".join(pieces)
            stats = session.stats()
            document = {"question": question, "at": stats["last_timestamp"], "answer": text, "stats": stats}
            print(json.dumps(document, ensure_ascii=False), flush=True)
            return
        for piece in pieces:
            print(piece, end="", flush=True)
        print(f"\n{status_line(session.stats())}", flush=True)
    except ValueError as error:  # a question too early, say; the next one may be fine
        print(f"videochat-online: {error}", file=sys.stderr)


def status_line(stats: SessionStats) -> str:
    """What one answer cost, on one line."""
    held = "/".join(map(str, stats["frames_held"]))
    fps, first = stats["encode_fps"], stats["time_to_first_token"]
    parts = [
        f"frames seen {stats['frames_seen']}, held {held}",
        f"{stats['tokens']} visual tokens, {stats['bytes'] / 2**20:.2f} MiB",
        f"encode {fps:.1f} fps" if fps else "nothing encoded",
        f"first token after {first:.3f} s" if first is not None else "no token",
    ]
    return f"({'; '.join(parts)})"
