"""The two commands and .ci/run, with a stand-in for Python that notes how it is called: no package is installed."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PYTHON_NAMES = ("python3", "python3.13", "python3.12", "python3.11", "python3.10", "python")

# Answers the scripts' questions; `pip install` fails once for each line of the file $FAILURES, and logs that line.
STAND_IN = r"""#!/usr/bin/env bash
case "$1 $2" in
  "-c ") ;;
  "-c "*) echo "${DESCRIBED:-3.11.7 ok}" ;;
  "-m venv") mkdir -p "$4/bin" && cp "$0" "$4/bin/python" && echo "venv" >>"$CALLS" ;;
  "-m pip")
    [ "$3" = --version ] && { [ ! -e "$0.without-pip" ]; exit; }
    echo "pip ${@:6}" >>"$CALLS"
    if [ -s "$FAILURES" ]; then
      head -n 1 "$FAILURES" >"$5" && sed -i.old 1d "$FAILURES"
      exit 1
    fi
    printf '#!/usr/bin/env bash\necho "videochat-online $*"\n' >"$(dirname "$0")/videochat-online"
    chmod +x "$(dirname "$0")/videochat-online" ;;
  *) echo "python $*" && exit "$(grep -c -w -- "$2" <<<"${FAILING:-}")" ;;
esac
"""


@dataclass
class Checkout:
    """A copy of the scripts and a PATH on which every Python is the stand-in."""

    root: Path
    bin: Path

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        settings = {name: value for name, value in os.environ.items() if name != "PYTHON"}
        settings |= {"PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}", "CALLS": str(self.bin / "calls")}
        settings |= {"FAILURES": str(self.bin / "failures"), **environment}
        command = ["bash", str(self.root / script), *arguments]
        return subprocess.run(
            command, cwd=self.bin, env=settings, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )

    def calls(self) -> list[str]:
        """What was asked of the stand-in since the last time: environments made, packages installed."""
        noted = self.bin / "calls"
        lines = noted.read_text().splitlines() if noted.exists() else []
        noted.unlink(missing_ok=True)
        return [line.replace(str(self.root), "ROOT") for line in lines]


CORE = ["venv", "pip -r ROOT/requirements.txt", "pip -e ROOT"]
DEV = ["venv", "pip -r ROOT/requirements.txt", "pip -e ROOT[dev]"]
PYTEST = "pytest -n auto --maxprocesses 4 --dist loadfile"
OFFLINE = "NewConnectionError('Failed to establish a new connection: [Errno 111] Connection refused')\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    root, programs = tmp_path / "a clone", tmp_path / "bin"
    for part in ("shell", ".ci"):
        shutil.copytree(ROOT / part, root / part)
    for part in ("requirements.txt", "setup.py"):
        shutil.copy(ROOT / part, root / part)
    programs.mkdir()
    for name, source in {**dict.fromkeys(PYTHON_NAMES, STAND_IN), "sleep": "#!/bin/sh\n"}.items():
        (programs / name).write_text(source)
        (programs / name).chmod(0o755)
    return Checkout(root, programs)


def test_quickstart_installs_once_and_asks_about_the_sample(checkout: Checkout):
    first = checkout.run("shell/quickstart.sh")
    assert (first.returncode, checkout.calls()) == (0, CORE)
    sample = f"{checkout.root}/videochat_online/pocket/sample.mp4"
    assert first.stdout.splitlines()[-1].startswith(f"videochat-online chat {sample} --fps 1 -q Where is")
    again = checkout.run("shell/quickstart.sh")
    assert (again.returncode, checkout.calls()) == (0, [])
    assert "up to date" in again.stdout and again.stdout.splitlines()[-1] == first.stdout.splitlines()[-1]
    assert (ROOT / "videochat_online/pocket/sample.mp4").is_file()


def test_arguments_are_passed_on(checkout: Checkout):
    chat = checkout.run("shell/quickstart.sh", "a video.mp4", "-q", "Who?")
    said, called = chat.stdout.splitlines()[-2:]
    assert called == "videochat-online chat a video.mp4 -q Who?"
    assert shlex.split(said) == ["==", "videochat-online", "chat", "a video.mp4", "-q", "Who?"]  # can be typed again
    tests = checkout.run("shell/test.sh", "tests/media", "-m", "slow")
    assert tests.stdout.splitlines()[-1] == f"python -m {PYTEST} tests/media -m slow"


def test_one_environment_serves_both_commands(checkout: Checkout):
    checkout.run("shell/quickstart.sh")
    checkout.calls()
    assert checkout.run("shell/test.sh").returncode == 0
    assert checkout.calls() == DEV[1:]
    assert checkout.run("shell/quickstart.sh").returncode == 0
    assert checkout.calls() == []


@pytest.mark.parametrize("name", ["requirements.txt", "setup.py"])
def test_changed_requirements_are_installed(checkout: Checkout, name: str):
    checkout.run("shell/test.sh")
    checkout.calls()
    with (checkout.root / name).open("a") as file:
        file.write("# changed\n")
    assert checkout.run("shell/test.sh").returncode == 0
    assert checkout.calls() == DEV[1:]


def test_a_moved_checkout_is_installed_again(checkout: Checkout, tmp_path: Path):
    checkout.run("shell/quickstart.sh")
    checkout.calls()
    moved = Checkout(checkout.root.rename(tmp_path / "moved"), checkout.bin)
    assert moved.run("shell/quickstart.sh").returncode == 0
    assert moved.calls() == CORE[1:]


def test_a_half_made_environment_is_made_anew(checkout: Checkout):
    checkout.run("shell/quickstart.sh")
    checkout.calls()
    (checkout.root / ".venv/.installed-core").unlink()
    (checkout.root / ".venv/bin/python.without-pip").touch()
    assert checkout.run("shell/quickstart.sh").returncode == 0
    assert checkout.calls() == CORE


def test_an_old_python_is_refused(checkout: Checkout):
    done = checkout.run("shell/quickstart.sh", DESCRIBED="3.8.18 old")
    assert (done.returncode, checkout.calls()) == (1, [])
    assert "Python 3.10 or newer is needed; found: python3=3.8.18" in done.stderr
    assert "PYTHON=/path/to/python3.12" in done.stderr


def test_a_real_python_is_described(checkout: Checkout):
    """The question put to an interpreter, asked of the one that runs this test."""
    source = f"source '{checkout.root}/shell/environment.sh'; describe_python \"$PYTHON\""
    real = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(["bash", "-c", source], env=real, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [".".join(map(str, sys.version_info[:3])), "ok"]


def test_a_missing_venv_module_is_named(checkout: Checkout):
    done = checkout.run("shell/test.sh", DESCRIBED="3.11.2 novenv")
    assert (done.returncode, checkout.calls()) == (1, [])
    assert "venv or ensurepip module is missing (python3=3.11.2" in done.stderr
    assert "python3-venv" in done.stderr


def test_a_named_python_must_run(checkout: Checkout):
    done = checkout.run("shell/quickstart.sh", PYTHON="/nowhere/python3")
    assert done.returncode == 1
    assert "none that runs (looked for /nowhere/python3)" in done.stderr


def test_the_network_gets_a_second_chance(checkout: Checkout):
    (checkout.bin / "failures").write_text(OFFLINE)
    done = checkout.run("shell/quickstart.sh")
    assert (done.returncode, checkout.calls()) == (0, [*CORE[:2], CORE[1], CORE[2]])
    assert "trying once more" in done.stdout


def test_no_network_is_said(checkout: Checkout):
    (checkout.bin / "failures").write_text(OFFLINE * 2)
    done = checkout.run("shell/quickstart.sh")
    assert (done.returncode, checkout.calls()) == (1, [*CORE[:2], CORE[1]])
    assert "no network: pip could not reach a package index" in done.stderr
    assert "PIP_INDEX_URL" in done.stderr
    assert checkout.run("shell/quickstart.sh").returncode == 0, "the next run goes on where this one stopped"
    assert checkout.calls() == CORE[1:]


def test_another_failure_is_not_tried_again(checkout: Checkout):
    (checkout.bin / "failures").write_text("ERROR: No space left on device\n")
    done = checkout.run("shell/quickstart.sh")
    assert (done.returncode, checkout.calls()) == (1, CORE[:2])
    assert "pip could not install the packages" in done.stderr and "no network" not in done.stderr


@pytest.mark.parametrize("failing", ["", "ruff", "mypy", "wheel", "lmms", "clients", "pytest", "ruff mypy"])
def test_ci_runs_all_six_and_fails_with_any(checkout: Checkout, failing: str):
    for name in ("wheel", "lmms", "clients"):
        stand_in = f'echo "python -m {name}"; exit "$(grep -c -w {name} <<<"${{FAILING:-}}")"\n'
        (checkout.root / "shell" / f"test_{name}.sh").write_text(stand_in)
    done = checkout.run(".ci/run", FAILING=failing, DEBIAN_PACKAGES="")
    ran = [line for line in done.stdout.splitlines() if line.startswith("python ")]
    kinds = ["ruff check .", "mypy", "wheel", "lmms", "clients", PYTEST]
    assert ran == [f"python -m {kind}" for kind in kinds]
    assert done.stdout.splitlines()[-1] == ran[-1]
    assert (done.returncode == 0) == (failing == "")


def test_the_wheel_has_two_ends(checkout: Checkout):
    done = checkout.run("shell/test_wheel.sh", "newst")
    assert (done.returncode, checkout.calls()) == (1, [])
    assert "there is no end 'newst': newest or oldest" in done.stderr
