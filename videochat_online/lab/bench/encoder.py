"""`bench encoder`: ways to run the vision encoder on this machine, and how near it comes to the machine's own peak.

Verdicts are for the machine it runs on. A way that this machine cannot run is reported as such, with the reason.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ...model.vision_encoder import InternVisionModel
from ...model_config import VideoChatOnlineConfig, VisionConfig
from .measure import alternate, matmul_peak
from .paper import encoder_flops


def ways(encoder: InternVisionModel) -> dict[str, Callable[[], nn.Module]]:
    """Name -> makes the encoder that runs this way."""

    def compiled() -> nn.Module:
        return torch.compile(copy.deepcopy(encoder))  # type: ignore[return-value]

    def int8() -> nn.Module:
        with warnings.catch_warnings():  # torch moves this to the package torchao; it is only measured here
            warnings.simplefilter("ignore", DeprecationWarning)
            from torch.ao.quantization import quantize_dynamic

            return quantize_dynamic(copy.deepcopy(encoder), {nn.Linear}, dtype=torch.qint8)

    return {
        "float32": lambda: encoder,
        "float32, torch.compile": compiled,
        "bfloat16": lambda: copy.deepcopy(encoder).bfloat16(),
        "int8 weights (dynamic)": int8,
    }


@torch.no_grad()
def bench_encoder(config: VideoChatOnlineConfig, *, batch: int, repeats: int) -> list[dict[str, Any]]:
    """Milliseconds a frame of each way, its speed against float32, and how far its features are from float32's."""
    torch.manual_seed(0)
    vision: VisionConfig = config.vision_config
    encoder = InternVisionModel(vision).eval()
    pixels = torch.randn(batch, vision.num_channels, config.image_size, config.image_size)
    expected = encoder(pixels)
    flops, peak = encoder_flops(config) * batch, matmul_peak()
    rows: list[dict[str, Any]] = []
    for name, make in ways(encoder).items():
        row: dict[str, Any] = {"way": name, "batch": batch}
        try:
            model = make()
            shown = pixels.to(torch.bfloat16) if name == "bfloat16" else pixels
            difference = (model(shown).float() - expected).abs().max() / expected.abs().max()
        except Exception as error:  # a compiler or kernel this machine does not have: that is the result
            rows.append(
                {
                    **row,
                    "ms a frame": None,
                    "speed/float32": None,
                    "of matmul peak": None,
                    "largest difference": None,
                    "note": _first_line(error),
                }
            )
            continue
        seconds = alternate({"plain": lambda: encoder(pixels), "this": lambda: model(shown)}, repeats=repeats)  # noqa: B023
        rows.append(
            {
                **row,
                "ms a frame": seconds["this"] / batch * 1e3,
                "speed/float32": seconds["plain"] / seconds["this"],
                "of matmul peak": flops / seconds["this"] / peak,
                "largest difference": float(difference),
                "note": "",
            }
        )
    return rows


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:80]
