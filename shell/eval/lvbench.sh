#!/usr/bin/env bash
# LVBench (questions about videos of an hour or more) on our model, through lmms-eval and its plug-in.
#   MODEL=pocket bash shell/eval/lvbench.sh [--check] [flags of lmms-eval]
# --check verifies environment, model, tasks, annotations and videos, prints the plan, and stops.
#
#   MODEL          pocket, a folder, or a hub id                                         MCG-NJU/VideoChatOnline-4B
#   TASKS          tasks of lmms-eval, with commas between                                                  lvbench
#   ANNOTATIONS    a folder with a copy of lmms-eval/LVBench                                           from the hub
#   VIDEOS         a folder with what its archives hold                                            $HF_HOME/lvbench
#   MODE           sliding_window: frames of the whole video; streaming: one pass                    sliding_window
#   PROTOCOL       published: frames and memory as in the published scripts                                  causal
#   FPS            frames shown per second of video                                                               4
#   FRAMES         sliding_window: so many at most, spread evenly                                                64
#   MEMORY         frames of each level, such as 2/2/12                  sliding_window keeps all, streaming 2/2/12
#   POLICY         what leaves a full memory                                                                pyramid
#   OUTPUT_DIR     results and samples                                                            runs/eval/lvbench
#   LIMIT          only so many questions of each task                                                          all
#   DEVICE, DTYPE  cpu, cuda, ...; float32, bfloat16, ...                                                      auto
#   NUM_PROCESSES, NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT: see shell/eval/common.sh
set -euo pipefail

# shellcheck source=shell/eval/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

offline_bench lvbench "${TASKS:-lvbench}" "$@"
