#!/usr/bin/env bash
# Tries the packages that people already have (OpenAI's, LangChain's, Pipecat, LiveKit, Live VLM WebUI), unchanged, against our
# server.
# They get an environment of their own, .venv-clients (1.1 GB, a minute the first time; the table itself takes another).
#   bash shell/test_clients.sh
set -euo pipefail

# shellcheck source=shell/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
help_if_asked "$@"

clients="openai==3.57.0 langchain-openai==1.7.4 pipecat-ai==1.14.0 livekit-agents==1.8.9 livekit-plugins-openai==1.8.9 live-vlm-webui==0.4.0 pillow==12.3.0"
cd "$project_root"
is_installed dev || make_environment demo

# The clients' environment, with the same way of trying again where the network fails
if [ "$(cat .venv-clients/.clients 2>/dev/null)" != "$clients" ]; then
  say "installing $clients"
  "$python" -m venv --clear .venv-clients
  # shellcheck disable=SC2086
  (venv=$project_root/.venv-clients python=$project_root/.venv-clients/bin/python && pip_install --quiet $clients)
  echo "$clients" >.venv-clients/.clients
fi

say "a server, and the clients"
log=$(mktemp)
"$venv/bin/videochat-online" serve --port 0 --token open 2>"$log" &
server=$!
trap 'kill $server 2>/dev/null; rm -f "$log"' EXIT
until grep -q "is ready" "$log"; do
  kill -0 $server 2>/dev/null || fail "the server did not start: $(cat "$log")"
  sleep 0.2
done
.venv-clients/bin/python tests/clients/try_clients.py "$(grep -o 'http://127[^ ]*' "$log" | head -1)" open
