"""--push-to-hub: the trained model and its card go to a repository of the Hugging Face hub, when a run has ended."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from .. import __version__
from ..data.settings import SettingError
from ..extras import hub_errors_named
from .configuration import TrainingConfig

LOCAL = ("output_dir", "data", "frame_cache", "model", "resume")
"""Settings that would tell others the folders of this machine."""
CARD = """# {name}

{kind}, trained from `{base}` with videochat-online {version}.

Data sets, each as often as its list repeats it: {sets}.
Steps: {steps}. Mean loss of the run: {loss:.4f}. Settings that differ from the defaults:

```json
{settings}
```
"""


def check_hub(config: TrainingConfig, *, create: bool = False) -> None:
    """Raise SettingError where the model could not be pushed: no token; with `create` the repository is made too."""
    from huggingface_hub import HfApi, get_token

    if config.push_to_hub and get_token() is None:
        raise SettingError(f"--push-to-hub {config.push_to_hub}: there is no token: set HF_TOKEN, or `hf auth login`")
    if config.push_to_hub and create:
        with _errors_named(config):
            HfApi().create_repo(config.push_to_hub, private=config.private, exist_ok=True)
            HfApi().auth_check(config.push_to_hub, write=True)  # the call above passes where it is there already


def push(
    folder: Path, config: TrainingConfig, sets: dict[str, dict[str, Any]], num_steps: int, mean_loss: float
) -> str:
    """Write the card of the model in `folder` and upload all of it; gives its address. Raises SettingError."""
    from huggingface_hub import HfApi, ModelCard, ModelCardData

    usual = TrainingConfig().to_dict()
    settings = {name: one for name, one in config.to_dict().items() if one != usual[name] and name not in LOCAL}
    is_on_hub = "/" in config.model and not Path(config.model).exists()
    base = config.model if is_on_hub else Path(config.model).name
    data = ModelCardData(
        base_model=base if is_on_hub else None, pipeline_tag="video-text-to-text", library_name="videochat-online"
    )
    text = CARD.format(
        name=config.push_to_hub.split("/")[1],
        base=base,
        version=__version__,
        kind="An adapter" if config.export == "adapter" else "A model",
        sets=", ".join(f"{name} (x {one['repeat_time']})" for name, one in sets.items()),
        steps=num_steps,
        loss=mean_loss,
        settings=json.dumps(settings, indent=1, ensure_ascii=False),
    )
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}").save(folder / "README.md")
    with _errors_named(config, f"; the model is in {folder}: `hf upload {config.push_to_hub} {folder}` tries again"):
        return str(HfApi().upload_folder(repo_id=config.push_to_hub, folder_path=folder).repo_url)


def _errors_named(config: TrainingConfig, more: str = "") -> AbstractContextManager[None]:
    return hub_errors_named(f"--push-to-hub {config.push_to_hub}: the hub refused", SettingError, more)
