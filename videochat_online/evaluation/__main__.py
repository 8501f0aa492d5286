"""`python -m videochat_online.evaluation BENCHMARK ...`: the same as `videochat-online eval`, for torchrun -m."""

from __future__ import annotations

import argparse
import sys

from .commands import add_eval_commands


def main() -> int:
    parser = argparse.ArgumentParser(prog="videochat-online")
    add_eval_commands(parser.add_subparsers(required=True))
    options = parser.parse_args(["eval", *sys.argv[1:]])
    try:
        return options.run(options)
    except (ValueError, ImportError, OSError) as error:
        print(f"videochat-online: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
