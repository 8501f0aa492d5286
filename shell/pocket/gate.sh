#!/usr/bin/env bash
# The pocket model's gate from nothing, and how good it is on three held-out worlds (docs/proactive.md).
#   bash shell/pocket/gate.sh            run again after an interruption, it resumes but for the training itself
#   bash shell/pocket/gate.sh --smoke    two minutes: every step, too short to learn
#
#   MODEL     whose gate                                                                    pocket
#   RUNS      folder of worlds, gate and tables                                  runs/pocket/gate
#   VIDEOS    streams of 40 seconds to learn from; and HELD_OUT of each world          1000 and 40
#   EPOCHS    passes over them                                                                  12
set -euo pipefail

here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=shell/pocket/stage.sh
source "$here/stage.sh"

help_if_asked "$@"
if [ "${1:-}" = --smoke ]; then
  shift
  RUNS=${RUNS:-runs/pocket/gate/smoke} VIDEOS=${VIDEOS:-8} HELD_OUT=${HELD_OUT:-4} EPOCHS=${EPOCHS:-2}
fi
[ $# -eq 0 ] || fail "unknown argument $1" "Usage: bash $0 [--smoke]"
MODEL=${MODEL:-pocket} RUNS=${RUNS:-runs/pocket/gate}

# world NAME VIDEOS SEED SPLIT FLAGS...: streams, and what is to be told about them.
world() {
  "$python" -m videochat_online.cli world build "$RUNS/$1" --videos "$2" --seed "$3" --split "$4" --seconds 40 \
    --level 1 2 3 4 --fps 2 --questions 0 --no-samples
  "$python" -m videochat_online.cli world standing "$RUNS/$1" "${@:5}"
}

use_python
cd "$project_root"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
world told "${VIDEOS:-1000}" 31 train --every
"$python" -m videochat_online.cli gate train "$RUNS/told/standing.json" --videos "$RUNS/told" --model "$MODEL" \
  --epochs "${EPOCHS:-12}" --output "$RUNS/gate.safetensors"
for seed in 41 42 43; do
  world "asked$seed" "${HELD_OUT:-40}" "$seed" test
  "$python" -m videochat_online.cli eval standing --annotations "$RUNS/asked$seed/standing.json" --model "$MODEL" \
    --videos "$RUNS/asked$seed" --gate "$RUNS/gate.safetensors" --gate-only --output "$RUNS/standing$seed"
done
say "the gate is $RUNS/gate.safetensors, its tables are $RUNS/standing*/report.md"
