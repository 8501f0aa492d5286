#!/usr/bin/env bash
# Makes the environment (.venv) with the development tools and runs the tests; arguments go to pytest.
#   bash shell/test.sh                     all but the slow ones and those that need a GPU
#   bash shell/test.sh tests/media -m slow
# A process a core, four at most: a test computes with one thread. "-n 0" runs all in one process (for --pdb and -s).
# Safe to run again, and then fast. Settings (interpreter, package index): see shell/environment.sh.
set -euo pipefail

# shellcheck source=shell/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

make_environment dev
say "pytest $*"
cd "$project_root"
exec "$python" -m pytest -n auto --maxprocesses 4 --dist loadfile "$@"
