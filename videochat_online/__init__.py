"""What is public. Every name is imported on first use, so that `import videochat_online` costs nothing.

The names and their meanings are the project's contract with other programs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import MemoryConfig, MemoryLevel
    from .media.readers import open_video
    from .model.memory_bank import PyramidMemoryBank
    from .model.videochat import VideoChatOnline
    from .model_config import VideoChatOnlineConfig
    from .processing import Processor, load_model
    from .streaming.session import StreamingSession

__version__ = "0.2.0.dev0"

__all__ = [
    "MemoryConfig",
    "MemoryLevel",
    "Processor",
    "PyramidMemoryBank",
    "StreamingSession",
    "VideoChatOnline",
    "VideoChatOnlineConfig",
    "load_model",
    "open_video",
]

_HOME = {
    "MemoryConfig": ".config",
    "MemoryLevel": ".config",
    "Processor": ".processing",
    "PyramidMemoryBank": ".model.memory_bank",
    "StreamingSession": ".streaming.session",
    "VideoChatOnline": ".model.videochat",
    "VideoChatOnlineConfig": ".model.videochat",  # beside the model: from then on AutoConfig and AutoModel know both
    "load_model": ".processing",
    "open_video": ".media.readers",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
