#!/usr/bin/env bash
# OVBench in one pass over each video: every frame is encoded once, each question is asked at its time, and no later
# frame is shown. Published settings: 8 frames a second, a memory of 2/2/12 frames.
#   OVBENCH_ROOT=/data/ovbench bash shell/eval/online_bench_stream.sh [--check] [flags]
# --check verifies environment, model, annotations and videos, prints the plan, and stops. Other flags: those of
# `videochat-online eval ovbench --help`, such as --memory 4/4/8, --policy fifo, --multi-turn.
# As the published script, which sees later frames too: --protocol published (docs/evaluate.md). Run again after an
# interruption, it resumes.
#
#   ANNOTATIONS    folder of the json files, in the flat or the streaming layout          $OVBENCH_ROOT/annotations
#   VIDEOS         folder of the videos, as the hub's archives unpack                          $OVBENCH_ROOT/videos
#   MODEL          pocket, a folder, or a hub id                                         MCG-NJU/VideoChatOnline-4B
#   OUTPUT_DIR     predictions and report                                       runs/eval/ovbench_streaming/<model>
#   SPLIT          only these sources: ava coin hirest tao                                                      all
#   LIMIT          only so many questions                                                                       all
#   DEVICE, DTYPE  cpu, cuda, ...; float32, bfloat16, ...                                                      auto
#   NUM_PROCESSES, NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT: see shell/eval/common.sh
set -euo pipefail

# shellcheck source=shell/eval/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

online_bench streaming "$@"
