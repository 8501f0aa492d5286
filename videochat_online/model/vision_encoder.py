"""InternViT: pictures in, one feature vector a patch out; and the pixel shuffle that makes four patches one.

A pre-norm vision transformer with class token, fused qkv and layer scale. Parameter names are those of InternVL's
checkpoints. Knows nothing of tokens, frames or time.
N pictures, (H, W) pixels, (h, w) patches, L = 1 + h * w positions with the class token, C channels.
Source: InternVL, arXiv 2312.14238; pixel shuffle: InternVL 1.5, arXiv 2404.16821, section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..model_config import VisionConfig


class InternRMSNorm(nn.Module):
    """Scale to unit mean square, computed in float32 whatever the weights are."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * F.rms_norm(x.float(), (x.shape[-1],), eps=self.eps).to(x.dtype)


def resize_position_embedding(table: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(1, 1 + g * g, C), g patches a side -> (1, 1 + height * width, C), bicubic; the class token's row stays."""
    side = round((table.shape[1] - 1) ** 0.5)
    if (height, width) == (side, side):
        return table
    patches = table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2).float()
    patches = F.interpolate(patches, size=(height, width), mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1], patches.flatten(2).transpose(1, 2).to(table.dtype)], dim=1)


class InternVisionEmbeddings(nn.Module):
    """Patches, class token and positions."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        side = config.image_size // config.patch_size
        self.class_embedding = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.patch_embedding = nn.Conv2d(
            config.num_channels, config.hidden_size, kernel_size=config.patch_size, stride=config.patch_size
        )
        self.position_embedding = nn.Parameter(torch.empty(1, 1 + side * side, config.hidden_size))

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, L, C). Raises ValueError where the pictures do not divide into patches."""
        patch, shape = self.patch_size, pixel_values.shape
        if pixel_values.ndim != 4 or shape[2] % patch or shape[3] % patch:
            raise ValueError(
                f"pictures must be (N, channels, height, width) with sides that are multiples of {patch}, "
                f"got {tuple(shape)}"
            )
        patches = self.patch_embedding(pixel_values)  # (N, C, h, w)
        height, width = patches.shape[2:]
        tokens = torch.cat([self.class_embedding.expand(len(patches), -1, -1), patches.flatten(2).transpose(1, 2)], 1)
        return tokens + resize_position_embedding(self.position_embedding, height, width)


def eager_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    scaling: float,
    dropout: float = 0.0,
    **_: object,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention written out, to compare the fused kernels with. (N, heads, L, d) -> (N, L, heads, d), weights."""
    weights = (query @ key.transpose(-2, -1) * scaling).softmax(dim=-1)
    mixed = F.dropout(weights, dropout, module.training) @ value
    return mixed.transpose(1, 2), weights


class InternAttention(nn.Module):
    """Full attention between the patches of one picture."""

    is_causal = False  # read by transformers' flash-attention route

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.scaling = (config.hidden_size // self.num_heads) ** -0.5
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=config.qkv_bias)
        if config.qk_normalization:
            self.q_norm: nn.Module = InternRMSNorm(config.hidden_size, config.layer_norm_eps)
            self.k_norm: nn.Module = InternRMSNorm(config.hidden_size, config.layer_norm_eps)
        else:
            self.q_norm, self.k_norm = nn.Identity(), nn.Identity()
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.proj_drop = nn.Dropout(config.dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, L, C) -> (N, L, C)."""
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        heads = (*x.shape[:-1], self.num_heads, -1)
        query = self.q_norm(query).reshape(heads).transpose(1, 2)
        key = self.k_norm(key).reshape(heads).transpose(1, 2)
        value = value.reshape(heads).transpose(1, 2)
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        dropout = self.config.attention_dropout if self.training else 0.0
        mixed, _ = attend(self, query, key, value, None, scaling=self.scaling, dropout=dropout, is_causal=False)
        return self.proj_drop(self.proj(mixed.reshape(x.shape)))


class InternMLP(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.act = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act(self.fc1(x)))


def drop_path(x: torch.Tensor, rate: float, training: bool) -> torch.Tensor:
    """Stochastic depth: while training, a whole picture's branch is zero with probability `rate` (arXiv 1603.09382)."""
    if not training or rate == 0.0:
        return x
    kept = torch.rand(len(x), *(1,) * (x.ndim - 1), device=x.device) >= rate
    return x * kept.to(x.dtype) / (1.0 - rate)


class InternVisionLayer(GradientCheckpointingLayer):
    """Attention and MLP, each behind a norm, a learned scale per channel and stochastic depth."""

    def __init__(self, config: VisionConfig, drop_path_rate: float) -> None:
        super().__init__()
        norm = InternRMSNorm if config.norm_type == "rms_norm" else nn.LayerNorm
        self.attn = InternAttention(config)
        self.mlp = InternMLP(config)
        self.norm1 = norm(config.hidden_size, eps=config.layer_norm_eps)
        self.norm2 = norm(config.hidden_size, eps=config.layer_norm_eps)
        self.ls1 = nn.Parameter(torch.empty(config.hidden_size))
        self.ls2 = nn.Parameter(torch.empty(config.hidden_size))
        self.drop_path_rate = drop_path_rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + drop_path(self.attn(self.norm1(x)) * self.ls1, self.drop_path_rate, self.training)
        return x + drop_path(self.mlp(self.norm2(x)) * self.ls2, self.drop_path_rate, self.training)


class InternVisionEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        last = max(config.num_hidden_layers - 1, 1)
        rates = [config.drop_path_rate * number / last for number in range(config.num_hidden_layers)]
        self.layers = nn.ModuleList(InternVisionLayer(config, rate) for rate in rates)


class InternVisionModel(PreTrainedModel):
    """The encoder as InternVL's checkpoints hold it (`vision_model.*`)."""

    config_class = VisionConfig
    config: VisionConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"
    input_modalities = "image"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _no_split_modules = ["InternVisionLayer"]  # noqa: RUF012 (transformers' own form)
    _input_embed_layer = "patch_embedding"

    def __init__(self, config: VisionConfig) -> None:
        super().__init__(config)
        self.embeddings = InternVisionEmbeddings(config)
        self.encoder = InternVisionEncoder(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, InternVisionEmbeddings):
            init.normal_(module.class_embedding, std=self.config.initializer_range)
            init.normal_(module.position_embedding, std=self.config.initializer_range)
        elif isinstance(module, InternVisionLayer):
            init.constant_(module.ls1, self.config.initializer_factor)
            init.constant_(module.ls2, self.config.initializer_factor)

    def forward(self, pixel_values: torch.Tensor, *, select_layer: int = -1) -> torch.Tensor:
        """(N, 3, H, W) -> hidden state (N, L, C), the class token first.

        `select_layer` counts hidden states as a list of [embeddings, layer 1, ...]; layers above it do not run.
        """
        num_layers = range(len(self.encoder.layers) + 1)[select_layer]
        state = self.embeddings(pixel_values)
        for layer in self.encoder.layers[:num_layers]:
            state = layer(state)
        return state


def pixel_shuffle(x: torch.Tensor, scale: float = 0.5, version: str = "v2") -> torch.Tensor:
    """Move neighbouring positions into the channels: (N, w, h, c) -> (N, w * scale, h * scale, c / scale**2).

    "v1" gives the map transposed, as the first InternVL models were trained. Raises ValueError for a map that does
    not divide into blocks, or an unknown version.
    """
    if version not in ("v1", "v2"):
        raise ValueError(f"unknown pixel shuffle {version!r}, expected v1 or v2")
    num, width, height, channels = x.shape
    block = round(1 / scale)
    if width % block or height % block:
        raise ValueError(f"a {width}x{height} map does not divide into blocks of {block}x{block} (scale {scale})")
    x = x.reshape(num, width // block, block, height // block, block, channels)
    x = x.permute(0, 1, 3, 2, 4, 5).reshape(num, width // block, height // block, block * block * channels)
    return x if version == "v2" else x.transpose(1, 2)
