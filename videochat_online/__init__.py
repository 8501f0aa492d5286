"""What is public. Every name is imported on first use, so that `import videochat_online` costs nothing.

The names and their meanings are the project's contract with other programs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import MemoryConfig as MemoryConfig
    from .config import MemoryLevel as MemoryLevel
    from .media.readers import open_video as open_video
    from .model.memory_bank import PyramidMemoryBank as PyramidMemoryBank
    from .model.videochat import VideoChatOnline as VideoChatOnline
    from .model_config import VideoChatOnlineConfig as VideoChatOnlineConfig
    from .processing import Processor as Processor
    from .processing import load_model as load_model
    from .streaming.session import StreamingSession as StreamingSession

__version__ = "0.2.0.dev0"

_HOME = {
    "MemoryConfig": "config",
    "MemoryLevel": "config",
    "Processor": "processing",
    "PyramidMemoryBank": "model.memory_bank",
    "StreamingSession": "streaming.session",
    "VideoChatOnline": "model.videochat",
    "VideoChatOnlineConfig": "model.videochat",  # beside the model: from then on AutoConfig and AutoModel know both
    "load_model": "processing",
    "open_video": "media.readers",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
