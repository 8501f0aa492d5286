"""`videochat-online chat`: watch a video and answer questions about it, at given moments or while it plays, and say
unasked what the user wants to be told."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm import tqdm

from .command_line import (
    add_decoder_flag,
    add_memory_flags,
    add_model_flags,
    add_recall_flag,
    load_from_flags,
    memory_from_flags,
)
from .media.addresses import is_address
from .media.source import check_fps

if TYPE_CHECKING:
    from .media.live import LiveSource
    from .streaming.session import SessionStats, StreamingSession
    from .streaming.standing import StandingEvent
    from .streaming.telling import Telling
    from .streaming.watching import LiveWatcher

FIRST_FRAME_SECONDS = 20.0
POLL_SECONDS = 0.02


class TimedQuestion(NamedTuple):
    """A question from the command line."""

    text: str
    at: float | None
    """Seconds; None: at the end of the video."""


def add_chat_command(commands: Any) -> None:
    parser = commands.add_parser(
        "chat",
        help="watch a video and answer questions about it",
        description="Watch a video frame by frame through the memory and answer questions. With -q it is watched as "
        "fast as it goes and each question is asked at its moment; without -q it plays in real time and you type. "
        "With --tell-me the model speaks by itself when the moment has come.",
        epilog='example: videochat-online chat street.mp4 -q "What is the man doing?" --at 12 -q "And now?"',
    )
    what = "a video file, a gif, a folder of images, or an rtsp://, http:// or udp:// address"
    parser.add_argument("video", nargs="?", help=what)
    parser.add_argument("--camera", type=int, metavar="N", help="watch camera number N of this machine instead")
    asked: dict[str, Any] = {"dest": "asked", "action": "append"}  # one list, so that the order is kept
    parser.add_argument("-q", "--question", metavar="QUESTION", help="may be repeated", **asked)
    when = "when to ask the -q before it (default: at the end)"
    parser.add_argument("--at", type=float, metavar="SECONDS", help=when, **asked)
    parser.add_argument("--fps", type=float, default=2.0, help="frames watched a second")
    parser.add_argument("--speed", type=float, default=1.0, help="how fast it plays while you type")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="length of an answer at most")
    parser.add_argument("--system-prompt", help="instead of the model's own")
    parser.add_argument("--no-timestamps", action="store_true", help="do not tell the model the frames' times")
    parser.add_argument("--json", action="store_true", help="print one json document instead of text")
    _add_telling_flags(parser)
    add_decoder_flag(parser)
    add_model_flags(parser, engine=True)
    add_memory_flags(parser)
    add_recall_flag(parser)
    parser.set_defaults(run=run_chat)


def _add_telling_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "speaking unasked", "after each frame the model is asked whether the moment has come (docs/proactive.md)"
    )
    what = 'what you want to be told, such as "Tell me when the kettle boils" or "Is the door open?"; may be repeated'
    group.add_argument("--tell-me", action="append", default=[], metavar="TEXT", help=what)
    when = "probability from which on it speaks (default: 0.5, or what the gate was trained with)"
    group.add_argument("--threshold", type=float, metavar="P", help=when)
    gate = "what decides: see `gate train`; none: the model's own Yes or No (default: the gate beside the model)"
    group.add_argument("--gate", type=Path, metavar="FILE", help=gate)
    rest = "silence after it has spoken, for each --tell-me (default: 3)"
    group.add_argument("--refractory", type=float, metavar="SECONDS", help=rest)
    group.add_argument("--once", action="store_true", help="the first time only, for each --tell-me")
    quiet = "live sources: hours of the day in which nothing is printed, only written to --events"
    group.add_argument("--quiet-hours", metavar="22:00-07:00", help=quiet)
    most = (
        "say nothing; at the end print how many alarms an hour each threshold gives, and the one for at most N an hour"
    )
    group.add_argument("--calibrate", type=float, metavar="N", help=most)
    long = "with --calibrate: watch so long, or until Ctrl-C (default: 60, a file to its end)"
    group.add_argument("--minutes", type=float, metavar="M", help=long)
    file = "write what was said as lines of json (FILE.jsonl) or subtitles (FILE.srt), from moment to moment"
    group.add_argument("--events", type=Path, metavar="FILE", help=file)


def timed_questions(asked: Sequence[str | float]) -> list[TimedQuestion]:
    """What -q and --at said, in order. Raises ValueError for an --at that is not behind the -q it is meant for."""
    questions: list[TimedQuestion] = []
    for given in asked:
        if isinstance(given, str):
            questions.append(TimedQuestion(given, None))
        elif questions and questions[-1].at is None:
            questions[-1] = TimedQuestion(questions[-1].text, given)
        else:
            raise ValueError("--at SECONDS belongs behind the -q QUESTION it is meant for")
    return questions


def run_chat(options: argparse.Namespace) -> int:
    """Watch what the flags name and answer. ValueError for flags that do not fit together, MediaError for bad video."""
    # 1. check what is asked for
    check_fps(options.fps, "--fps")
    check_fps(options.speed, "--speed")
    if (options.video is None) == (options.camera is None):
        raise ValueError("say what to watch: a video or an address, or --camera N")
    questions = timed_questions(options.asked or [])
    is_live = options.camera is not None or is_address(options.video)
    for question in questions:
        if is_live and question.at is None:
            raise ValueError(f"a live stream has no end: say with --at SECONDS when to ask {question.text!r}")
    _check_telling(options, is_live)
    # 2. a file with questions is watched as fast as it goes; everything else runs in its own time
    if options.calibrate is not None:
        _calibrate(options, is_live)
    elif (questions or options.tell_me) and not is_live:
        _ask_about_file(options, questions)
    else:
        _watch_and_answer(options, questions)
    return 0


def _rule(options: argparse.Namespace) -> dict[str, Any]:
    """What the flags say of when to speak."""
    names = ("threshold", "refractory", "quiet_hours")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    return {**given, **({"once": True} if options.once else {})}


def _check_telling(options: argparse.Namespace, is_live: bool) -> None:
    """Before a model is loaded. ValueError for what cannot be followed."""
    if not options.tell_me:
        for flag in [*_rule(options), *(name for name in ("events", "gate", "calibrate") if getattr(options, name))]:
            raise ValueError(f"--{flag.replace('_', '-')} belongs to --tell-me TEXT")
        return
    from .streaming.standing import Watchlist
    from .streaming.telling import check_events_file

    if options.calibrate is None and options.minutes is not None:
        raise ValueError("--minutes belongs to --calibrate N")
    if options.calibrate is not None and (options.asked or options.events or options.threshold):
        what = "--calibrate says nothing and looks for a threshold"
        raise ValueError(f"{what}: it goes without -q, --events, --threshold")
    for name in ("calibrate", "minutes"):
        if (value := getattr(options, name)) is not None and not 0 < value < 1e6:
            raise ValueError(f"--{name} must be > 0, got {value:g}")
    trial = Watchlist()
    for text in options.tell_me:
        trial.add(text, **_rule(options))
    if options.quiet_hours and not is_live:
        raise ValueError("--quiet-hours are hours of the day: a file that is watched as fast as it goes has none")
    if options.events is not None:
        check_events_file(options.events)


def _telling(options: argparse.Namespace, session: StreamingSession) -> Telling:
    """Hears what the session says unasked, and hands it on as the flags say."""
    from .streaming.gate import Gate, gate_file
    from .streaming.telling import Telling, line_of

    rule = _rule(options)
    path = gate_file(options.model, options.gate)
    if options.tell_me and path:
        session.scorer = gate = Gate.load(path, session.model)
        rule = {"threshold": gate.threshold, **rule}
        print(f"note: {path} decides when to speak, at a threshold of {rule['threshold']:.3f}", file=sys.stderr)
    for text in options.tell_me:
        session.watch_for(text, **rule)
    is_live = options.camera is not None or is_address(options.video)
    at_once = options.json and is_live and not options.asked  # else one document comes at the end

    def show(event: StandingEvent) -> None:
        if at_once:
            print(json.dumps(asdict(event), ensure_ascii=False), flush=True)
        elif not options.json and not event.quiet:
            tqdm.write(line_of(event), file=sys.stdout)
            sys.stdout.flush()

    return Telling(session.watchlist, show, options.events)


def _calibrate(options: argparse.Namespace, is_live: bool) -> None:
    """Watch and say nothing; then how many alarms an hour each threshold would have given."""
    from .media.live import LiveStream
    from .media.readers import open_video
    from .media.sampling import sample_pass
    from .streaming.moments import calibrated, calibration_text, keep_all
    from .streaming.watching import IdlePrefill, LiveWatcher, watch

    session = _new_session(options)
    _telling(options, session)
    for standing in session.standing:
        keep_all(standing)
    with suppress(KeyboardInterrupt):  # what was seen by then counts
        if is_live:
            source, fps = _open_source(options)
            with (
                closing(LiveStream(source, fps=fps)) as live,
                LiveWatcher(session, live) as watcher,
                IdlePrefill(lambda: [session]),
            ):
                _wait_for(60 * (options.minutes or 60), watcher)
            if watcher.error is not None:
                print(f"videochat-online: {watcher.error}", file=sys.stderr)
        else:
            with open_video(options.video, decoder=options.decoder) as video:
                end = 60 * options.minutes if options.minutes else None
                watch(session, video, sample_pass(video.timestamps, options.fps, 0.0, end, video_fps=video.fps))
    found = [calibrated(standing, options.calibrate) for standing in session.standing]
    if options.json:
        print(json.dumps([asdict(one) for one in found], ensure_ascii=False, indent=1))
    else:
        print("\n\n".join(calibration_text(one, options.calibrate) for one in found))


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
        recall=options.recall,
    )


def _watch_and_answer(options: argparse.Namespace, questions: list[TimedQuestion]) -> None:
    """Watch a stream, or a file at the speed it plays; questions have their moments, or are typed meanwhile."""
    from .media.live import LiveStream
    from .streaming.watching import IdlePrefill, LiveWatcher

    source, fps = _open_source(options)
    answers = []
    with closing(LiveStream(source, fps=fps)) as stream:
        session = _new_session(options)
        telling = _telling(options, session)
        with telling, LiveWatcher(session, stream) as watcher:
            with IdlePrefill(lambda: [session]):
                watcher.stream.wait_for_frame(timeout=FIRST_FRAME_SECONDS)
                _wait_for(0.0, watcher)
                for question in sorted(questions, key=lambda question: question.at or 0.0):
                    _wait_for(question.at or 0.0, watcher)
                    answers.append(_answer(options, session, question.text, age=stream.source.age))
                if not questions:
                    print(f"watching {source.name}; type a question, leave with Ctrl-D", file=sys.stderr)
                    over = f"{source.name} is over; you may still ask"
                    _read_questions(options, watcher, lambda: source.trouble or (over if watcher.is_over else None))
                    if options.tell_me and not sys.stdin.isatty():  # started by a program: it tells until the end
                        while not (watcher.is_over or telling.error):
                            time.sleep(POLL_SECONDS)
            session.read_standing()  # the last frame, where idle work had not come to it
    if questions:
        _print_document(options, source.name, answers, telling)
    if watcher.error is not None:
        raise watcher.error


def _open_source(options: argparse.Namespace) -> tuple[LiveSource, float | None]:
    """What the flags name, and how many of its frames a second are watched (None: all that it gives)."""
    from .media.live_network import Camera, NetworkStream
    from .media.live_playback import VideoPlayback

    if options.camera is not None:
        return Camera(options.camera), options.fps
    if is_address(options.video):
        return NetworkStream(options.video), options.fps
    return VideoPlayback(options.video, fps=options.fps, speed=options.speed, decoder=options.decoder), None


def _wait_for(second: float, watcher: LiveWatcher) -> None:
    """Until a frame of this second or a later one was seen, or the stream is over."""
    while not watcher.is_over:
        newest = watcher.session.stats()["last_timestamp"]
        if newest is not None and newest >= second:
            return
        time.sleep(POLL_SECONDS)


def _ask_about_file(options: argparse.Namespace, questions: list[TimedQuestion]) -> None:
    """Each question when the video has come to its second; without a second they come at the end."""
    from .media.readers import open_video
    from .media.sampling import sample_pass
    from .streaming.watching import watch

    with open_video(options.video, decoder=options.decoder) as video:
        for question in questions:
            if question.at is not None and not 0 <= question.at <= video.duration:
                raise ValueError(f"--at {question.at} lies outside the video, which lasts {video.duration:.1f} s")
        session = _new_session(options)
        indices = sample_pass(video.timestamps, options.fps, video_fps=video.fps)
        times = [float(video.timestamps[index]) for index in indices]
        answers, shown, telling = [], 0, _telling(options, session)
        bar = tqdm(total=len(indices), unit="frame", desc="watching", disable=None, leave=False)

        def progress(num_frames: int) -> None:
            bar.update(num_frames)
            telling.tell()

        with telling, bar:
            for question in sorted(questions, key=lambda each: video.duration if each.at is None else each.at):
                until = len(indices) if question.at is None else sum(time <= question.at for time in times)
                watch(session, video, indices[shown:until], on_progress=progress)
                shown = max(shown, until)
                answers.append(_answer(options, session, question.text))
            if options.tell_me:
                watch(session, video, indices[shown:], on_progress=progress)
    _print_document(options, options.video, answers, telling)


def _answer(
    options: argparse.Namespace, session: StreamingSession, question: str, *, age: float | None = None
) -> dict[str, Any]:
    text = session.ask(question, max_new_tokens=options.max_new_tokens)
    stats = session.stats()
    if not options.json:  # between the lines of a progress bar
        tqdm.write(f"[{stats['last_timestamp']:.1f} s] {question}\n{text}\n{status_line(stats)}", file=sys.stdout)
    return _document(question, text, stats, age)


def _document(question: str, answer: str, stats: SessionStats, age: float | None) -> dict[str, Any]:
    """`age`: seconds since the newest picture of a live stream came, when it was asked."""
    live = {} if age is None else {"age": age}
    return {"question": question, "at": stats["last_timestamp"], **live, "answer": answer, "stats": stats}


def _print_document(options: argparse.Namespace, video: str, answers: list[dict[str, Any]], telling: Telling) -> None:
    if options.json:
        events = {"events": [asdict(event) for event in telling.told]} if options.tell_me else {}
        document = {"video": video, "model": options.model, "answers": answers, **events}
        print(json.dumps(document, ensure_ascii=False, indent=1))


def _read_questions(options: argparse.Namespace, watcher: LiveWatcher, problem: Callable[[], str | None]) -> None:
    """Answer lines of standard input until it ends; `problem` says what is wrong with the stream at the moment."""
    with suppress(EOFError):
        while True:
            if line := input("> " if sys.stdin.isatty() else "").strip():
                if trouble := problem():
                    print(f"videochat-online: {trouble}", file=sys.stderr)
                _answer_line(options, watcher, line)


def _answer_line(options: argparse.Namespace, watcher: LiveWatcher, question: str) -> None:
    session, age = watcher.session, watcher.stream.source.age
    try:
        pieces = session.ask_stream(question, max_new_tokens=options.max_new_tokens)
        if options.json:
            document = _document(question, "".join(pieces), session.stats(), age)
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
