# Makes the project's environment, .venv; sourced by the scripts beside it.
#
#   make_environment core   what requirements.txt names, and videochat-online itself (editable)
#   make_environment dev    the same and the extra of that name in setup.py
#
# Settings, all optional:
#   PYTHON                  the interpreter to build on (default: the first python3 that is 3.10 or newer)
#   PIP_INDEX_URL           pip's own: a package index to use instead of the default one
#   PIP_EXTRA_INDEX_URL     pip's own: one more index. On Linux the default torch carries CUDA (5 GB, not 1.5);
#                           name PyTorch's index of CPU wheels here where there is no NVIDIA GPU
# shellcheck shell=bash

project_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$project_root/.venv
python=$venv/bin/python

say() { printf '== %s\n' "$*"; }

fail() {
  printf 'error: %s\n' "$1" >&2
  shift
  [ $# -eq 0 ] || printf '       %s\n' "$@" >&2
  exit 1
}

# Where --help is among the arguments: prints the head of the script that was started, and ends.
help_if_asked() {
  local argument
  for argument in "$@"; do
    case $argument in
      -h | --help) sed -n -e '1d' -e '/^#/!q' -e 's/^# \{0,1\}//p' "$0" && exit ;;
    esac
  done
}

# Prints the version and what is wrong with an interpreter: "3.11.7 ok", "3.8.18 old", "3.11.2 novenv".
describe_python() {
  "$1" -c '
import sys
state = "ok" if sys.version_info >= (3, 10) else "old"
try:
    import ensurepip, venv
except ImportError:
    state = "novenv" if state == "ok" else state
print("%d.%d.%d %s" % (sys.version_info[0], sys.version_info[1], sys.version_info[2], state))
' 2>/dev/null
}

# Sets base_python to an interpreter that can build the environment, or says why there is none.
find_python() {
  local candidate described old="" novenv=""
  if [ -n "${PYTHON:-}" ]; then
    set -- "$PYTHON"
  else
    set -- python3 python3.13 python3.12 python3.11 python3.10 python
  fi
  for candidate in "$@"; do
    described=$(describe_python "$candidate") || continue
    case $described in
      *" ok") base_python=$candidate && say "Python ${described% *} ($candidate)" && return ;;
      *" novenv") novenv="$novenv $candidate=${described% *}" ;;
      *) old="$old $candidate=${described% *}" ;;
    esac
  done
  if [ -n "$novenv" ]; then
    fail "Python cannot make environments: its venv or ensurepip module is missing (${novenv# })." \
      "On Debian and Ubuntu: apt-get install python3-venv. Or name another interpreter: PYTHON=/path/to/python3 bash $0"
  fi
  fail "Python 3.10 or newer is needed; found:${old:- none that runs (looked for $*)}." \
    "Install one, or name it: PYTHON=/path/to/python3.12 bash $0"
}

# What the installed packages depend on; another value means that they have to be installed again.
fingerprint() {
  printf '%s\n' "$project_root"
  cat "$project_root/requirements.txt" "$project_root/setup.py"
}

# True where .venv holds the packages of this state of the project, with those of the extra $1.
is_installed() {
  local stamp=$venv/.installed-$1
  [ -f "$stamp" ] && "$python" -c '' 2>/dev/null && [ "$(cat "$stamp")" = "$(fingerprint | cksum)" ]
}

make_venv() {
  case $(describe_python "$python") in
    *" ok") "$python" -m pip --version >/dev/null 2>&1 && return ;; # no pip: its making was cut off
  esac
  find_python
  say "making the environment $venv"
  "$base_python" -m venv --clear "$venv" ||
    fail "$base_python -m venv --clear $venv did not work (see above)."
}

# pip install, once more where the network failed.
pip_install() {
  local log=$venv/install.log attempt
  for attempt in 1 2; do
    rm -f "$log"
    "$python" -m pip install --log "$log" "$@" && return
    is_network_trouble "$log" ||
      fail "pip could not install the packages (see above; all it said: $log)."
    [ "$attempt" = 2 ] || { say "the package index did not answer; trying once more in 5 seconds" && sleep 5; }
  done
  fail "no network: pip could not reach a package index (see above; all it said: $log)." \
    "Check the connection, or name an index that can be reached: PIP_INDEX_URL=https://... bash $0"
}

is_network_trouble() {
  grep -q -i -E 'connection (broken|refused|reset|aborted|to .* (failed|timed out))|ConnectionError|NewConnectionError|ConnectTimeout|ReadTimeout|timed out|name resolution|ProxyError|SSLError|IncompleteRead|network is unreachable' "$1"
}

# 1. Nothing to do where the stamp matches. 2. An interpreter and .venv. 3. Packages. 4. The stamps.
make_environment() {
  local stamp target=$project_root
  export OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0 # threads that wait must not take the cores of those that work
  if is_installed "$1"; then
    say "the environment $venv is up to date"
    return
  fi
  make_venv
  say "installing the packages of requirements.txt (the first time: minutes, 1.5 GB; with CUDA 5 GB)"
  pip_install -r "$project_root/requirements.txt"
  [ "$1" = core ] || target="${project_root}[$1]"
  say "installing videochat-online ($1)"
  DS_BUILD_OPS=0 pip_install -e "$target" # DeepSpeed compiles an operator when it is first used
  for stamp in core "$1"; do
    fingerprint | cksum >"$venv/.installed-$stamp"
  done
}
