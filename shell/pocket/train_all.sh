#!/usr/bin/env bash
# The pocket model from nothing, on two cores: stage 0 teaches the encoder what is where and the connector to say it in
# words, where it stays; stages 1 and 2 are otherwise the paper's, stage 1 with single pictures first.
#   bash shell/pocket/train_all.sh            hours; run again after an interruption, it goes on where it was
#   bash shell/pocket/train_all.sh --smoke    five minutes: every step, too short to learn more than the beginnings
#
#   RUNS         folder of worlds, runs and the model that comes out                runs/pocket (with --smoke: .../smoke)
#   SEED         of encoder and stages                                                                             42
#   STAGE0_STEPS, PICTURE_EPOCHS, STAGE1_EPOCHS, STAGE2_EPOCHS    length of each stage
# What comes out: $RUNS/model, and of each stage its settings.json, log.jsonl and checkpoints; $RUNS/seconds.txt
set -euo pipefail

here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=shell/launch_training.sh
source "$here/../launch_training.sh"

if [ "${1:-}" = --smoke ]; then
  shift
  export RUNS=${RUNS:-runs/pocket/smoke} VIDEOS=${VIDEOS:-12} PICTURES=${PICTURES:-400}
  STAGE0_STEPS=${STAGE0_STEPS:-150} STAGE1_EPOCHS=${STAGE1_EPOCHS:-1} STAGE2_EPOCHS=${STAGE2_EPOCHS:-2}
fi
[ $# -eq 0 ] || fail "unknown argument $1" "Usage: bash $0 [--smoke]"
RUNS=${RUNS:-runs/pocket} SEED=${SEED:-42}

# timed NAME COMMAND...: runs it and notes how long it took.
timed() {
  local name=$1 began=$SECONDS
  shift
  say "$name: $*"
  "$@"
  echo "$name $((SECONDS - began))" >>"$RUNS/seconds.txt"
}

use_python
cd "$project_root"
mkdir -p "$RUNS"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
timed stage0 "$python" -m videochat_online.pocket.warm_up "$RUNS/stage0" --steps "${STAGE0_STEPS:-4500}" --seed "$SEED"
WORLD=$RUNS/short LIST=stage1_pictures MODEL=$RUNS/stage0/model OUTPUT_DIR=$RUNS/stage1_pictures timed pictures \
  bash "$here/stage1.sh" --seed "$SEED" --epochs "${PICTURE_EPOCHS:-1}"
WORLD=$RUNS/short MODEL=$RUNS/stage1_pictures/model OUTPUT_DIR=$RUNS/stage1 timed stage1 \
  bash "$here/stage1.sh" --seed "$SEED" --epochs "${STAGE1_EPOCHS:-2}"
WORLD=$RUNS/long MODEL=$RUNS/stage1/model OUTPUT_DIR=$RUNS/stage2 timed stage2 \
  bash "$here/stage2.sh" --seed "$SEED" --epochs "${STAGE2_EPOCHS:-1}" --schedule cosine
"$python" -m videochat_online.pocket.build "$RUNS/model" --trained "$RUNS/stage2/model"
say "the model is in $RUNS/model; ask it: videochat-online chat VIDEO --model $RUNS/model"
