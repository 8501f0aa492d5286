"""`python -m videochat_online.evaluation BENCHMARK ...`: the same as `videochat-online eval`, for torchrun -m."""

import sys

from ..command_line import CommandParser
from .commands import add_benchmarks

if __name__ == "__main__":
    parser = CommandParser(prog="python -m videochat_online.evaluation")
    add_benchmarks(parser)
    sys.exit(parser.run())
