#!/usr/bin/env bash
# Stage 1 with the small model, on the CPU: the same program as the 4B model's, on videos of the generated world.
#   bash shell/pocket/stage1.sh [--check] [flags of `videochat-online train --help`]
# Makes the world where it is missing. Run again after an interruption, it resumes.
#
#   LIST        stage1_pictures (single pictures), stage1 (pictures and videos) or skill_claims_one,
#               skill_clip_acts, ... (that skill and a little of the others)                    stage1
#   WORLD       folder of the generated videos and their lists                          runs/pocket/short
#   VIDEOS      how many are made                                                                   2600
#   PICTURES    how many single pictures                                                            8000
#   MODEL       start from this model                                            runs/pocket/stage0/model
#   OUTPUT_DIR  folder of the run                                                      runs/pocket/stage1
#   CONFIG      settings                                                          shell/pocket/settings.yaml
set -euo pipefail

# shellcheck source=shell/pocket/stage.sh
source "$(dirname "${BASH_SOURCE[0]}")/stage.sh"

WORLD=${WORLD:-runs/pocket/short} OUTPUT_DIR=${OUTPUT_DIR:-runs/pocket/stage1}
pocket_stage 1 "${LIST:-stage1}" "${MODEL:-runs/pocket/stage0/model}" --num-frames 24 "$@"
