# The worlds and stages of the pocket model; sourced by the scripts beside it.
# shellcheck shell=bash

# shellcheck source=shell/launch_training.sh
source "$(dirname "${BASH_SOURCE[0]}")/../launch_training.sh"

# build_world STAGE FOLDER: the videos and pictures of stage 1 or 2, unless they are there. Environment: VIDEOS, PICTURES.
build_world() {
  if [ "$1" = 1 ]; then
    set -- "$2" --videos "${VIDEOS:-2600}" --pictures "${PICTURES:-8000}" --seconds 12 20 --level 1 1 2
  else
    set -- "$2" --videos "${VIDEOS:-700}" --pictures "${PICTURES:-4000}" --seconds 30 30 30 60 --level 1 2 3
  fi
  "$python" -m videochat_online.cli world build "$@" --fps 2 --size 64
}

# pocket_stage STAGE LIST MODEL FLAGS: 1. the environment 2. the world 3. training on one of its lists.
pocket_stage() {
  local stage=$1 list=$2 model=$3 world
  shift 3
  use_python
  cd "$project_root"
  world=$(realpath -m "$WORLD")
  build_world "$stage" "$world"
  train_on "$stage" "$world" "$list" "$model" "$OUTPUT_DIR" "$@"
}

# train_on STAGE WORLD LIST MODEL OUTPUT FLAGS: trains with the settings of that stage, and ends the shell.
train_on() {
  local stage=$1 world=$2 list=$3 model=$4 output=$5
  shift 5
  export DATA_ROOT=$world ANNO_ROOT=$world OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
  launch_training --preset "stage$stage" \
    --config "${CONFIG:-shell/pocket/settings.yaml}" \
    --model "$model" \
    --data "$world/train/$list.json" \
    --frame-cache "$world/frame-cache" \
    --output-dir "$output" \
    --precision "${PRECISION:-$(matrix_precision)}" \
    --resume auto \
    "$@"
}

# bf16 where the CPU multiplies such matrices itself (twice as fast there, far slower elsewhere), else fp32. PRECISION,
# where it is set, is taken instead.
matrix_precision() {
  "$python" -c 'from videochat_online.lab.pocket.warm_up import has_bfloat16; print("bf16" if has_bfloat16() else "fp32")'
}
