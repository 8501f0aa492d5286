"""What the Hugging Face hub's errors say, on one line: the one place where they are worded.

HF_ENDPOINT, HF_TOKEN and `hf auth login` are huggingface_hub's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def hub_errors_named(what: str, error_type: type[ValueError] = ValueError, more: str = "") -> Iterator[None]:
    """Raise `error_type`, "`what`: why`more`", for what the hub refuses and where it cannot be reached."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    unreachable: Any = HfHubHTTPError.__mro__[1]  # HTTPError of the client in use: httpx, or httpx2 in newer releases
    try:
        yield
    except (KeyError, TypeError) as error:  # of an answer that is not the hub's, as a proxy may give
        raise error_type(f"{what}: the hub answered without {error}{more}") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, unreachable, RuntimeError, OSError) as error:
        why = " ".join(str(error).split()).rstrip(".")  # the hub's own errors go over several lines
        raise error_type(f"{what}: {why}{more}") from error
