"""Reads the files named on standard input, one a line, as the product does; answers each with a line of json.

A process of its own, with limits on memory, so that a crash, a hang or an unbounded allocation of FFmpeg or Pillow is
seen from outside and ends nothing else. Started by test_fuzz.py.
"""

from __future__ import annotations

import json
import resource
import sys
import warnings
from pathlib import Path

import numpy as np

from videochat_online.media.readers import MediaError, open_image, open_video

MOST_ADDRESSES = 8 << 30
"""Bytes. A guard for the machine; what a file really took is in the answer."""
MOST_FRAMES = 40


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_ADDRESSES, MOST_ADDRESSES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        kind, path = json.loads(line)
        answer = read_video(Path(path)) if kind == "video" else read_picture(Path(path))
        answer["mib"] = peak_mib()
        print(json.dumps(answer), flush=True)


def peak_mib() -> int:
    """Most memory this program has held. Not `ru_maxrss`, which counts what the process was before it was this one."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


def read_video(path: Path) -> dict[str, object]:
    """Times of all frames; the pictures of the first 40 and of the last, which a jump reaches."""
    try:
        with open_video(path, num_threads=1) as video:
            times = video.timestamps
            assert len(times) > 0 and times[0] == 0.0 and np.isfinite(times).all() and (np.diff(times) >= 0).all()
            assert 0 < video.fps < float("inf") and times[-1] <= video.duration < float("inf")
            numbers = [*range(min(MOST_FRAMES, len(times))), len(times) - 1]
            for frame in video.read(numbers):
                assert frame.image.dtype == np.uint8 and frame.image.ndim == 3 and frame.image.shape[2] == 3
        return {"outcome": "read"}
    except Exception as error:
        return refusal(error)


def read_picture(path: Path) -> dict[str, object]:
    try:
        image = open_image(path)
        assert image.mode == "RGB" and 0 not in image.size
        return {"outcome": "read"}
    except Exception as error:
        return refusal(error)


def refusal(error: Exception) -> dict[str, object]:
    """A MediaError on one line is the one answer to a file that cannot be read."""
    is_ours = isinstance(error, MediaError) and "\n" not in str(error)
    return {"outcome": "refused" if is_ours else "wrong", "error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    main()
