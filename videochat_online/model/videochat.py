"""The whole network: InternViT, connector and language model, in InternVL's checkpoint layout.

Composes; keeps no stream state (streaming/ owns that) and knows no text.
B batch, N positions of a sequence, T pictures (frames or tiles), C channels of a map, (h, w) its grid, D the language
model's width. Source: VideoChat-Online, arXiv 2501.00584.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    Cache,
    GenerationMixin,
    LlamaForCausalLM,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import TransformersKwargs, is_flash_attn_2_available

from ..model_config import VideoChatOnlineConfig, factor_set, has_length_dependent_rope, max_positions
from ..pixels import normalised
from .backbone import PlainPositions, Roles, encode_images, map_rows, put_image_tokens
from .language_model import build_language_model
from .vision_encoder import InternVisionModel, pixel_shuffle

CACHE_NAMES = ("cache", "past_key_values")
"""Of one argument of `forward` and `generate`: since transformers 5.24, and before."""


MOST_NAMED = 3
"""Tensors of a kind that an error names."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be loaded as it is."""


def one_line(error: Exception) -> str:
    """What another library's error says."""
    return " ".join(str(error).split())


class VideoChatOnline(PlainPositions, PreTrainedModel, GenerationMixin):
    """InternVL-style model. State-dict keys: `vision_model.*`, `mlp1.*`, `language_model.*`."""

    config_class = VideoChatOnlineConfig
    config: VideoChatOnlineConfig
    vision_model: InternVisionModel
    mlp1: nn.Sequential
    language_model: PreTrainedModel
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _skip_keys_device_placement = list(CACHE_NAMES)  # noqa: RUF012 (transformers' own form)

    def __init__(self, config: VideoChatOnlineConfig) -> None:
        if config._attn_implementation == "flash_attention_2" and not is_flash_attn_2_available():
            raise ImportError(
                "attn_implementation 'flash_attention_2' needs a CUDA device and the package flash-attn: "
                "pip install 'videochat-online[flash]' --no-build-isolation (or use attn_implementation='sdpa')"
            )
        super().__init__(config)
        self.vision_model = InternVisionModel(config.vision_config)
        channels, width = config.feature_size, config.llm_config.hidden_size
        # the connector, (num_tokens, C) -> (num_tokens, D); C after the pixel shuffle
        self.mlp1 = nn.Sequential(
            nn.LayerNorm(channels), nn.Linear(channels, width), nn.GELU(), nn.Linear(width, width)
        )
        self.language_model = build_language_model(config.llm_config)
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """transformers' from_pretrained, but strict: safetensors only unless `use_safetensors` says otherwise, and
        CheckpointError where a tensor is missing, unexpected or of the wrong shape."""
        wants_info = kwargs.pop("output_loading_info", False)
        kwargs = {"use_safetensors": True, **kwargs, "output_loading_info": True, "ignore_mismatched_sizes": True}
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model, info = loaded
        check_keys(str(pretrained_model_name_or_path or model.config.name_or_path), info)
        return loaded if wants_info else model

    def get_output_embeddings(self) -> nn.Module:  # those of the input transformers finds by itself
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.language_model.set_output_embeddings(new_embeddings)

    def enable_input_require_grads(self) -> None:
        """transformers calls this where gradient checkpointing is switched on; only the reentrant kind needs it.

        Its hooks make the output of every embedding require a gradient, the patch embedding's too: the backward pass
        would go through the whole encoder although it is frozen.
        """
        functions = [getattr(module, "_gradient_checkpointing_func", None) for module in self.modules()]
        kinds = {function.keywords.get("use_reentrant", True) for function in functions if function is not None}
        if kinds != {False}:
            super().enable_input_require_grads()

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Resize the language model's vocabulary, as transformers does."""
        return self.language_model.resize_token_embeddings(*args, **kwargs)

    def encode_frames(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(T, 3, H, W) pictures -> maps (T, C, h, w), h = w = config.grid at the model's own image size.

        Pictures are normalised, or bytes (uint8), which are normalised here, on their device.
        """
        if pixel_values.dtype == torch.uint8:
            pixel_values = normalised(pixel_values)
        pixel_values = as_weights_of(self.vision_model, pixel_values)
        features = self.vision_model(pixel_values, select_layer=self.config.select_layer)[:, 1:]
        num, _, height, width = pixel_values.shape
        patch = self.config.vision_config.patch_size
        maps = features.reshape(num, height // patch, width // patch, -1)
        maps = pixel_shuffle(maps, self.config.downsample_ratio, self.config.ps_version)
        return maps.permute(0, 3, 1, 2)  # (T, C, h, w), channels last in memory

    def project(self, features: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
        """Maps (T, C, h, w), or a list of (C, h, w) of any grids -> (num_tokens, D): map after map, row by row."""
        rows = map_rows(features)
        if not rows:
            return as_weights_of(self.mlp1, torch.zeros(0, self.config.llm_config.hidden_size))
        return self.mlp1(as_weights_of(self.mlp1, torch.cat(rows)))

    def encode_images(self, pixel_values: torch.Tensor, image_grids: torch.Tensor | None = None) -> torch.Tensor:
        """(T, 3, H, W) -> (num_tokens, D), see `backbone.encode_images`."""
        return encode_images(self, pixel_values, image_grids)

    def embed(self, input_ids: torch.Tensor, image_tokens: torch.Tensor | None = None) -> torch.Tensor:
        """(B, N) ids -> (B, N, D), with `image_tokens` (num_tokens, D) put in order at the <IMG_CONTEXT> positions.

        Raises ValueError with both numbers where tokens and positions differ.
        """
        return put_image_tokens(self.embed_words(input_ids), input_ids, self.config.img_context_token_id, image_tokens)

    def embed_words(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(B, N) ids -> (B, N, D): each is a word, <IMG_CONTEXT> too."""
        return self.get_input_embeddings()(input_ids)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """All of the network, by the checkpoint's names."""
        return dict(self.named_children())

    @property
    def roles(self) -> Roles:
        """What training asks of the parts; layers of the encoder above `select_layer` never run."""
        num_running = range(self.config.vision_config.num_hidden_layers + 1)[self.config.select_layer]
        layers = "vision_model.encoder.layers", "language_model.model.layers"
        return Roles("vision_model", layers[0], num_running, ("mlp1",), ("language_model",), layers[1])

    @property
    def max_positions(self) -> int:
        """Tokens of a sequence at most."""
        return max_positions(self.config.llm_config)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_grids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        cache: Cache | None = None,
        readout: Callable[[nn.Module, torch.Tensor], torch.Tensor] | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (B, N, vocabulary) and, with `labels` (B, N; -100 = not counted), the mean loss of the next token.

        `pixel_values` (T, 3, H, W) holds the pictures of the whole batch in order, `image_grids` (T,) the grid each is
        pooled to. `attention_mask` is 1 where there is no padding; a 4D mask (packed sequences) and `position_ids` go
        to the language model as they are. Exactly one of `input_ids` and `inputs_embeds` is given. `cache` and
        `past_key_values` are one argument: both names work with every transformers, as in `generate`.
        `readout` makes the loss itself, of the layer that gives logits and its input (B, N, D); there are none then.

        Raises TypeError for an argument that the language model does not know.
        """
        kwargs = rename_cache({**kwargs, "past_key_values": past_key_values, "cache": cache})
        if unknown := sorted(kwargs.keys() - forward_names()):  # transformers would ignore them without a word
            known = ", ".join(sorted(forward_names()))
            raise TypeError(f"forward has no argument {', '.join(unknown)}; it takes {known}")
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if input_ids is not None:
            image_tokens = None if pixel_values is None else self.encode_images(pixel_values, image_grids)
            inputs_embeds = self.embed(input_ids, image_tokens)
        elif pixel_values is not None:
            raise ValueError("pixel_values need input_ids, whose <IMG_CONTEXT> positions they fill")
        if labels is not None:
            kwargs.setdefault("use_cache", False)  # a cache would hold a second copy of every key and value
        kwargs |= {"inputs_embeds": inputs_embeds, "attention_mask": attention_mask, "position_ids": position_ids}
        if readout is not None:
            hidden = self.language_model.model(**kwargs).last_hidden_state
            return CausalLMOutputWithPast(loss=readout(self.get_output_embeddings(), hidden))
        return self.language_model(labels=labels, logits_to_keep=logits_to_keep, **kwargs)

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self,
        input_ids: torch.Tensor | None = None,
        *,
        inputs_embeds: torch.Tensor | None = None,
        image_tokens: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Continue a prompt; gives the new ids only, (B, new). Greedy unless options ask for sampling.

        The prompt is `input_ids` (B, N) with `image_tokens` (see `embed`), or `inputs_embeds` (B, N, D). Other
        arguments are those of transformers' generate (max_new_tokens, eos_token_id, streamer, cache, ...).
        A cache may hold the start of the prompt; `inputs_embeds` is the whole prompt all the same.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if input_ids is not None:
            inputs_embeds = self.embed(input_ids, image_tokens)
        if "generation_config" not in kwargs:
            kwargs.setdefault("do_sample", False)
        return super().generate(inputs_embeds=inputs_embeds, **rename_cache(kwargs))  # type: ignore[misc]

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: torch.LongTensor, *, inputs_embeds: torch.Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """One step of `generate`, always as embeddings: an <IMG_CONTEXT> the model writes itself is a word, no picture.

        Cached keys and new keys always use the same rotary factors: on the step where the factors change with the
        length (see `factor_set`), the cache is emptied and filled again from the start.
        """
        kwargs = rename_cache(kwargs)
        cache = kwargs.get("cache", kwargs.get("past_key_values"))
        if cache is not None and self._factors_change(cache, kwargs["position_ids"]):
            assert inputs_embeds is not None, "generate hands every prompt on as embeddings"
            cache.reset()
            inputs_embeds = torch.cat([inputs_embeds, self.get_input_embeddings()(input_ids)], dim=1)
            kwargs |= {"next_sequence_length": None, "is_first_iteration": True}
        inputs = super().prepare_inputs_for_generation(input_ids, inputs_embeds=inputs_embeds, **kwargs)  # type: ignore[misc]
        new_ids = inputs.pop("input_ids")
        if new_ids is not None:
            inputs["inputs_embeds"] = self.get_input_embeddings()(new_ids)
        return inputs

    def _factors_change(self, cache: Cache, position_ids: torch.Tensor) -> bool:
        """Whether this step's positions (B, all so far) take other rotary factors than the keys in the cache."""
        config, num_cached = self.config.llm_config, cache.get_seq_length()
        if num_cached == 0 or not has_length_dependent_rope(config):
            return False
        before, now = (int(positions.max()) + 1 for positions in (position_ids[..., :num_cached], position_ids))
        return factor_set(config, before) != factor_set(config, now)


def as_weights_of(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """`x` in the dtype and on the device of the weights; to offloaded ones (meta) accelerate itself brings it."""
    weight = next(module.parameters())
    return x.to(x.device if weight.is_meta else weight.device, weight.dtype)


@contextmanager
def only_said(logger: str, is_said: Callable[[logging.LogRecord], bool]) -> Iterator[None]:
    """Of what a library's logger says, only this: the rest is for our own errors to say, in one line."""
    found = logging.getLogger(logger)
    found.addFilter(is_said)
    try:
        yield
    finally:
        found.removeFilter(is_said)


def check_keys(source: str, loading_info: dict[str, Any]) -> None:
    """Raise CheckpointError unless every tensor of the model was loaded and every tensor loaded had a place.

    `loading_info` is what transformers reports after loading; shapes are those of the checkpoint, then the model's.
    """
    shapes = {
        key: f"{key} {tuple(theirs)}, expected {tuple(ours)}" for key, theirs, ours in loading_info["mismatched_keys"]
    }
    listed = {
        "missing": sorted(set(loading_info["missing_keys"]) - set(shapes)),
        "unexpected": sorted(loading_info["unexpected_keys"]),
        "of the wrong shape": [shapes[key] for key in sorted(shapes)],
    }
    parts = [
        f"{len(keys)} {what} ({', '.join(keys[:MOST_NAMED])}{', ...' if len(keys) > MOST_NAMED else ''})"
        for what, keys in listed.items()
        if keys
    ]
    if parts:
        why = "weights and config.json are not of one model, or a file is not whole"
        raise CheckpointError(f"{source} does not hold this model's tensors: {'; '.join(parts)}: {why}")


@functools.cache
def forward_names() -> frozenset[str]:
    """The arguments that `forward` of this transformers' language models uses."""
    names = inspect.signature(LlamaForCausalLM.forward).parameters
    return frozenset({*names, *TransformersKwargs.__optional_keys__, "return_dict"} - {"self", "kwargs"})


def rename_cache(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """`arguments` with the cache under the name of this transformers, or without the name where there is no cache.

    Raises ValueError where both names are given: transformers would quietly take one.
    """
    renamed = dict(arguments)
    given = [cache for name in CACHE_NAMES if (cache := renamed.pop(name, None)) is not None]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(CACHE_NAMES)} are two names of one argument: give one of them")
    if given:
        renamed["cache" if "cache" in forward_names() else "past_key_values"] = given[0]
    return renamed


# The one act at import: transformers' registries are class lookup tables, and AutoModel can only find this class in
# a checkpoint of type internvl_chat once it stands there. Nothing but importing this file adds it.
AutoConfig.register("internvl_chat", VideoChatOnlineConfig, exist_ok=True)
AutoModel.register(VideoChatOnlineConfig, VideoChatOnline, exist_ok=True)
AutoModelForCausalLM.register(VideoChatOnlineConfig, VideoChatOnline, exist_ok=True)
