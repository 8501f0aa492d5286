"""What all held models share: facts from a folder's files, embeddings, forward and generate on transformers' object.

The object is held, never subclassed: transformers renames a checkpoint's tensors by class, and a subclass would lose
some of them with no more than a warning. T pictures, C channels, (h, w) a grid, N positions, D the text model's width.
E = D * (1 + L) is an embedding as it travels: behind its D channels stand the addends for L first layers (deepstack,
arXiv 2406.04334), 0 for text, so that cutting and joining need not know of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Cache, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from ...config import SmallFrames
from ...pixels import normalised
from ..backbone import (
    TRAINED_HERE,
    Backbone,
    HeldFacts,
    PlainPositions,
    Roles,
    encode_images,
    map_rows,
    put_image_tokens,
)
from ..language_model import steady_positions
from ..videochat import CheckpointError, as_weights_of, rename_cache

FILTERS = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""`resample` of an image processor (PIL's numbers) -> the filter of `FrameTransform`."""


class HeldModel(PlainPositions):
    """A family's adapter: `Backbone` on transformers' object. A subclass says how its pictures become maps and rows."""

    TEMPLATE: ClassVar[str]
    """Its name in prompt/messages.py."""
    PARTS: ClassVar[tuple[str, str, str]] = ("vision_tower", "multi_modal_projector", "language_model")
    """Attributes of transformers' inner model: encoder, connector ("": the encoder holds it), text model."""
    ANY_SHAPE: ClassVar[bool] = False
    """Whether the encoder takes, and was trained on, pictures of any shape and size: then small frames are encoded."""
    LAYERS: ClassVar[str] = "encoder.layers"
    """Of the encoder."""
    IDLE: ClassVar[tuple[str, ...]] = ()
    """Modules of the encoder behind the layer that is read."""

    def __init__(self, held: PreTrainedModel, facts: HeldFacts) -> None:
        self.held, self.config = held.eval(), replace(facts, own=held.config)  # which knows the attention in use
        held.generation_config = GenerationConfig()  # greedy, as our own model: a checkpoint's sampling is asked for

    # ---- what a family says of itself ------------------------------------------------------------------------------

    @classmethod
    def read_facts(cls, config: PreTrainedConfig, settings: dict[str, Any]) -> HeldFacts:
        """Facts from config.json and the image processor's `settings`. Raises CheckpointError."""
        size, grid, channels = cls.shape(config)
        picture = {"size": size, **picture_recipe(settings)}
        any_shape = cls.ANY_SHAPE and not hasattr(config, TRAINED_HERE)
        way: SmallFrames = "encoded" if any_shape else "pooled"
        return HeldFacts(config, cls.TEMPLATE, grid, channels, picture, any_shape=any_shape, small_frames=way)

    @classmethod
    def shape(cls, config: PreTrainedConfig) -> tuple[int, int, int]:
        """Side of a picture in pixels, side of its map, and the map's channels C."""
        raise NotImplementedError

    def encode_frames(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Pixels (T, 3, H, W) -> maps (T, C, h, w), channels last in memory."""
        raise NotImplementedError

    def to_text(self, rows: torch.Tensor) -> torch.Tensor:
        """Cells of maps (n, C) -> (n, E). As they are, where maps have the text model's width already."""
        return rows

    # ---- the same for all ------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return self.held.device

    @property
    def dtype(self) -> torch.dtype:
        return self.held.dtype

    @property
    def vision_model(self) -> nn.Module:
        return getattr(self.held.model, self.PARTS[0])

    @property
    def connector(self) -> nn.Module:
        return getattr(self.held.model, self.PARTS[1])

    @property
    def text_model(self) -> nn.Module:
        return getattr(self.held.model, self.PARTS[2])

    @property
    def parts(self) -> dict[str, nn.Module]:
        roles = zip(("encoder", "connector", "language model"), self.PARTS, strict=True)
        found = {role: getattr(self.held.model, name) for role, name in roles if name}
        return found if self.config.own.tie_word_embeddings else {**found, "head": self.held.get_output_embeddings()}

    @property
    def roles(self) -> Roles:
        """Names in transformers' object."""
        encoder, text = f"model.{self.PARTS[0]}", f"model.{self.PARTS[2]}"
        chosen = getattr(self.config.own, "vision_feature_layer", -1)
        count = len(self.vision_model.get_submodule(self.LAYERS))  # type: ignore[arg-type]
        running = max(range(count + 1)[layer] for layer in ([chosen] if isinstance(chosen, int) else chosen))
        idle = tuple(f"{encoder}.{name}" for name in self.IDLE if hasattr(self.vision_model, name))
        language = (text, "lm_head")
        return Roles(
            encoder, f"{encoder}.{self.LAYERS}", running, self.connector_names(), language, f"{text}.layers", idle
        )

    def connector_names(self) -> tuple[str, ...]:
        """Of the modules between encoder and text model."""
        return (f"model.{self.PARTS[1]}",)

    @property
    def max_positions(self) -> int:
        """Where rotary factors change, transformers' own module keeps those of the last length."""
        return steady_positions(self.config.llm_config)

    def project(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Maps (C, h, w) of any grids -> (num_tokens, E)."""
        return self.to_text(torch.cat(map_rows(features)))

    def embed(self, input_ids: torch.Tensor, image_tokens: torch.Tensor | None = None) -> torch.Tensor:
        """(B, N) ids -> (B, N, E), with `image_tokens` (num_tokens, E) at the places of pictures."""
        embeds = self.embed_words(input_ids)
        embeds = F.pad(embeds, (0, self._width - embeds.shape[-1]))
        return put_image_tokens(embeds, input_ids, self.config.img_context_token_id, image_tokens)

    def embed_words(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(B, N) ids -> (B, N, D), without addends; each is a word, the picture's mark too."""
        return self.held.get_input_embeddings()(input_ids)

    @cached_property
    def _width(self) -> int:
        """E"""
        cell = torch.zeros(self.config.feature_size, 1, 1, device=self.device, dtype=self.dtype)
        with torch.no_grad():
            return self.project([cell]).shape[-1]

    def __call__(
        self,
        *,
        inputs_embeds: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        cache: Cache | None = None,
        use_cache: bool = False,
        logits_to_keep: int = 0,
        output_hidden_states: bool = False,
    ) -> CausalLMOutputWithPast:
        """Logits (B, N or `logits_to_keep`, vocabulary) of embeddings (B, N, E) behind what `cache` holds."""
        options: dict[str, Any] = {"cache": cache, "attention_mask": attention_mask, "use_cache": use_cache}
        options |= {"output_hidden_states": True} if output_hidden_states else {}
        done = self._text_output(inputs_embeds, position_ids, options)
        logits = self.held.get_output_embeddings()(done[0][:, -logits_to_keep:])
        return CausalLMOutputWithPast(logits=logits, hidden_states=done.hidden_states)

    def last_hidden_state(
        self, inputs_embeds: torch.Tensor, position_ids: torch.Tensor | None, **options: Any
    ) -> torch.Tensor:
        """(B, N, D), of which logits are made. `options` are those of the text model."""
        return self._text_output(inputs_embeds, position_ids, options)[0]

    def _text_output(self, inputs_embeds: torch.Tensor, position_ids: torch.Tensor | None, options: Any) -> Any:
        embeds, *deep = inputs_embeds.split(self.config.llm_config.hidden_size, dim=-1)
        options["position_ids"] = position_ids
        if deep:
            everywhere = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
            options["visual_pos_masks"] = everywhere
            options["deepstack_visual_embeds"] = [addend.flatten(0, 1) for addend in deep]
        return self.text_model(inputs_embeds=embeds, **rename_cache(options))

    @torch.no_grad()
    def generate(
        self,
        *,
        inputs_embeds: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
        **options: Any,
    ) -> Any:
        """See `Backbone`. Greedy unless options ask for sampling.

        All positions but the last are computed here; the last, which is text, and the words behind it go through the
        class's own generate, which thus meets no picture and keeps none of its own counts.
        """
        cache = self.new_cache() if cache is None else cache
        num, done = inputs_embeds.shape[1], cache.get_seq_length()
        if position_ids is None:
            position_ids = torch.arange(num, device=inputs_embeds.device)[None]
        if done < num - 1:
            place, rest = position_ids[..., done:-1], inputs_embeds[:, done:-1]
            self(inputs_embeds=rest, position_ids=place, cache=cache, use_cache=True, logits_to_keep=1)
        copies = max(options.get("num_beams") or 1, options.get("num_return_sequences") or 1)
        if copies > 1:
            cache.batch_repeat_interleave(copies)
        text = inputs_embeds[..., : self.config.llm_config.hidden_size]
        seen = torch.ones(text.shape[:2], dtype=torch.long, device=text.device)
        options = rename_cache({"do_sample": False, **options, "cache": cache})
        return self.held.generate(inputs_embeds=text, position_ids=position_ids, attention_mask=seen, **options)


def as_maps(rows: torch.Tensor, grid: int) -> torch.Tensor:
    """(T, g * g, C) -> (T, C, g, g), channels last in memory."""
    return rows.reshape(len(rows), grid, grid, -1).permute(0, 3, 1, 2)


def pixels_of(model: HeldModel, pixel_values: torch.Tensor) -> torch.Tensor:
    """In the dtype and on the device of the encoder's weights; bytes are normalised first, on their device."""
    if pixel_values.dtype == torch.uint8:
        pixel_values = normalised(pixel_values, model.config.picture["mean"], model.config.picture["std"])
    return as_weights_of(model.vision_model, pixel_values)


def square(config: PreTrainedConfig, name: str) -> int:
    """One side of a size that config.json gives as a number or a pair. Raises CheckpointError where it has two."""
    value = getattr(config, name)
    sides = set(value) if isinstance(value, (list, tuple)) else {value}
    if len(sides) != 1:
        raise CheckpointError(f"vision_config.{name} is {value}: only square pictures can be shown")
    return int(sides.pop())


def picture_recipe(settings: dict[str, Any]) -> dict[str, Any]:
    """Mean, deviation and filter of an image processor's settings. Raises CheckpointError for what we cannot do."""
    resample, scale = settings.get("resample", 3), settings.get("rescale_factor", 1 / 255)
    if resample not in FILTERS or abs(scale - 1 / 255) > 1e-6:
        raise CheckpointError(
            f"the image processor's settings have resample {resample!r} and rescale_factor {scale!r}, expected one of "
            f"{', '.join(map(str, FILTERS))}, and 1/255"
        )
    if settings.get("do_normalize", True) is False:
        return {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "filter": FILTERS[resample]}
    if missing := [name for name in ("image_mean", "image_std") if not settings.get(name)]:
        raise CheckpointError(f"the image processor's settings lack {', '.join(missing)}")
    return {"mean": settings["image_mean"], "std": settings["image_std"], "filter": FILTERS[resample]}


class TrainedHeld(nn.Module):
    """What training uses of `VideoChatOnline`, on a `HeldModel`. B sequences, N positions, T pictures, D the width.

    Training wraps and moves a module, and a `HeldModel` is none. The children of transformers' object are this
    module's, so that keys, tied weights and everything that replaces a layer are those of the object itself.
    """

    def __init__(self, backbone: HeldModel) -> None:
        super().__init__()
        self.backbone = backbone
        for name, child in backbone.held.named_children():
            self.add_module(name, child)

    @property
    def config(self) -> HeldFacts:
        return self.backbone.config

    @property
    def roles(self) -> Roles:
        return self.backbone.roles

    @property
    def positions(self) -> Callable[..., torch.Tensor | None]:
        """See `Backbone`; a function that needs no model."""
        return self.backbone.positions

    def forward(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor,
        image_grids: torch.Tensor,
        readout: Callable[[nn.Module, torch.Tensor], torch.Tensor],
        position_ids: torch.Tensor | None = None,
        rope_positions: torch.Tensor | None = None,
        **options: Any,
    ) -> CausalLMOutputWithPast:
        """The loss that `readout` makes of the layer that gives logits and its input (B, N, D).

        `pixel_values` (T, 3, H, W), bytes, are all pictures in order, averaged to `image_grids` (T,) squared.
        `rope_positions` (4, B, N) stand in the place of `position_ids` (B, N), which mark packed samples.
        """
        embeds = self.backbone.embed(input_ids, self.encode_images(pixel_values, image_grids))
        positions = position_ids if rope_positions is None else rope_positions
        hidden = self.backbone.last_hidden_state(embeds, positions, **options)
        return CausalLMOutputWithPast(loss=readout(self.backbone.held.get_output_embeddings(), hidden))

    def encode_images(self, pixel_values: torch.Tensor, image_grids: torch.Tensor | None = None) -> torch.Tensor:
        """See `backbone.encode_images`."""
        return encode_images(self.backbone, pixel_values, image_grids)

    def generate(self, input_ids: torch.Tensor, *, image_tokens: torch.Tensor | None = None, **options: Any) -> Any:
        """New ids behind a prompt (1, N) with `image_tokens` at the places of pictures; see `Backbone`."""
        return self.backbone.generate(inputs_embeds=self.backbone.embed(input_ids, image_tokens), **options)

    def gradient_checkpointing_enable(self, options: dict[str, Any]) -> None:
        """Compute layers again in the backward pass. transformers' hooks on embeddings, which would draw the backward
        pass through a frozen encoder, go: they serve the reentrant kind only."""
        held: Any = self.backbone.held
        (getattr(held, "activation_checkpointing_enable", None) or held.gradient_checkpointing_enable)(options)
        held.disable_input_require_grads()

    def tie_weights(self) -> None:
        """Make tied weights one again."""
        self.backbone.held.tie_weights()

    def save_pretrained(self, folder: Any, **options: Any) -> None:
        """A model folder in transformers' layout."""
        self.backbone.held.save_pretrained(folder, **options)


def as_module(backbone: Backbone) -> Any:
    """A network as training takes it; ours is a module already."""
    return TrainedHeld(backbone) if isinstance(backbone, HeldModel) else backbone
