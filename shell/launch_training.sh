# Starts training, on one machine or as one node of many; sourced by the scripts in online_4b/ and pocket/.
#
#   use_python              takes the environment that is active, if it has what training needs, else makes .venv
#   launch_training FLAGS   runs `python -m videochat_online.training FLAGS` on all GPUs of this node through torchrun;
#                           with --check among the flags it only checks and plans, in this process
#
# Read from the environment (start the same script on every node, with its own NODE_RANK):
#   NUM_GPUS     processes on this node        NNODES       number of nodes
#   NODE_RANK    this node, from 0             MASTER_ADDR  name of node 0       MASTER_PORT  a free port there
# shellcheck shell=bash

# shellcheck source=shell/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

use_python() {
  export OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0 # threads that wait must not take the cores of those that work
  if [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && python -c 'import torch, transformers, peft' 2>/dev/null; then
    python=$(command -v python)
  else
    make_environment train
  fi
}

# Fails unless the variables named are set.
need() {
  local name
  for name in "$@"; do
    [ -n "${!name:-}" ] || fail "$name is not set: see bash $0 --help"
  done
}

launch_training() {
  local flag nodes=${NNODES:-1} gpus=${NUM_GPUS:-1}
  cd "$project_root"
  for flag in "$@"; do
    if [ "$flag" = --check ]; then
      exec "$python" -m videochat_online.training --num-processes "$((nodes * gpus))" "$@"
    fi
  done
  [ "$nodes" = 1 ] || need NODE_RANK MASTER_ADDR
  # Seconds from a SIGTERM until torchrun kills: its own 30 are too few for a step and a checkpoint of a large model.
  export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-1800}
  exec "$python" -m torch.distributed.run --nnodes "$nodes" --node-rank "${NODE_RANK:-0}" --nproc-per-node "$gpus" \
    --master-addr "${MASTER_ADDR:-127.0.0.1}" --master-port "${MASTER_PORT:-29500}" \
    -m videochat_online.training "$@"
}
