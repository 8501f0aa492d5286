#!/usr/bin/env bash
# Stage 1 of VideoChat-Online 4B: fine-tuning on images and whole videos, from InternVL2-4B.
#   DATA_ROOT=/data ANNO_ROOT=/data/anno bash shell/online_4b/videochat_online_4b_stage1_ft.sh [--check] [flags]
# --check checks settings and data, prints steps, tokens and memory on each GPU, and stops. Other flags: those of
# `videochat-online train --help`; they go over what is set here. Run again after an interruption, it resumes.
#
#   DATA_ROOT, ANNO_ROOT  where media and annotations lie (see anno_data/stage1_offline.json)          needed
#   MODEL       start from this folder or hub id                                OpenGVLab/InternVL2-4B
#   OUTPUT_DIR  folder of the run; the trained model comes to $OUTPUT_DIR/model      runs/online_4b_stage1
#   BATCH_SIZE  samples of a step, over all GPUs; packed: in the mean                             1024
#   BATCHING    packed: several samples fill a sequence; grouped: one each, as published        packed
#   PER_DEVICE_BATCH_SIZE  sequences a GPU takes at once                                             1
#   NUM_GPUS, NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT  see shell/launch_training.sh           8, 1
#   STRATEGY    ddp, zero1, zero2, zero3 or fsdp                                                 zero1
#   DATA        data-set lists, several with spaces between                anno_data/stage1_offline.json
set -euo pipefail

# shellcheck source=shell/launch_training.sh
source "$(dirname "${BASH_SOURCE[0]}")/../launch_training.sh"

help_if_asked "$@"
need DATA_ROOT ANNO_ROOT
export DATA_ROOT ANNO_ROOT NUM_GPUS=${NUM_GPUS:-8}
read -r -a lists <<<"${DATA:-anno_data/stage1_offline.json}"

use_python
launch_training --preset stage1 \
  --model "${MODEL:-OpenGVLab/InternVL2-4B}" \
  --data "${lists[@]}" \
  --output-dir "${OUTPUT_DIR:-runs/online_4b_stage1}" \
  --global-batch-size "${BATCH_SIZE:-1024}" \
  --batch-size "${PER_DEVICE_BATCH_SIZE:-1}" \
  --batching "${BATCHING:-packed}" \
  --strategy "${STRATEGY:-zero1}" \
  --precision bf16 \
  --async-checkpoints \
  --resume auto \
  "$@"
