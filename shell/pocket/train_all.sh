#!/usr/bin/env bash
# The pocket model from nothing, on two cores: stage 0 teaches the encoder what is where and the connector to say it in
# words, where it stays; stages 1 and 2 are otherwise the paper's, stage 1 with single pictures first. What pictures, and
# then videos, do not teach in a mixture follows each of them: some hundred steps of each skill, nearly alone
# (videochat_online/lab/shapeworld/clips.py says why).
#   bash shell/pocket/train_all.sh            2 h 20 min; run again after an interruption, it resumes
#   bash shell/pocket/train_all.sh --smoke    five minutes: every step, too short to learn more than the beginnings
#
#   RUNS         folder of worlds, runs and the model that comes out                runs/pocket (with --smoke: .../smoke)
#   SEED         of encoder and stages                                                                             42
#   STAGE0_STEPS, PICTURE_EPOCHS, PICTURE_SKILL_STEPS, STAGE1_EPOCHS, SKILL_STEPS, STAGE2_EPOCHS  length of each stage
#   NUM_GPUS     processes that train, one core each: 1 or 2, the same when run again                              2
# What comes out: $RUNS/model, seconds.txt, worlds.log and of each stage its settings.json, log.jsonl and checkpoints
set -euo pipefail

here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=shell/pocket/stage.sh
source "$here/stage.sh"

help_if_asked "$@"
if [ "${1:-}" = --smoke ]; then
  shift
  export RUNS=${RUNS:-runs/pocket/smoke} VIDEOS=${VIDEOS:-12} PICTURES=${PICTURES:-160}
  STAGE0_STEPS=${STAGE0_STEPS:-100}
  PICTURE_SKILL_STEPS=${PICTURE_SKILL_STEPS:-2} SKILL_STEPS=${SKILL_STEPS:-2} # the first of a warm-up changes no weight
  STAGE1_EPOCHS=${STAGE1_EPOCHS:-2} STAGE2_EPOCHS=${STAGE2_EPOCHS:-1}
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
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} NUM_GPUS=${NUM_GPUS:-2}

# Stage 0 is one process: the worlds are made beside it.
set -m # a process group of its own, so that all of it ends with this script
(build_world 1 "$RUNS/short" && build_world 2 "$RUNS/long") >"$RUNS/worlds.log" 2>&1 &
worlds=$!
set +m
trap 'kill -- "-$worlds" 2>/dev/null || true' EXIT
timed stage0 "$python" -m videochat_online.lab.pocket.warm_up "$RUNS/stage0" --steps "${STAGE0_STEPS:-4500}" --seed "$SEED"
wait "$worlds" || fail "the worlds could not be made" "$RUNS/worlds.log says why"
PRECISION=${PRECISION:-$(matrix_precision)}
export PRECISION
model=$RUNS/stage0/model

# stage NAME SCRIPT FLAGS...: trains the model of the stage before on; environment: LIST, WORLD.
stage() {
  local name=$1 script=$2
  shift 2
  MODEL=$model OUTPUT_DIR=$RUNS/$name timed "$name" bash "$here/$script" --seed "$SEED" "$@"
  model=$RUNS/$name/model
}

export WORLD=$RUNS/short
LIST=stage1_pictures stage stage1_pictures stage1.sh --epochs "${PICTURE_EPOCHS:-1}"
for skill in claims_one routines claims; do
  LIST=skill_$skill stage "stage1_$skill" stage1.sh --max-steps "${PICTURE_SKILL_STEPS:-800}"
done
LIST=stage1 stage stage1 stage1.sh --epochs "${STAGE1_EPOCHS:-1}"
for skill in steps clip_acts clip_moves clip_moments clip_whens clip_counts; do
  LIST=skill_$skill stage "stage1_$skill" stage1.sh --batch-size 16 --global-batch-size 32 \
    --max-steps "${SKILL_STEPS:-200}"
done
export WORLD=$RUNS/long
stage stage2 stage2.sh --epochs "${STAGE2_EPOCHS:-1.5}" --schedule cosine
"$python" -m videochat_online.lab.pocket.build "$RUNS/model" --trained "$model"
say "the model is in $RUNS/model; ask it: videochat-online chat VIDEO --model $RUNS/model"
