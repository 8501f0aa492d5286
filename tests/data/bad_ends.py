"""What stands in for looking at a file, in the process that reads it: a crash, a hang, a mistake of ours."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from videochat_online.data.looking import MediaCheck, MediaFacts


class EndsBadly(MediaCheck):
    """By the name of a still image."""

    def at(self, key: tuple[Path, Any], *_: Any) -> MediaFacts:
        if "crash" in key[1]:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "hang" in key[1]:
            time.sleep(600)
        if "bug" in key[1]:
            raise AttributeError("a bug of ours")
        return MediaFacts(num_frames=1, num_decoded=1)
