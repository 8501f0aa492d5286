#!/usr/bin/env bash
# Qwen2-VL-7B on OVBench: a clip of the last 32 s.
#   bash lmms-eval-ovbench/scripts/eval_models/eval_qwen2-vl-7B.sh [--check] [flags of lmms-eval]
# --check verifies environment, model, tasks, annotations and videos, prints the plan, and stops.
# lmms-eval's class needs qwen-vl-utils and a torchvision that fits the torch that is installed: start this script in an
# environment that has them.
#
#   OVBENCH_ROOT   folder with annotations/ and videos/                                                      needed
#   MODEL          hub id or folder                                                       Qwen/Qwen2-VL-7B-Instruct
#   FRAMES         taken from the clip at most                                                                   64
#   MAX_PIXELS     of a frame (200704 is 448 x 448, 256 tokens)                                              200704
#   MODEL_ARGS     more of lmms-eval's --model_args, with commas between                                       none
#   TASKS          ovbench, or some of ovbench_ava,ovbench_coin,ovbench_hirest,ovbench_tao                  ovbench
#   OUTPUT_DIR     results, samples, report, result.json                              runs/eval/ovbench/qwen2-vl-7B
#   LIMIT          only so many questions of each source                                                        all
#   NUM_PROCESSES, NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT: see shell/eval/common.sh
set -euo pipefail

# shellcheck source=shell/eval/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../../shell/eval/common.sh"

REQUIRES="torchvision qwen_vl_utils"
args=pretrained=${MODEL:-Qwen/Qwen2-VL-7B-Instruct},max_num_frames=${FRAMES:-64},max_pixels=${MAX_PIXELS:-200704}
lmms_online_bench qwen2-vl-7B qwen2_vl "$args" "$@"
