#!/usr/bin/env bash
# Makes the environment (.venv) and opens the demo page: watch a stream, ask about it, see what the model remembers.
#   bash gradio_demo.sh                                  http://127.0.0.1:7860, with the model that ships
#   bash gradio_demo.sh --model MODEL --allow-urls       the flags of `videochat-online demo`
# Safe to run again, and then fast. Settings (interpreter, package index): see shell/environment.sh.
set -euo pipefail

# shellcheck source=shell/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/shell/environment.sh"

make_environment demo
exec "$python" "$project_root/gradio_demo.py" "$@"
