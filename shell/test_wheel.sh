#!/usr/bin/env bash
# Builds the wheel and tries it in clean environments, in a folder of its own: once with the newest and once with the
# oldest versions that setup.py allows.
#   bash shell/test_wheel.sh [newest] [oldest]     both where none is named; KEEP=1 keeps the folder
# Tried: chat, evaluation with both ways to answer, a training step, the plan of a preset with ZeRO, page and server.
# Settings (interpreter, package index): see shell/environment.sh. An environment takes 2 GB; one stands at a time.
set -euo pipefail

# shellcheck source=shell/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

EXTRAS=train,demo,eval,decord
work=$(mktemp -d)
log=$work/log
failed=""
unset PYTHONPATH
export OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0 DS_BUILD_OPS=0 GRADIO_ANALYTICS_ENABLED=False

clean_up() {
  if [ -n "${KEEP:-}" ]; then say "kept: $work"; else rm -rf "$work"; fi
}
trap clean_up EXIT

# Builds from a copy: setuptools leaves folders beside what it builds, and would take old files from there.
build_wheel() {
  local name source=$work/source
  mkdir "$source"
  for name in setup.py pyproject.toml README.md LICENSE videochat_online anno_data shell; do
    cp -R "$project_root/$name" "$source/"
  done
  find "$source" -name __pycache__ -prune -exec rm -rf {} +
  "$python" -m pip wheel -qq --no-deps --wheel-dir "$work" "$source" || fail "no wheel was built (see above)."
  wheel=$(ls "$work"/videochat_online-*.whl)
}

# The lower end of everything that the wheel asks for, a line each: what its own metadata says.
oldest_versions() {
  "$python" - "$wheel" "$EXTRAS" <<'PYTHON'
import sys
import zipfile
from email.parser import Parser
from pip._vendor.packaging.requirements import Requirement

wheel, extras = sys.argv[1], ["", *sys.argv[2].split(",")]
with zipfile.ZipFile(wheel) as archive:
    name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    wanted = Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist")
for one in map(Requirement, wanted):
    if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in extras):
        print(f"{one.name}==" + next(end.version for end in one.specifier if end.operator == ">="))
PYTHON
}

# try WHAT COMMAND...: runs it in $work; where it fails, says so with the last of its words, and continues.
try() {
  local what=$1 began=$SECONDS
  shift
  if (cd "$work" && "$@") >"$log" 2>&1; then
    say "$end: $what: works ($((SECONDS - began)) s)"
  else
    say "$end: $what: FAILED: $*"
    tail -25 "$log"
    failed="$failed, $what ($end)"
  fi
}

# Rows of text for every data set of a preset's list, where the list looks for them.
write_annotations() {
  "$python" - "$work/anno" <<'PYTHON'
import json
import sys
from pathlib import Path
from videochat_online.files import shipped

row = {"conversations": [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Hello."}]}
for values in json.loads(shipped("anno_data/stage2_online.json").read_text()).values():
    path = Path(values["annotation"].replace("${ANNO_ROOT}", sys.argv[1]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(row) + "\n" if path.suffix == ".jsonl" else json.dumps([row]))
PYTHON
}

# The page and the API of one server, over HTTP. Called in a subshell, whose end is the server's end.
try_server() {
  local port server
  port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  "$venv/bin/videochat-online" demo --port "$port" &
  server=$!
  # shellcheck disable=SC2064 # this server, not a later one
  trap "kill $server; wait $server || true" EXIT
  "$python" - "$port" "$server" <<'PYTHON'
import os
import sys
import time
import urllib.error
import urllib.request

place, server = f"http://127.0.0.1:{sys.argv[1]}", int(sys.argv[2])
until = time.monotonic() + 300


def get(path):
    while True:
        os.kill(server, 0)  # raises where it has ended
        try:
            return urllib.request.urlopen(place + path, timeout=60).read().decode()
        except urllib.error.URLError as error:
            if isinstance(error, urllib.error.HTTPError) or time.monotonic() > until:
                raise
        time.sleep(0.2)


for path, words in (("/", "gradio"), ("/openapi.json", "/v1/chat/completions")):
    text = get(path)
    assert words in text, f"{path} does not hold {words}: {text:.500}"
PYTHON
}

try_all() {
  local run="$venv/bin/videochat-online" kind
  try "chat" "$run" chat "$work/source/videochat_online/pocket/sample.mp4" --fps 1 -q "Where is the yellow square?" --at 12
  try "world" "$run" world build "world-$end" --videos 2 --seconds 12 --fps 2 --size 64
  for kind in generate likelihood; do
    try "eval --answer $kind" "$run" eval ovbench --model pocket --annotations "world-$end/ovbench" \
      --videos "world-$end/videos" --output "eval-$end-$kind" --answer "$kind"
  done
  export DATA_ROOT=$work/world-$end ANNO_ROOT=$work/anno
  try "train, one step" "$run" train --preset stage2 --model pocket --data "world-$end/train/stage2.json" --cpu \
    --output-dir "run-$end" --max-steps 1 --warmup 0 --global-batch-size 2 --num-frames 4 --max-length 2048 --num-workers 0
  write_annotations
  try "train --check, preset and ZeRO" "$run" train --check --preset stage2 --model pocket --strategy zero2 --cpu \
    --output-dir "plan-$end" --global-batch-size 2 --num-workers 0
  try "page and server" try_server
}

try_end() {
  end=$1
  venv=$work/$end python=$work/$end/bin/python
  make_venv
  [ -n "${wheel:-}" ] || build_wheel
  : >"$work/constraints"
  [ "$end" = newest ] || oldest_versions >"$work/constraints"
  say "$end: installing $(basename "$wheel") [$EXTRAS]"
  pip_install -qq --progress-bar off --constraint "$work/constraints" "${wheel}[$EXTRAS]"
  "$python" -m pip list --format freeze | grep -i -E "^($(oldest_versions | sed 's/==.*//' | paste -sd '|'))==" | paste -sd ' '
  # What the libraries will take away is an error while it still works.
  [ "$end" = oldest ] || export PYTHONWARNINGS=error::FutureWarning
  try_all
  unset PYTHONWARNINGS
  [ -n "${KEEP:-}" ] || rm -rf "$venv"
}

[ $# -gt 0 ] || set -- newest oldest
for end in "$@"; do
  [[ $end == @(newest|oldest) ]] || fail "there is no end '$end': newest or oldest"
done
for end in "$@"; do
  try_end "$end"
done
[ -z "$failed" ] || fail "the wheel does not work: ${failed#, }"
say "the wheel works: $* (Python $(describe_python "$base_python" | cut -d' ' -f1), $SECONDS s)"
