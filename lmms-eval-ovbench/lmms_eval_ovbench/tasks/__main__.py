"""Prints the folder of the task files: `--include_path "$(python -m lmms_eval_ovbench.tasks)"`."""

from __future__ import annotations

from pathlib import Path

if __name__ == "__main__":
    print(Path(__file__).parent)
