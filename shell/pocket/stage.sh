# One stage of the pocket model; sourced by stage1.sh and stage2.sh.
# shellcheck shell=bash

# shellcheck source=shell/launch_training.sh
source "$(dirname "${BASH_SOURCE[0]}")/../launch_training.sh"

# pocket_stage NUMBER LIST MODEL WORLD_FLAGS TRAINING_FLAGS: 1. the environment 2. the world 3. training on one of its
# lists with the settings of that stage. WORLD_FLAGS is one string.
pocket_stage() {
  local stage=$1 list=$2 model=$3 world_flags=$4 world
  shift 4
  use_python
  cd "$project_root"
  world=$(realpath -m "$WORLD")
  # shellcheck disable=SC2086 # the flags are several words
  "$python" -m videochat_online.cli world build "$world" --videos "$VIDEOS" --fps 2 --size 64 $world_flags
  export DATA_ROOT=$world ANNO_ROOT=$world OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
  launch_training --preset "stage$stage" \
    --config "${CONFIG:-shell/pocket/settings.yaml}" \
    --model "$model" \
    --data "$world/train/$list.json" \
    --frame-cache "$world/frame-cache" \
    --output-dir "$OUTPUT_DIR" \
    --precision "$(matrix_precision)" \
    --resume auto \
    "$@"
}

# bf16 where the CPU multiplies such matrices itself (twice as fast there, far slower elsewhere), else fp32.
matrix_precision() {
  "$python" -c 'from videochat_online.pocket.warm_up import has_bfloat16; print("bf16" if has_bfloat16() else "fp32")'
}
