"""One process of a run in which rank 1 stops in step 3, for test_distributed.py, under torchrun.

    torchrun --nproc-per-node 2 -m tests.training.hang FOLDER HOW
HOW: `data` (a file is never read to its end) or `stopped` (the process does not run at all).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

from tests.training.tiny import Example, Examples, make_loop
from videochat_online.training.distributed import rank


class Hanging(Examples):
    def __getitem__(self, index: int) -> Example:
        if rank() == 1 and self.loop.state.step == 2:
            if sys.argv[2] == "data":
                threading.Event().wait()
            os.kill(os.getpid(), signal.SIGSTOP)
        return super().__getitem__(index)

    loop: Any = None


if __name__ == "__main__":
    dataset = Hanging(24)
    dataset.loop = make_loop(sys.argv[1], dataset=dataset, timeout=0.15)
    dataset.loop.train()
