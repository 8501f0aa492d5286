"""What a message of OpenAI's API holds: texts, and pictures and videos by data URI or by an address.

Everything a client may do wrong here is a RequestError that names the place in the request.
"""

from __future__ import annotations

import base64
import binascii
import io
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
from PIL import Image

from ..media.addresses import Address
from ..media.fetching import Sockets, fetch
from ..media.picture import MAX_PIXELS, begin_image, upright_rgb
from ..media.readers import open_video
from ..media.sampling import sample_pass
from ..prompt.messages import check_text
from .limits import Limits, NotAllowed, RequestError, TooLarge, checked_place
from .live_session import Picture

TEXTS = ("text", "input_text", "output_text")
VIDEO_FPS = 1.0
MOST_FRAMES = 64
"""Of one video in a message; a longer one is shown in fewer frames a second."""
SILENCE_SECONDS, FETCH_SECONDS = 10.0, 30.0
CHUNK = 2**16
MOST_PIXELS = MOST_FRAMES * 3840 * 2160
"""Of all pictures that one message, or one that waits, holds: compressed they may be very small."""
CHARACTERS_A_TOKEN = 8
"""More than any text has on average: what is longer cannot fit a prompt."""


Content = list["str | Picture"]


@dataclass(frozen=True)
class Attachment:
    """A picture or a video of a message as it came: not decoded, nor fetched."""

    address: str
    """A data URI, or http(s)."""
    name: str
    """image_url or video_url."""
    where: str


class RequestReader:
    """Reads the content of one request, within limits. `folder`: for a video while it is read."""

    def __init__(self, limits: Limits, folder: Path) -> None:
        self.limits, self.folder = limits, folder
        self.num_pixels, self.came = 0, time.monotonic()

    def content(self, value: str | list[dict[str, Any]] | None, where: str) -> Content:
        """Texts and pictures in order."""
        parts = self.parts(value, where)
        return [piece for part in parts for piece in (self.pictures(part) if isinstance(part, Attachment) else [part])]

    def parts(self, value: str | list[dict[str, Any]] | None, where: str) -> list[str | Attachment]:
        """Texts, and what is to be decoded."""
        if value is None:
            return []
        if isinstance(value, str):
            return [self._text(value, where)]
        return [self._part(part, f"{where}[{number}]") for number, part in enumerate(value)]

    def _part(self, part: dict[str, Any], where: str) -> str | Attachment:
        kind = part.get("type")
        if kind in TEXTS:
            return self._text(part.get("text"), where)
        name = {"input_image": "image_url"}.get(str(kind), str(kind))
        if name not in ("image_url", "video_url"):
            raise RequestError(f"{where}: a part is text, image_url or video_url, got {kind!r:.40}", where)
        value = part.get(name)
        address = value.get("url") if isinstance(value, dict) else value
        if not isinstance(address, str):
            raise RequestError(f"{where}: {name} must be an address or a data URI", f"{where}.{name}")
        return Attachment(address, name, f"{where}.{name}")

    def looked_at(self, value: list[dict[str, Any]], where: str) -> list[str | Attachment]:
        """As `parts`; raises what is found wrong by addresses and first bytes, before anything large is computed."""
        parts = self.parts(value, where)
        for sent in (part for part in parts if isinstance(part, Attachment)):
            with self._named(sent.where):
                if not _is_data(sent.address):
                    self._place(sent.address)
                elif sent.name == "image_url":
                    sent_image(self._bytes(sent), "the picture").close()
        return parts

    def pictures(self, sent: Attachment) -> list[Picture]:
        """The picture, or the frames of the video."""
        with self._named(sent.where):
            data = self._bytes(sent)
            if sent.name == "image_url":
                return [self._counted(Picture(picture_of(data, "the picture"), came=self.came))]
            return self._frames(data)

    def _counted(self, picture: Picture) -> Picture:
        """A picture; TooLarge where it is one too many."""
        self.num_pixels += picture.num_pixels
        if self.num_pixels > MOST_PIXELS:
            raise TooLarge(f"the pictures of a request may have {MOST_PIXELS:,} pixels together")
        return picture

    def _text(self, text: Any, where: str) -> str:
        if not isinstance(text, str):
            raise RequestError(f"{where}: the text must be a string", where)
        with self._named(where):
            check_text(text, "the text")
        most = CHARACTERS_A_TOKEN * self.limits.max_prompt_tokens
        if len(text) > most:  # before it is tokenised
            raise RequestError(f"{where}: a text may have {most} characters, got {len(text)}", where)
        return text

    @contextmanager
    def _named(self, where: str) -> Iterator[None]:
        """What is wrong with a picture, by its place in the request."""
        try:
            yield
        except (RequestError, NotAllowed, TooLarge):
            raise
        except (ValueError, OSError) as error:
            raise RequestError(f"{where}: {error}", where) from error

    def _bytes(self, sent: Attachment) -> bytes:
        address = sent.address
        most = self.limits.max_image_bytes if sent.name == "image_url" else self.limits.max_upload_bytes
        if not _is_data(address):
            return self._fetched(address, most)
        head, comma, body = address.partition(",")
        if not comma:
            raise ValueError("a data URI has its data behind a comma")
        if len(body) > 4 * most:  # before it is decoded
            raise TooLarge(f"more than {most:,} bytes were sent, which is all this server takes")
        try:
            is_coded = head.lower().endswith(";base64")
            data = base64.b64decode("".join(body.split()), validate=True) if is_coded else unquote_to_bytes(body)
        except (binascii.Error, ValueError) as error:
            raise ValueError("the data URI is not base64") from error
        if len(data) > most:
            raise TooLarge(f"more than {most:,} bytes were sent, which is all this server takes")
        return data

    def _place(self, address: str) -> tuple[Address, str]:
        """An http(s) address that the operator allows, and the IP address of its host."""
        place = checked_place(address, self.limits)
        found = Address.checked(address)
        if found.scheme not in ("http", "https"):
            raise ValueError("expected a data URI, or an http or https address")
        return found, place

    def _fetched(self, address: str, most: int) -> bytes:
        """The bytes behind an http(s) address that the operator allows."""
        found, place = self._place(address)
        pinned = None if self.limits.allow_private_urls else place
        until, data, sockets = time.monotonic() + FETCH_SECONDS, b"", Sockets()
        with ExitStack() as stack:
            stack.callback(sockets.close)
            body = fetch(found, sockets, place=pinned, seconds=SILENCE_SECONDS)
            stack.callback(body.close)
            while piece := body.read(CHUNK):
                data += piece
                if len(data) > most:
                    raise TooLarge(f"the address gives more than {most:,} bytes, which is all this server takes")
                if time.monotonic() > until:
                    raise ValueError(f"the address took longer than {FETCH_SECONDS:g} s")
        return data

    def _frames(self, data: bytes) -> list[Picture]:
        """Frames of a video file, each with its second."""
        path = self.folder / f"request-{secrets.token_hex(8)}.video"
        try:
            path.write_bytes(data)
            with open_video(path) as reader:
                most = self.limits.max_video_seconds
                if reader.duration > most:
                    raise ValueError(f"the video lasts {reader.duration:.0f} s, expected at most {most:.0f} s")
                fps = min(VIDEO_FPS, MOST_FRAMES / max(reader.duration, 1e-3))
                first, last = float(reader.timestamps[0]), float(reader.timestamps[-1])
                chosen = sample_pass(reader.timestamps, fps, first, last, video_fps=reader.fps)[:MOST_FRAMES]
                frames = reader.read(chosen)
                return [self._counted(Picture(frame.image, float(frame.timestamp), self.came)) for frame in frames]
        except ValueError as error:
            raise ValueError(str(error).replace(str(path), "the video")) from error
        finally:
            path.unlink(missing_ok=True)


def _is_data(address: str) -> bool:
    return address[:5].lower() == "data:"


def sent_image(data: bytes, name: str) -> Image.Image:
    """An image whose pixels are not read yet. MediaError where it is none, TooLarge for one of too many pixels."""
    image = begin_image(io.BytesIO(data), name)
    if image.width * image.height > MAX_PIXELS:
        raise TooLarge(f"a picture of {image.width}x{image.height} is too large, at most {MAX_PIXELS:,} pixels")
    return image


def picture_of(data: bytes, name: str) -> np.ndarray:
    """uint8 (H, W, 3), upright. Errors as `sent_image`, and MediaError where it is damaged."""
    with sent_image(data, name) as image:
        return np.asarray(upright_rgb(image, name))
