#!/usr/bin/env bash
# VideoChat-Online on OVBench through lmms-eval, in the published settings.
#   bash lmms-eval-ovbench/scripts/eval_models/eval_videochat-online-4B.sh [--check] [flags of lmms-eval]
# --check verifies environment, model, tasks, annotations and videos, prints the plan, and stops.
# The same answers and scores as shell/eval/online_bench_stream.sh and online_bench_sliding_window.sh.
#
#   OVBENCH_ROOT   folder with annotations/ and videos/                                                      needed
#   MODEL          hub id or folder                                                      MCG-NJU/VideoChatOnline-4B
#   MODE           streaming or sliding_window                                                            streaming
#   MEMORY         frames of each level                                                                      2/2/12
#   POLICY         what leaves a full memory                                                                pyramid
#   MODEL_ARGS     more of lmms-eval's --model_args, with commas between                                       none
#   TASKS          ovbench, or some of ovbench_ava,ovbench_coin,ovbench_hirest,ovbench_tao                  ovbench
#   OUTPUT_DIR     results, samples, report, result.json                      runs/eval/ovbench/videochat-online-4B
#   LIMIT          only so many questions of each source                                                        all
#   NUM_PROCESSES, NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT: see shell/eval/common.sh
set -euo pipefail

# shellcheck source=shell/eval/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../../shell/eval/common.sh"

args=pretrained=${MODEL:-$PUBLISHED_MODEL},mode=${MODE:-streaming}
lmms_online_bench videochat-online-4B videochat_online \
  "$args${MEMORY:+,memory=$MEMORY}${POLICY:+,policy=$POLICY}" "$@"
