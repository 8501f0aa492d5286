"""The demo page: `python gradio_demo.py` is `videochat-online demo`, with the same flags."""

import sys

from videochat_online.cli import main

if __name__ == "__main__":
    sys.exit(main(["demo", *sys.argv[1:]]))
