"""Published annotations from the hub: words only, no media. What was fetched before is not fetched again."""

from __future__ import annotations

from pathlib import Path

from ..files import shipped

REPOSITORIES = {"videochatonline-it": "MCG-NJU/VideoChatOnline-IT"}
"""Name on the command line -> data set on the hub."""
PATTERNS = ("*.json", "*.jsonl", "*.md")
LIST, FOLDER = "anno_data/stage2_online.json", "anno_online"
"""The list that names these annotations, in this folder of $ANNO_ROOT."""


def fetch_annotations(name: str, folder: Path) -> None:
    """Download the annotations `name` to `folder`; a broken download is resumed.

    HF_ENDPOINT and HF_TOKEN are huggingface_hub's own. Raises ValueError where the hub does not give them.
    """
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repository = REPOSITORIES[name]
    try:
        snapshot_download(repository, repo_type="dataset", local_dir=folder, allow_patterns=list(PATTERNS))
    except (HfHubHTTPError, LocalEntryNotFoundError, httpx.HTTPError) as error:
        why = " ".join(str(error).split()).rstrip(".")  # the hub's own errors go over several lines
        raise ValueError(f"{repository} could not be fetched from the hub: {why}; try again to resume") from error


def annotations_below(folder: Path) -> dict[str, Path]:
    """Where stage 2's list looks for these annotations when $ANNO_ROOT is `folder`, by set."""
    from .registry import read_lists

    root = str(folder.absolute())
    named = read_lists([shipped(LIST)], {"ANNO_ROOT": root, "DATA_ROOT": root})
    return {one.name: one.annotation for one in named if FOLDER in one.annotation.parts}
