"""What an error says so that the reader can act: the package to install, the known name that is near a misspelled one,
the hub's reason on one line.

Plain Python; knows nothing of what the packages and the names are used for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any

EXTRA_OF = {
    "peft": "train", "deepspeed": "train", "tensorboard": "train", "matplotlib": "eval",
    "bitsandbytes": "quantize", "fastapi": "demo", "uvicorn": "demo", "websockets": "demo", "gradio": "demo",
    "prometheus_client": "demo", "decord": "decord",
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
    """Raise ImportError, with the command that installs it, for the first of these that is missing.

    bitsandbytes is kept from telling, when it (or peft) is imported, that it found no extra kernel for the CPU, and at
    each product of 8 bits how it computes: neither is for the user to mend.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if problem := lacks(*packages):
        raise ImportError(problem)


def did_you_mean(name: str, known: Iterable[str], *, show: Callable[[str], str] = str) -> str:
    """'; did you mean a or b?', or nothing where no known name is near. `show` writes a name; repr if it is a value."""
    near = get_close_matches(name, list(known), n=3)
    return f"; did you mean {' or '.join(map(show, near))}?" if near else ""


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
