"""What all clients are asked for, and the server that is asked: try_clients.py is given it."""

from __future__ import annotations

import base64
import io
import sys

from PIL import Image

ADDRESS, TOKEN = sys.argv[1].rstrip("/"), sys.argv[2]
SOCKET = ADDRESS.replace("http", "ws", 1)
MODEL = "pocket"
CHECKS = ("connect", "frames", "question", "streamed", "second", "cancel", "reconnect", "token")
SECONDS = 90
Results = dict[str, str]


def jpeg(color: str) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (160, 120), color).save(data, "JPEG")
    return data.getvalue()


def data_uri(color: str) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg(color)).decode()}"
