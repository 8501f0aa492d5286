# One stage of the pocket model; sourced by stage1.sh and stage2.sh.
# shellcheck shell=bash

# shellcheck source=shell/launch_training.sh
source "$(dirname "${BASH_SOURCE[0]}")/../launch_training.sh"

# pocket_stage NUMBER MODEL FLAGS: 1. the environment 2. the world 3. training on its list of that stage.
pocket_stage() {
  local stage=$1 model=$2 world
  shift 2
  use_python
  cd "$project_root"
  world=$(realpath -m "${WORLD:-runs/pocket/world}")
  "$python" -m videochat_online.cli world build "$world" --videos "${VIDEOS:-64}"
  export DATA_ROOT=$world ANNO_ROOT=$world
  launch_training --preset "stage$stage" \
    --config "${CONFIG:-shell/pocket/settings.yaml}" \
    --model "$model" \
    --data "$world/train/stage$stage.json" \
    --output-dir "${OUTPUT_DIR:-runs/pocket/stage$stage}" \
    --resume auto \
    "$@"
}
