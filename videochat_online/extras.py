"""Packages that not everybody needs: what is missing is said before the work begins, with what installs it.

Plain Python; knows nothing of what the packages are used for.
"""

from __future__ import annotations

from importlib.util import find_spec

EXTRA_OF = {
    "peft": "train", "deepspeed": "train", "tensorboard": "train", "matplotlib": "eval",
    "fastapi": "demo", "uvicorn": "demo", "gradio": "demo", "decord": "decord",
}  # fmt: skip
"""Package -> the extra of setup.py that brings it; others are installed by their own name."""


def lacks(*packages: str) -> str | None:
    """What to install of these, or None where all of them are there."""
    for package in packages:
        if find_spec(package) is None:
            wanted = f"'videochat-online[{EXTRA_OF[package]}]'" if package in EXTRA_OF else package
            return f"the package {package} is missing: pip install {wanted}"
    return None


def require(*packages: str) -> None:
    """Raise ImportError, with the command that installs it, for the first of these that is missing."""
    if problem := lacks(*packages):
        raise ImportError(problem)
