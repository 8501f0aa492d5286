#!/usr/bin/env bash
# What the pocket model shows about the method: tables, plots and the commands behind them, in docs/evidence/.
#   bash shell/pocket/evidence.sh [PART...]     sub_tasks memory size (these by default) training stages
#   bash shell/pocket/evidence.sh remembering   whether memory helps, by age of evidence: remembering.md
#   bash shell/pocket/evidence.sh five_things   the same in a world in which detail pays: five_things.md
#   bash shell/pocket/evidence.sh choosing      whether a trained chooser of frames helps: choosing.md
#   bash shell/pocket/evidence.sh chooser       trains one, from nothing: chooser.safetensors in RUNS
#   bash shell/pocket/evidence.sh distraction   trains the model on old evidence in long streams, and asks it as `choosing`
#                                               does: RUNS/undistracted, distraction.md
# Run again after an interruption, it resumes. `training` and `stages` are about what train_all.sh leaves in runs/pocket;
# `stages` first trains four small models on the same number of samples.
#
#   MODEL     model under test                                                             pocket
#   RUNS      folder of worlds and runs                                      runs/pocket/evidence
#   VIDEOS    held-out streams of 30 seconds; half as many of 2 minutes, a quarter of 10       48
#   START     stages: the model that all begin with                 runs/pocket/stage1_claims/model
#   STEPS     stages: steps of 8 samples that each model is trained for                      2000
#   NUM_GPUS  stages: processes that train, one core each: 1 or 2                               2
#   STREAMS   remembering, choosing, distraction: streams of 2 and of 10 minutes in each world  16
#   MINUTES   the same: begin no stream later; run again, it goes on     no limit
#   OUTPUT    where tables and plots go                                             docs/evidence
set -euo pipefail

here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=shell/pocket/stage.sh
source "$here/stage.sh"

help_if_asked "$@"
RUNS=${RUNS:-runs/pocket/evidence} START=${START:-runs/pocket/stage1_claims/model} STEPS=${STEPS:-2000}

# variant NAME LIST STEPS MODEL: one model of `stages`, trained on a list of its world. The warm-up is a share of its
# steps, so that two stages of half the length have no more of it than one.
variant() (
  train_on 2 "$(realpath "$RUNS/stages/world")" "$2" "$4" "$RUNS/stages/$1" --max-steps "$3" --warmup 0.05
)

use_python
cd "$project_root"
mkdir -p "$RUNS"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} NUM_GPUS=${NUM_GPUS:-2}
if [[ "$*" == chooser ]]; then
  exec "$python" -m videochat_online.lab.pocket.choosing "$RUNS/chooser.safetensors" --work "$RUNS/chooser" \
    --model "${MODEL:-pocket}"
elif [[ "$*" == five_things ]]; then
  exec "$python" -m videochat_online.lab.pocket.remembering "${OUTPUT:-docs/evidence}" --work "$RUNS/$1" --page "$1" \
    --model "${MODEL:-pocket}" --streams "${STREAMS:-16}" ${MINUTES:+--minutes "$MINUTES"} --level 5 --ways pyramid \
    "uniform 52x1" "uniform 13x4" "newest 16x1" "uniform 19x1" perfect "recall by time"
elif [[ "$*" == remembering || "$*" == choosing || "$*" == distraction ]]; then
  if [[ "$*" == distraction ]]; then
    [[ -f "$RUNS/undistracted/config.json" ]] || "$python" -m videochat_online.lab.pocket.distraction \
      "$RUNS/undistracted" --work "$RUNS/distraction/lessons" --model "${MODEL:-pocket}"
    MODEL=$RUNS/undistracted
    set -- "$@" --chooser videochat_online/pocket/chooser.safetensors
  fi
  [[ "$1" == remembering ]] || set -- "$@" --ways pyramid "newest 16x1" "uniform 19x1" perfect "recall by time" \
    "recall by choice"
  exec "$python" -m videochat_online.lab.pocket.remembering "${OUTPUT:-docs/evidence}" --work "$RUNS/$1" --page "$@" \
    --model "${MODEL:-pocket}" --streams "${STREAMS:-16}" ${MINUTES:+--minutes "$MINUTES"}
fi
if [[ " $* " == *" stages "* ]]; then
  "$python" -m videochat_online.cli world build "$RUNS/stages/world" --videos 600 --fps 2 --size 64 --seconds 12 30 \
    --level 1 2
  variant offline stage2_offline "$STEPS" "$START"
  variant online stage2_single "$STEPS" "$START"
  variant interleaved stage2 "$STEPS" "$START"
  variant first_half stage2_offline "$((STEPS / 2))" "$START"
  variant progressive stage2 "$((STEPS / 2))" "$RUNS/stages/first_half/model"
fi
"$python" -m videochat_online.lab.pocket.evidence "${OUTPUT:-docs/evidence}" --work "$RUNS" --model "${MODEL:-pocket}" \
  --videos "${VIDEOS:-48}" ${1:+--parts "$@"}
