#!/usr/bin/env bash
# Everything that a GPU can tell, in under ten minutes, in order of worth; each step has a time limit and a file of its
# own, so that a run that is cut off still tells. Nothing is installed: the Python that is named must have what
# setup.py asks for.
#   bash shell/gpu_check.sh DIR            results and gpu.md go to DIR
#   TINY=1 bash shell/gpu_check.sh DIR     a rehearsal on the CPU, with small shapes
# Settings: PYTHON (default: .venv's, else python3); ONLY="equal ask" runs these steps.
set -uo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:?"where to? bash shell/gpu_check.sh DIR"}
if [ -x .venv/bin/python ]; then python=${PYTHON:-.venv/bin/python}; else python=${PYTHON:-python3}; fi
flags=""
[ -z "${TINY:-}" ] || flags="--device cpu --tiny"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
mkdir -p "$out"
failed=""

# step NAME SECONDS COMMAND...
step() {
  local name=$1 limit=$2 began=$SECONDS status=0
  shift 2
  [ -z "${TINY:-}" ] || limit=$((4 * limit)) # on a CPU that others may share
  if [ -n "${ONLY:-}" ] && [[ " $ONLY " != *" $name "* ]]; then return; fi
  timeout --kill-after=5 "$limit" "$@" >"$out/$name.log" 2>&1 || status=$?
  echo "== $name: status $status, $((SECONDS - began)) s of at most $limit"
  [ "$status" = 0 ] || { failed="$failed $name"; tail -n 5 "$out/$name.log"; }
}

check="$python -m videochat_online.lab.bench.gpu_check"
# shellcheck disable=SC2086
{
  step tests 65 $python -m pytest -q -rs -m gpu -p no:cacheprovider tests/model tests/streaming tests/test_adapters.py
  step equal 85 $check equal --output "$out" $flags
  step encoder 75 $check encoder --output "$out" $flags
  step bank 30 $check bank --output "$out" $flags
  step ask 90 $check ask --output "$out" $flags
  step stream 75 $check stream --output "$out" $flags
  step train 80 $check train --output "$out" $flags
  step many 45 $check many --output "$out" $flags
  $check report --output "$out"
}
echo "== $SECONDS s; $out/gpu.md"
[ -z "$failed" ] || { echo "== did not end well:$failed"; exit 1; }
