"""What a model must offer to watch a stream: the one interface between networks and everything above.

Our own network (videochat.py) is its first implementation; the families of transformers' own models are in backbones/.
T pictures, C channels of a map, (h, w) its grid, N positions of a prompt, D the language model's width. E is the width
of an embedding as it travels: D, or more where a family puts features into later layers, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import nn
from transformers import Cache, DynamicCache, PreTrainedConfig

from ..config import AnswerMode, MemoryConfig, SmallFrames
from ..model_config import VideoChatOnlineConfig
from .memory_bank import average_pool

UNTRAINED_POOLING = (
    "{0} was trained on whole frames ({1} tokens); the averaged frames of coarser levels are new to it, and no "
    "accuracy was measured with them (--recent N of `eval` shows the last N frames whole)"
)

UNMEASURED_SCALES = (
    "{0} was trained on pictures of many sizes; the frames of coarser levels are shown to it as smaller pictures "
    "(--small-frames pooled: as averaged maps, which are new to it), and no accuracy was measured with them"
)

TRAINED_HERE = "videochat_online_frames"
"""In config.json of a model of another family that was trained here: on square pictures, coarser levels averaged."""


@dataclass(frozen=True)
class HeldFacts:
    """What is known of another family's model from its files alone; names and meanings as in our own config."""

    own: PreTrainedConfig
    """transformers' config of the whole model."""
    template: str
    grid: int
    feature_size: int
    picture: dict[str, Any]
    system_message: str | None = None
    answer_mode: AnswerMode | None = None
    any_shape: bool = False
    """Whether the encoder takes pictures of any shape and size; `grid` is then the map of a square one."""
    small_frames: SmallFrames = "pooled"
    """How frames of coarser levels are made unless a memory says so itself: as the family was trained, where it was."""
    # A still image is one picture, as the families' own processors have it unless they are told otherwise.
    dynamic_image_size: ClassVar[bool] = False
    use_thumbnail: ClassVar[bool] = False
    min_dynamic_patch: ClassVar[int] = 1
    max_dynamic_patch: ClassVar[int] = 1

    @property
    def model_type(self) -> str:
        return str(self.own.model_type)

    @property
    def llm_config(self) -> PreTrainedConfig:
        return self.own.get_text_config()

    @property
    def vision_config(self) -> PreTrainedConfig:
        return self.own.vision_config

    @property
    def image_size(self) -> int:
        return int(self.picture["size"])

    @property
    def img_context_token_id(self) -> int:
        return int(self.own.image_token_id)

    @property
    def memory_config(self) -> MemoryConfig:
        """The published proportions on this encoder's grid."""
        return MemoryConfig.pyramid().for_encoder(self.grid)

    @property
    def note(self) -> str:
        if hasattr(self.own, TRAINED_HERE):
            return ""
        text = UNMEASURED_SCALES if self.small_frames == "encoded" else UNTRAINED_POOLING
        return text.format(self.model_type, self.grid**2)


Facts = VideoChatOnlineConfig | HeldFacts


def memory_on(facts: Facts, memory: MemoryConfig | None = None) -> MemoryConfig:
    """The memory asked for, or the model's own, on the model's grids and with its way to make small frames.

    Raises ValueError where it does not fit the encoder.
    """
    memory = (memory or facts.memory_config).for_encoder(facts.grid)
    if facts.any_shape:
        return replace(memory, small_frames=memory.small_frames or facts.small_frames)
    check_small_frames(facts, memory.small_frames)
    return replace(memory, small_frames=None)  # there is but one way


def check_small_frames(facts: Facts, way: SmallFrames | None) -> None:
    """Raise ValueError where the model cannot make small frames in this way."""
    if way == "encoded" and not facts.any_shape:
        raise ValueError(
            f"small frames cannot be encoded by this {facts.model_type} model: its encoder takes pictures of one size "
            f"({facts.image_size}x{facts.image_size} px), expected pooled"
        )


@dataclass(frozen=True)
class Roles:
    """What training must know of a network: the names of its modules by what they do."""

    vision: str
    """The encoder."""
    vision_layers: str
    """Its list of layers."""
    num_running: int
    """How many of them run, from the first on."""
    connector: tuple[str, ...]
    """May stand inside the encoder."""
    language: tuple[str, ...]
    """The language model; its last layer, too, where that stands beside it."""
    layers: str
    """The language model's list of layers."""
    idle: tuple[str, ...] = ()
    """Modules of the encoder that no picture goes through."""


class PlainPositions:
    """Of a network that counts positions one by one and whose cache may end anywhere."""

    keeps_keys = True

    @staticmethod
    def positions(num: int, spans: Sequence[tuple[int, int]], grids: Sequence[tuple[int, int]]) -> torch.Tensor | None:
        """None: 0, 1, 2, ..., whatever stands there."""
        return None

    def new_cache(self) -> Cache:
        """An empty cache. Plain: one made from a config cannot be cut back past a sliding window."""
        return DynamicCache()

    def may_cut(self, *, inside_picture: bool) -> bool:
        """Always: no position depends on one behind it."""
        return True


class Backbone(Protocol):
    """A network without the state of any stream; many sessions and threads share one."""

    @property
    def config(self) -> Facts: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    keeps_keys: bool
    """Whether a prompt's keys and values are kept here for the next one: not where the language model is elsewhere."""

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

    def embed_words(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Ids (B, N) of words that the model has said -> (B, N, D); the mark of a picture is one, too."""

    def positions(
        self, num: int, spans: Sequence[tuple[int, int]], grids: Sequence[tuple[int, int]]
    ) -> torch.Tensor | None:
        """Position ids (..., 1, num) of a prompt whose pictures stand at `spans` (start, num_tokens), `grids` (h, w).

        None: 0, 1, 2, ..., whatever stands there. Text behind position p goes on at p + 1 in every row.
        """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Logits of `inputs_embeds` (B, N, E) at `position_ids`, behind what `cache` holds. Arguments as in
        transformers: attention_mask, use_cache, logits_to_keep, output_hidden_states."""

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """New ids (B, new) behind `inputs_embeds` (1, N, E), the whole prompt, of which `cache` may hold the start.
        `position_ids` are what `positions` gave; other arguments are those of transformers' generate."""

    def new_cache(self) -> Cache:
        """An empty cache of keys and values."""

    def may_cut(self, *, inside_picture: bool) -> bool:
        """Whether the cache may end at a place, inside a picture or not; where not, it ends at the nearest that may."""


def encode_images(model: Any, pixel_values: torch.Tensor, image_grids: torch.Tensor | None = None) -> torch.Tensor:
    """(T, 3, H, W) -> (num_tokens, E); picture i average-pooled to image_grids[i] squared, None: not pooled.

    `model` is a `Backbone`. Raises ValueError where there is not one grid for each picture.
    """
    if image_grids is not None and len(image_grids) != len(pixel_values):
        raise ValueError(f"{len(pixel_values)} pictures came with {len(image_grids)} grids, expected one grid each")
    maps = model.encode_frames(pixel_values)
    if image_grids is None:
        return model.project(maps)
    return model.project([average_pool(*pair) for pair in zip(maps, image_grids.tolist(), strict=True)])


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
