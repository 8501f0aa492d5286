#!/usr/bin/env bash
# Makes the environment (.venv) and lets the model that ships with the package watch a video and answer a question.
#   bash shell/quickstart.sh                              the clip that ships with the package
#   bash shell/quickstart.sh my.mp4 -q "What is this?"    your own: the arguments of `videochat-online chat`
# Safe to run again, and then fast. Settings (interpreter, package index): see shell/environment.sh.
set -euo pipefail

# shellcheck source=shell/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

VIDEO=$project_root/videochat_online/pocket/sample.mp4
NOW="Where is the yellow square?"
EARLIER="Where was the yellow square 8 seconds ago (at 11.5s)?"

make_environment core
if [ $# -eq 0 ]; then
  set -- "$VIDEO" --fps 1 -q "$NOW" --at 19.5 -q "$EARLIER" --at 19.5 # right: center, then top
fi
say "videochat-online chat$(printf ' %q' "$@")"
exec "$venv/bin/videochat-online" chat "$@"
