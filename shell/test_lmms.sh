#!/usr/bin/env bash
# Runs the tests of the plug-in (lmms-eval-ovbench) with lmms-eval, which .venv does not have: there they skip.
# They get an environment of their own, .venv-lmms (1.9 GB, minutes the first time; the quick tests one to four).
#   bash shell/test_lmms.sh                the quick ones; arguments go to pytest
#   bash shell/test_lmms.sh -m slow        those that start lmms-eval, on its own tasks too, over made-up data: minutes
set -euo pipefail

# shellcheck source=shell/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
help_if_asked "$@"

plug_in=$project_root/lmms-eval-ovbench venv=$project_root/.venv-lmms python=$project_root/.venv-lmms/bin/python
stamp=$venv/.installed
wanted=$(cat <(fingerprint) "$plug_in/pyproject.toml" "$plug_in/requirements.txt" | cksum)
export OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
  make_venv
  say "installing lmms-eval and the plug-in"
  mapfile -t tools < <(grep -o 'pytest[-a-z]*[=>][^"]*' "$project_root/setup.py")
  pip_install -qq --progress-bar off -e "${project_root}[eval]" -e "$plug_in" "${tools[@]}"
  pip_install -qq --no-deps -r "$plug_in/requirements.txt"
  echo "$wanted" >"$stamp"
fi

say "pytest tests/lmms_eval $*"
cd "$project_root"
"$python" -c "import lmms_eval" # else all of them would skip
exec "$python" -m pytest -q -n auto --maxprocesses 4 --dist loadfile tests/lmms_eval "$@"
