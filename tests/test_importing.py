"""Importing a module of the package does nothing: no thread, no file, no seed, no environment variable."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from tests.test_architecture import PACKAGE, ROOT, imported_modules, project_files, write_module

WATCHED_IMPORT = """
import contextlib, importlib, json, os, random, signal, sys, threading
import numpy, torch
modules, libraries = json.loads(sys.argv[1])
for name in libraries:  # what they do when they are imported is not ours to answer for
    module, _, attribute = name.rpartition(".")
    with contextlib.suppress(ImportError, AttributeError):
        getattr(importlib.import_module(module or attribute), attribute)
events = []
def watch(event, args):
    if event == "open":
        path, mode, flags = args
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and ".pyc" not in str(path):
            events.append(f"writes {path}")
    elif event in {"socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.fork"}:
        events.append(f"{event} {args!r}"[:200])
def state():
    return {
        "threads": threading.active_count(),
        "environment": sorted(os.environ.items()),
        "signals": [str(signal.getsignal(s)) for s in (signal.SIGINT, signal.SIGTERM)],
        "path": list(sys.path),
        "torch seed": torch.initial_seed(),
        "torch random state": hash(torch.get_rng_state().numpy().tobytes()),
        "random state": hash(random.getstate()),
        "numpy random state": hash(numpy.random.get_state()[1].tobytes()),
        "torch threads": torch.get_num_threads(),
        "torch dtype": str(torch.get_default_dtype()),
        "gradients": torch.is_grad_enabled(),
    }
def start(thread):
    events.append(f"starts a thread: {thread}")
    start_thread(thread)
start_thread, threading.Thread.start = threading.Thread.start, start
sys.addaudithook(watch)
before = state()
for name in modules:
    importlib.import_module(name)
    after = state()
    events += [f"{name} changed the {key}" for key in before if before[key] != after[key]]
    before = after
print(json.dumps(events))
"""


def effects_of_importing(root: Path) -> list[str]:
    """What importing the package's modules did besides defining names: files, threads, processes, global state."""
    paths = [path for path in project_files(root) if path.parts[0] == PACKAGE and path.stem != "__main__"]
    paths = [path for path in paths if all(map(is_there, top_level_imports(root, path)))]  # the server's are an extra
    modules = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths]
    libraries = sorted({name for path in paths for name in top_level_imports(root, path)})
    command = [sys.executable, "-c", WATCHED_IMPORT, json.dumps([modules, libraries])]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def is_there(name: str) -> bool:
    return find_spec(name.split(".")[0]) is not None


def top_level_imports(root: Path, path: Path) -> set[str]:
    """Other people's modules and names that a file imports as soon as it is imported itself."""
    tree = ast.parse((root / path).read_text("utf-8"))
    tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    return {name for _, name in imported_modules(path, tree) if name.split(".")[0] != PACKAGE}


def test_importing_acts_on_nothing():
    assert effects_of_importing(ROOT) == []


ACTING = {
    "thread": ("import threading\nthreading.Thread(target=int).start()", "starts a thread"),
    "environment": ("import os\nos.environ['A_SETTING'] = '1'", "changed the environment"),
    "seed": ("import torch\ntorch.manual_seed(7)", "changed the torch seed"),
    "file": ("open('left_behind.txt', 'w').close()", "writes left_behind.txt"),
    "process": ("import subprocess\nsubprocess.run(['true'])", "subprocess.Popen"),
}


def test_acting_modules_are_found(tmp_path: Path):
    write_module(tmp_path, "__init__.py", "")
    for name, (source, _) in ACTING.items():
        write_module(tmp_path, f"{name}.py", source)
    found = "\n".join(effects_of_importing(tmp_path))
    assert [name for name, (_, message) in ACTING.items() if message not in found] == []
