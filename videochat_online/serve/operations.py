"""What an operator's programs ask: is the process alive, may it be sent visitors, and numbers for Prometheus."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from .limits import Overloaded
from .routes import AllSessions
from .sessions import Sessions

PROBES = ("/health", "/ready")
"""Paths that need no token, whatever a client does otherwise."""
NAME = "videochat_online_"
ENCODE_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
FIRST_SECONDS = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
probe_routes = APIRouter(tags=["operations"])
metric_routes = APIRouter(tags=["operations"])


class Metrics:
    """The numbers of one server, in a registry of its own. Labels are routes and statuses: their number is bounded."""

    def __init__(self, sessions: Sessions) -> None:
        self.registry = CollectorRegistry()
        named: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter(f"{NAME}requests", "Requests, and sockets that are over", ["route", "status"], **named)
        self.frames = Counter(f"{NAME}frames_seen", "Frames that went through the encoder", **named)
        self.encode = Histogram(
            f"{NAME}encode_seconds", "Encoding of one batch of frames", buckets=ENCODE_SECONDS, **named
        )
        self.first = Histogram(
            f"{NAME}first_token_seconds", "From a question to the first of its answer, its waiting included",
            buckets=FIRST_SECONDS, **named,
        )  # fmt: skip
        self.readouts = Counter(f"{NAME}standing_readouts", "Readouts of standing instructions", **named)
        self.moments = Counter(f"{NAME}standing_moments", "What was said unasked", **named)
        self.readout = Histogram(
            f"{NAME}readout_seconds", "One frame's readouts of all instructions of a session",
            buckets=ENCODE_SECONDS, **named,
        )  # fmt: skip
        sessions.on_readout, sessions.on_moment = self._read, self.moments.inc
        sessions.encoder.on_batch = self._encoded
        sessions.on_first_piece = self.first.observe
        self.registry.register(_Now(sessions))
        ProcessCollector(registry=self.registry)

    def _encoded(self, num_frames: int, seconds: float) -> None:
        self.frames.inc(num_frames)
        self.encode.observe(seconds)

    def _read(self, num_instructions: int, seconds: float) -> None:
        self.readouts.inc(num_instructions)
        self.readout.observe(seconds)


class _Now:
    """What is read when it is asked for."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions

    def collect(self) -> Iterator[Metric]:
        live = self.sessions.all()
        streams = [watcher for one in live if (watcher := one.watcher) is not None and not watcher.is_over]
        stats = [one.session.stats() for one in live]
        held = sum(one["cache_bytes"] for one in stats)
        for name, text, value in (
            ("sessions", "Sessions", len(live)),
            ("streams", "Streams that are being watched", len(streams)),
            ("sockets", "Realtime connections", len(self.sessions.sockets)),
            ("lag_seconds", "Of the stream that lags most", max((one.lag for one in streams), default=0.0)),
            (
                "frames_waiting",
                "Frames of streams that wait for the encoder",
                sum(w.stream.num_waiting for w in streams),
            ),
            ("questions_waiting", "Questions that wait for their turn", self.sessions.turns.num_waiting),
            ("answers_running", "Questions that are being answered", self.sessions.turns.num_held),
            ("pictures_waiting", "Requests with pictures that wait to be decoded", self.sessions.reading.num_waiting),
            ("standing", "Standing instructions", sum(len(one.session.standing) for one in live)),
            ("webhooks_waiting", "Events that wait for their webhook", self.sessions.webhooks.num_waiting),
            ("memory_bytes", "Feature maps that sessions hold", sum(one["bytes"] for one in stats)),
            ("cache_bytes", "Keys and values that sessions hold", self.sessions.decoder.num_bytes + held),
            (
                "picture_bytes",
                "Small pictures that sessions keep for the page",
                sum(one.track.num_bytes for one in live),
            ),
            ("threads", "Threads of Python", threading.active_count()),
        ):
            yield GaugeMetricFamily(NAME + name, text, value)
        hooks = self.sessions.webhooks
        for name, text, value in (
            ("frames_dropped", "Frames that nobody saw: too fast to be encoded", self.sessions.num_dropped),
            ("webhooks_sent", "Events that a webhook took", hooks.num_sent),
            ("webhooks_failed", "Events that no webhook took, and that were given up", hooks.num_failed),
        ):
            yield CounterMetricFamily(NAME + name, text, value)


@probe_routes.get("/health")
async def health() -> dict[str, str]:
    """The process is alive. Needs no token."""
    return {"status": "ok"}


@probe_routes.get("/ready")
async def ready(sessions: AllSessions) -> dict[str, str]:
    """It may be sent visitors: 503 while the model is loaded and while the server is being stopped. Needs no token."""
    if sessions.turns.is_closed:
        raise Overloaded("the server is being stopped")
    return {"status": "ready"}


@metric_routes.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(request: Request) -> Response:
    """Numbers in Prometheus' text format. Needs the token, where the server has one."""
    found: Metrics = request.app.state.metrics
    return Response(generate_latest(found.registry), media_type=CONTENT_TYPE_LATEST)
