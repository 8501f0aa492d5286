#!/usr/bin/env bash
# Stage 2 with the small model, on the CPU: online dialogues and the offline sets, from stage 1's model.
#   bash shell/pocket/stage2.sh [--check] [flags of `videochat-online train --help`]
# Makes the world where it is missing. Run again after an interruption, it resumes.
#
#   WORLD       folder of the generated videos and their lists           runs/pocket/long
#   VIDEOS      how many are made                                                    700
#   PICTURES    how many single pictures                                            4000
#   MODEL       start from this model                            runs/pocket/stage1/model
#   OUTPUT_DIR  folder of the run                                      runs/pocket/stage2
#   CONFIG      settings                                          shell/pocket/settings.yaml
set -euo pipefail

# shellcheck source=shell/pocket/stage.sh
source "$(dirname "${BASH_SOURCE[0]}")/stage.sh"

WORLD=${WORLD:-runs/pocket/long} OUTPUT_DIR=${OUTPUT_DIR:-runs/pocket/stage2}
pocket_stage 2 stage2 "${MODEL:-runs/pocket/stage1/model}" "$@"
