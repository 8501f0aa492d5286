"""A held model as training takes it: one module with the weights of transformers' object under their own names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import CausalLMOutputWithPast

from ..backbone import Backbone, HeldFacts, Roles, encode_images
from .held import HeldModel


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
