"""`python -m videochat_online.training`, for torchrun."""

import sys

from .commands import main

if __name__ == "__main__":
    sys.exit(main())
