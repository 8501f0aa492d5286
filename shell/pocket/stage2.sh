#!/usr/bin/env bash
# Stage 2 with the small model, on the CPU: online dialogues and the offline sets, from stage 1's model.
#   bash shell/pocket/stage2.sh [--check] [flags of `videochat-online train --help`]
# Run again after an interruption, it goes on.
#
#   WORLD       folder of the generated videos and their lists          runs/pocket/world
#   VIDEOS      how many are made                                                     64
#   MODEL       start from this model                            runs/pocket/stage1/model
#   OUTPUT_DIR  folder of the run                                      runs/pocket/stage2
#   CONFIG      settings                                          shell/pocket/settings.yaml
set -euo pipefail

# shellcheck source=shell/pocket/stage.sh
source "$(dirname "${BASH_SOURCE[0]}")/stage.sh"

pocket_stage 2 "${MODEL:-runs/pocket/stage1/model}" "$@"
