"""How things are timed, on what clip, and how results are shown and written. Knows nothing of what is measured."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from ... import __version__
from ...evaluation.report import code_commit

Tables = dict[str, list[dict[str, Any]]]
"""Title -> rows."""


def seconds_per_call(run: Callable[[], object], *, repeats: int, warm_up: int = 1) -> float:
    """Median wall seconds of one call."""
    for _ in range(warm_up):
        run()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return median(times)


def alternate(runs: dict[str, Callable[[], object]], *, repeats: int, warm_up: int = 1) -> dict[str, float]:
    """Median wall seconds of each of several runs, taken in turn, so that a drifting machine is fair to all."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(warm_up + repeats):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if turn >= warm_up:
                times[name].append(time.perf_counter() - started)
    return {name: median(values) for name, values in times.items()}


def matmul_peak(size: int = 1024, repeats: int = 5) -> float:
    """FLOP a second of one float32 matrix product, measured now: what this machine can do at best."""
    import torch

    one, other = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / seconds_per_call(lambda: one @ other, repeats=repeats)


def write_clip(path: Path, *, width: int, height: int, num_frames: int, fps: int = 25) -> Path:
    """A clip with moving edges and noise, h264."""
    import av
    import numpy as np

    rng = np.random.default_rng(0)
    base = rng.integers(0, 255, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for k in range(num_frames):
            picture = np.ascontiguousarray(base[k % 16 : k % 16 + height, (3 * k) % 16 : (3 * k) % 16 + width])
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def machine() -> dict[str, Any]:
    """What the numbers were taken on."""
    import numpy
    import torch
    import transformers

    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": numpy.__version__,
        "videochat-online": __version__,
        "commit": code_commit(),
    }


def _cpu_name() -> str:
    """As the system calls it; the architecture where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def text_table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of equal keys as aligned text, the keys as heading."""
    if not rows:
        return "(nothing)"
    cells = [list(rows[0])] + [[_shown(value) for value in row.values()] for row in rows]
    widths = [max(len(row[k]) for row in cells) for k in range(len(cells[0]))]
    lines = [
        "  ".join(
            text.ljust(width) if k == 0 else text.rjust(width)
            for k, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def tables_of(tables: Tables) -> str:
    """Several tables, each below its title."""
    return "\n".join(f"\n{title}\n{text_table(rows)}" for title, rows in tables.items())


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "-" if value is None else str(value)
