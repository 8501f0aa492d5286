"""The API does what its OpenAPI description says: thousands of generated requests, none of which may break it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from videochat_online.serve.client import Client

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
CHECKS += "response_headers_conformance,missing_required_header,unsupported_method"


@pytest.mark.slow
@pytest.mark.parametrize("token", [None, "open-sesame"])
def test_generated_requests(token, serve, picture, tmp_path: Path):
    if find_spec("schemathesis") is None:
        pytest.skip("needs schemathesis: pip install schemathesis")
    server = serve(token=token, max_sessions=4000, max_new_tokens=4)
    session = server.sessions.create()
    session.see(picture(1), 0.0)
    settings = [f'[parameters]\n"path.session" = "{session.key}"\n']
    if token:
        settings.append(f'[auth.openapi.HTTPBearer]\nbearer = "{token}"\n')
    (tmp_path / "schemathesis.toml").write_text("\n".join(settings))
    checks = CHECKS + (",ignored_auth" if token else "")
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(tmp_path / "schemathesis.toml"), "run"]
    command += [f"{server.address}/openapi.json", "--checks", checks, "--exclude-method", "DELETE"]
    command += ["--exclude-path-regex", "/events$"]  # which ends with the session
    command += ["--max-examples", "15", "--generation-deterministic", "--request-timeout", "20"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "Tested: 20" in done.stdout


def test_every_path_is_described(serve):
    with Client(serve().address).open("GET", "/openapi.json") as response:
        description = json.load(response)
    operations = [(path, name) for path, methods in description["paths"].items() for name in methods]
    probes = [("/health", "get"), ("/ready", "get"), ("/metrics", "get")]
    assert set(probes) < set(operations) and len(operations) == 20 + 3
    for path, name in operations:
        assert path.startswith(("/v1/", "/s/{name}/v1/")) or (path, name) in probes
        operation = description["paths"][path][name]
        given = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"}
        assert given == set(re.findall(r"{(\w+)}", path))
        assert (operation.get("description") or "").strip(), f"{name} {path} says nothing about itself"
        if path in ("/health", "/ready"):  # of these alone no token is asked
            assert "security" not in operation and "401" not in operation["responses"]
            continue
        errors = {"400", "401", "403", "404", "408", "413", "429", "503"}
        assert errors <= set(operation["responses"]) and "422" not in operation["responses"]
        shapes = {json.dumps(operation["responses"][status]["content"]) for status in errors}
        assert len(shapes) == 1 and "ErrorDocument" in shapes.pop()
