"""What a model must offer to watch a stream: the one interface between networks and everything above.

Our own network (videochat.py) is its first implementation; the families of transformers' own models are in backbones/.
T pictures, C channels of a map, (h, w) its grid, N positions of a prompt, D the language model's width. E is the width
of an embedding as it travels: D, or more where a family puts features into later layers, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import nn
from transformers import Cache, PreTrainedConfig

from ..config import AnswerMode, MemoryConfig


class Facts(Protocol):
    """What is known of a model from its files alone, before any weight is read."""

    @property
    def llm_config(self) -> PreTrainedConfig:
        """Of the language model."""

    @property
    def vision_config(self) -> PreTrainedConfig:
        """Of the encoder."""

    @property
    def grid(self) -> int:
        """Side of a frame's map."""

    @property
    def feature_size(self) -> int:
        """Channels of a frame's map, C."""

    @property
    def image_size(self) -> int:
        """Side of a picture in pixels."""

    @property
    def picture(self) -> dict[str, Any]:
        """How a frame becomes pixels: the arguments of `FrameTransform`."""

    @property
    def memory_config(self) -> MemoryConfig: ...

    @property
    def template(self) -> str:
        """Name of the prompt template."""

    @property
    def system_message(self) -> str | None:
        """Instead of the template's own."""

    @property
    def img_context_token_id(self) -> int | None:
        """Id of the mark that stands for one visual token."""

    @property
    def answer_mode(self) -> AnswerMode | None: ...

    @property
    def note(self) -> str | None:
        """What a user of this model must know."""


class Backbone(Protocol):
    """A network without the state of any stream; many sessions and threads share one."""

    @property
    def config(self) -> Facts: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def max_positions(self) -> int:
        """Tokens of a prompt with its answer at most."""

    @property
    def vision_model(self) -> nn.Module:
        """The encoder."""

    @property
    def parts(self) -> dict[str, nn.Module]:
        """All of the network: encoder, connector and language model by name."""

    def encode_frames(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Pixels (T, 3, H, W) -> maps (T, C, h, w) as the memory pools them."""

    def project(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Maps (C, h, w) of any grids -> (num_tokens, E): map after map, row by row."""

    def embed(self, input_ids: torch.Tensor, image_tokens: torch.Tensor | None = None) -> torch.Tensor:
        """Ids (1, N) -> (1, N, E), `image_tokens` (num_tokens, E) at the places of pictures."""

    def positions(
        self, num: int, spans: Sequence[tuple[int, int]], grids: Sequence[tuple[int, int]]
    ) -> torch.Tensor | None:
        """Position ids (..., 1, num) of a prompt whose pictures stand at `spans` (start, num_tokens), `grids` (h, w).

        None: 0, 1, 2, ..., whatever stands there. Text behind position p goes on at p + 1 in every row.
        """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Logits of `inputs_embeds` (1, N, E) at `position_ids`, behind what `cache` holds. Arguments as in
        transformers: attention_mask, use_cache, logits_to_keep."""

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """New ids (B, new) behind `inputs_embeds` (1, N, E), the whole prompt, of which `cache` may hold the start.
        `position_ids` are what `positions` gave; other arguments are those of transformers' generate."""

    def new_cache(self) -> Cache:
        """An empty cache of keys and values."""

    def may_cut(self, *, inside_picture: bool) -> bool:
        """Whether the cache may end at a place, inside a picture or not; where not, it ends at the nearest that may."""


def map_rows(features: Sequence[torch.Tensor] | torch.Tensor) -> list[torch.Tensor]:
    """Maps (C, h, w) -> rows (h * w, C) of each."""
    return [frame.flatten(1).transpose(0, 1) for frame in features]


def put_image_tokens(
    embeds: torch.Tensor, input_ids: torch.Tensor, image_id: int | None, image_tokens: torch.Tensor | None
) -> torch.Tensor:
    """`embeds` (B, N, E) of `input_ids` (B, N) with `image_tokens` (num_tokens, E) in order where `image_id` stands.

    Raises ValueError with both numbers where tokens and positions differ.
    """
    if image_id is None and image_tokens is not None:
        raise ValueError("config.img_context_token_id is not set: take the id of <IMG_CONTEXT> from the tokenizer")
    places = input_ids == (-1 if image_id is None else image_id)  # no id is below 0
    num_places, num_tokens = int(places.sum()), 0 if image_tokens is None else len(image_tokens)
    if num_places != num_tokens:
        raise ValueError(
            f"{num_tokens} image tokens for {num_places} <IMG_CONTEXT> positions (id {image_id}): inserting them "
            "anyway would shift every picture. The prompt must hold one position for each token of each picture"
        )
    if image_tokens is None:
        return embeds
    return embeds.masked_scatter(places[..., None], image_tokens.to(embeds.device, embeds.dtype))
