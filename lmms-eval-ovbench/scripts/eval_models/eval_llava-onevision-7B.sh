#!/usr/bin/env bash
# LLaVA-OneVision-7B on OVBench: a clip of the last 32 s.
#   bash lmms-eval-ovbench/scripts/eval_models/eval_llava-onevision-7B.sh [--check] [flags of lmms-eval]
# --check verifies environment, model, tasks, annotations and videos, prints the plan, and stops.
# The video processor of transformers needs a torchvision that fits the torch that is installed: start this script in an
# environment that has it.
#
#   OVBENCH_ROOT   folder with annotations/ and videos/                                                      needed
#   MODEL          hub id or folder                                         llava-hf/llava-onevision-qwen2-7b-ov-hf
#   FRAMES         taken from the clip                                                                           32
#   MODEL_ARGS     more of lmms-eval's --model_args, with commas between                                       none
#   TASKS          ovbench, or some of ovbench_ava,ovbench_coin,ovbench_hirest,ovbench_tao                  ovbench
#   OUTPUT_DIR     results, samples, report, result.json                       runs/eval/ovbench/llava-onevision-7B
#   LIMIT          only so many questions of each source                                                        all
#   NUM_PROCESSES, NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT: see shell/eval/common.sh
set -euo pipefail

# shellcheck source=shell/eval/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../../shell/eval/common.sh"

REQUIRES=torchvision
args=pretrained=${MODEL:-llava-hf/llava-onevision-qwen2-7b-ov-hf},max_frames_num=${FRAMES:-32}
lmms_online_bench llava-onevision-7B llava_hf "$args" --force_simple "$@"
