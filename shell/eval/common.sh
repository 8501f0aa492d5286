# Starts evaluations; sourced by the scripts beside it and by those of lmms-eval-ovbench/scripts/eval_models.
#
#   online_bench MODE "$@"                  OVBench through `videochat-online eval ovbench`
#   offline_bench NAME TASKS "$@"           tasks of lmms-eval on our model
#   lmms_online_bench NAME MODEL ARGS "$@"  OVBench on any model of lmms-eval
#
# "$@" are the script's own arguments: --help, --check, or flags for the program that is started.
#
# Read from the environment by all of them:
#   NUM_PROCESSES  processes on this node, each with a GPU (1)      NNODES  number of nodes (1)
#   NODE_RANK      this node, from 0      MASTER_ADDR, MASTER_PORT  node 0, and a free port there
# shellcheck shell=bash

# shellcheck source=shell/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/../environment.sh"

PUBLISHED_MODEL=MCG-NJU/VideoChatOnline-4B

# Sets check and flags.
parse_arguments() {
  local argument
  help_if_asked "$@"
  check=false flags=()
  for argument in "$@"; do
    case $argument in
      --check) check=true ;;
      *) flags+=("$argument") ;;
    esac
  done
}

# Takes the environment that is active, if it has the modules $2..., else makes .venv by the function $1.
use_python() {
  local make=$1
  shift
  if [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && has_modules python "$@"; then
    python=python
    export OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0
  else
    "$make"
  fi
}

has_modules() {
  local look='import importlib.util, sys; sys.exit(not all(importlib.util.find_spec(name) for name in sys.argv[1:]))'
  "$1" -c "$look" "${@:2}" 2>/dev/null
}

make_eval() { make_environment eval; }

# lmms-eval comes without what it says it requires: its task files need less, and torchvision breaks our torch.
make_lmms_eval() {
  make_environment eval
  if ! has_modules "$python" lmms_eval lmms_eval_ovbench datasets; then
    say "installing lmms-eval and the plug-in"
    pip_install --no-deps -r "$project_root/lmms-eval-ovbench/requirements.txt"
    pip_install -e "$project_root/lmms-eval-ovbench"
  fi
}

# Sets launch to what starts a module: python, or torchrun.
set_launcher() {
  local processes=${NUM_PROCESSES:-1} nodes=${NNODES:-1}
  launch=("$python")
  if [ "$((processes * nodes))" -gt 1 ]; then
    launch+=(-m torch.distributed.run --nnodes "$nodes" --node-rank "${NODE_RANK:-0}" --nproc-per-node "$processes"
      --master-addr "${MASTER_ADDR:-127.0.0.1}" --master-port "${MASTER_PORT:-29501}")
  fi
  launch+=(-m)
}

# print_plan OUTPUT COMMAND
print_plan() {
  say "plan: $((${NUM_PROCESSES:-1} * ${NNODES:-1})) process(es), results in $1"
  printf '%q ' "${@:2}"
  echo
}

online_bench() {
  local mode=$1 model=${MODEL:-$PUBLISHED_MODEL} output command
  local annotations=${ANNOTATIONS:-${OVBENCH_ROOT:+$OVBENCH_ROOT/annotations}}
  local videos=${VIDEOS:-${OVBENCH_ROOT:+$OVBENCH_ROOT/videos}}
  parse_arguments "${@:2}"
  if [ -z "$annotations" ] || [ -z "$videos" ]; then
    fail "OVBENCH_ROOT, or ANNOTATIONS and VIDEOS, must be set: see bash $0 --help"
  fi
  output=${OUTPUT_DIR:-$project_root/runs/eval/ovbench_$mode/$(basename "$model")}
  use_python make_eval videochat_online torch matplotlib
  set_launcher
  command=(videochat_online.evaluation ovbench --mode "$mode" --model "$model"
    --annotations "$annotations" --videos "$videos" --output "$output" --resume)
  [ -z "${LIMIT:-}" ] || command+=(--limit "$LIMIT")
  # shellcheck disable=SC2206  # several sources with spaces between
  [ -z "${SPLIT:-}" ] || command+=(--split $SPLIT)
  [ -z "${DEVICE:-}" ] || command+=(--device "$DEVICE")
  [ -z "${DTYPE:-}" ] || command+=(--dtype "$DTYPE")
  command+=(${flags[@]+"${flags[@]}"})
  if [ "$check" = true ]; then
    check_online_bench "$model" "${command[@]}"
    print_plan "$output" "${launch[@]}" "${command[@]}"
    exit "$failed"
  fi
  exec "${launch[@]}" "${command[@]}"
}

# check_online_bench MODEL COMMAND: everything that can be looked at without loading weights; sets failed.
check_online_bench() {
  local about='import sys, torch, transformers as t
print(f"Python {sys.version.split()[0]}, torch {torch.__version__}, transformers {t.__version__}")
print(f"{torch.cuda.device_count()} CUDA devices")'
  failed=0
  say "environment"
  "$python" -c "$about" || failed=1
  say "model"
  "$python" -m videochat_online.cli info "$1" || failed=1
  say "annotations and videos"
  "$python" -m "${@:2}" --check || failed=1
}

offline_bench() {
  local mode=${MODE:-sliding_window} args=pretrained=${MODEL:-$PUBLISHED_MODEL},fps=${FPS:-4}
  case ${PROTOCOL:-causal}/$mode in
    causal/sliding_window) args+=,mode=$mode,frames=${FRAMES:-64} ;;
    causal/*) args+=,mode=$mode ;;
    published/*) # the plug-in knows its frames and its memory: lmms_eval_ovbench/published.py
      [ -z "${MODE:-}" ] || fail "PROTOCOL=published has a mode of its own: leave out MODE, got $mode"
      args+=,protocol=published${FRAMES:+,frames=$FRAMES} ;;
    *) fail "PROTOCOL must be published or causal, got $PROTOCOL" ;;
  esac
  args+=${MEMORY:+,memory=$MEMORY}${POLICY:+,policy=$POLICY}${DEVICE:+,device=$DEVICE}${DTYPE:+,dtype=$DTYPE}
  lmms_bench "$1" "$2" videochat_online "$args" "${@:3}"
}

lmms_online_bench() {
  help_if_asked "${@:4}"
  [ -n "${OVBENCH_ROOT:-}" ] || fail "OVBENCH_ROOT, with annotations/ and videos/ in it, must be set: see bash $0 --help"
  unset ANNOTATIONS VIDEOS
  lmms_bench "ovbench/$1" "${TASKS:-ovbench}" "${@:2}"
}

# lmms_bench NAME TASKS MODEL ARGS "$@": 1. environment 2. links to data that lie here 3. with --check only look
# 4. lmms-eval 5. did it leave results?
lmms_bench() {
  local name=$1 tasks=$2 model=$3 args=$4${MODEL_ARGS:+,$MODEL_ARGS} output started command
  parse_arguments "${@:5}"
  use_python make_lmms_eval videochat_online lmms_eval lmms_eval_ovbench datasets matplotlib
  set_launcher
  mkdir -p "${OUTPUT_DIR:-$project_root/runs/eval/$name}"
  output=$(cd "${OUTPUT_DIR:-$project_root/runs/eval/$name}" && pwd)
  link_local_data "$tasks" "$output/data"
  command=(lmms_eval --model "$model" --model_args "$args" --tasks "$tasks" --batch_size 1
    --include_path "$("$python" -m lmms_eval_ovbench.tasks)" --output_path "$output" --log_samples
    ${LIMIT:+--limit "$LIMIT"} ${flags[@]+"${flags[@]}"})
  if [ "$check" = true ]; then
    failed=0
    # shellcheck disable=SC2086  # several modules with spaces between
    "$python" -m lmms_eval_ovbench.check --tasks "$tasks" --model "$model" --model-args "$args" \
      ${REQUIRES:+--requires $REQUIRES} || failed=1
    print_plan "$output" "${launch[@]}" "${command[@]}"
    exit "$failed"
  fi
  started=$(date +%s)
  "${launch[@]}" "${command[@]}"
  if [ "${NODE_RANK:-0}" = 0 ]; then
    exec "$python" -m lmms_eval_ovbench.results "$output" --tasks "$tasks" --since "$started"
  fi
}

# Where ANNOTATIONS or VIDEOS name folders of this machine: links from where lmms-eval looks, and a change of folder.
link_local_data() {
  [ -n "${ANNOTATIONS:-}${VIDEOS:-}" ] || return 0
  mkdir -p "$2"
  "$python" -m lmms_eval_ovbench.local_data --tasks "$1" --run-in "$2" \
    ${ANNOTATIONS:+--annotations "$ANNOTATIONS"} ${VIDEOS:+--videos "$VIDEOS"} || exit 1
  cd "$2"
}
