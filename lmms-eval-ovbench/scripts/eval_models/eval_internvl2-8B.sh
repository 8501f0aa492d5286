#!/usr/bin/env bash
# InternVL2-8B on OVBench: the last 32 s, at most 16 frames of 256 tokens.
#   bash lmms-eval-ovbench/scripts/eval_models/eval_internvl2-8B.sh [--check] [flags of lmms-eval]
# --check verifies environment, model, tasks, annotations and videos, prints the plan, and stops.
# The checkpoint runs on videochat-online's own code. LMMS_MODEL=internvl2 takes lmms-eval's class, which runs the code
# that comes with the checkpoint: start it in an environment with transformers 4 and torchvision.
#
#   OVBENCH_ROOT   folder with annotations/ and videos/                                                      needed
#   MODEL          hub id or folder                                                          OpenGVLab/InternVL2-8B
#   FRAMES         shown at most                                                                                 16
#   LMMS_MODEL     videochat_online or internvl2                                                   videochat_online
#   MODEL_ARGS     more of lmms-eval's --model_args, with commas between                                       none
#   TASKS          ovbench, or some of ovbench_ava,ovbench_coin,ovbench_hirest,ovbench_tao                  ovbench
#   OUTPUT_DIR     results, samples, report, result.json                             runs/eval/ovbench/internvl2-8B
#   LIMIT          only so many questions of each source                                                        all
#   NUM_PROCESSES, NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT: see shell/eval/common.sh
set -euo pipefail

# shellcheck source=shell/eval/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../../shell/eval/common.sh"

model=${MODEL:-OpenGVLab/InternVL2-8B} frames=${FRAMES:-16}
if [ "${LMMS_MODEL:-videochat_online}" = internvl2 ]; then
  REQUIRES="torchvision timm"
  args=pretrained=$model,modality=video,num_frame=$frames
else
  args=pretrained=$model,mode=sliding_window,frames=$frames,recent=$frames
fi
lmms_online_bench internvl2-8B "${LMMS_MODEL:-videochat_online}" "$args" "$@"
