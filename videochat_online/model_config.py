"""The model's configuration: config.json of InternVL 2 / 2.5 / 3 and VideoChat-Online checkpoints, and of ours.

Plain Python, no torch.nn. What is saved has the published layout (names of transformers 4: rope_theta, rope_scaling
with the publisher's own type, torch_dtype), so that InternVL's own loaders read what we write.
"""

from __future__ import annotations

import copy
import math
from typing import Any, ClassVar, get_args

from transformers import AutoConfig, LlamaConfig, PreTrainedConfig

from .config import AnswerMode, MemoryConfig, SmallFrames

LLM_ARCHITECTURES = {
    "phi3": "Phi3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "internlm2": "InternLM2ForCausalLM",
}
"""model_type -> the class named in config.json, by which InternVL's loaders choose; it is transformers' own, but for
InternLM2, which runs as a Llama."""

ROPE_KEYS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "longrope": ("short_factor", "long_factor"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}
"""The rope types we can run, each with the keys it cannot do without."""

NOT_KEPT = (
    "auto_map", "attn_implementation", "_attn_implementation", "_attn_implementation_internal",
    "_attn_implementation_autoset",
)  # fmt: skip
"""Keys that speak of somebody's code or machine, not of the weights."""


def factor_set(config: PreTrainedConfig, num_positions: int) -> int:
    """Names the rotary frequencies in force for a sequence of `num_positions`.

    A cache may be continued from one length to another only where both give the same value. LongRoPE has two sets,
    dynamic NTK one for every length past the trained one, every other type one in all.
    """
    kind = config.rope_parameters["rope_type"]
    if kind == "longrope":
        return int(num_positions > config.rope_parameters["original_max_position_embeddings"])
    if kind == "dynamic":
        return max(num_positions, config.max_position_embeddings)
    return 0


def max_positions(config: PreTrainedConfig) -> int:
    """Tokens of a sequence at most; rope types that stretch the trained length count with their factor."""
    rope = config.rope_parameters
    stretched = rope["rope_type"] in ("dynamic", "linear", "yarn")
    return int(config.max_position_embeddings * (rope["factor"] if stretched else 1))


def has_length_dependent_rope(config: PreTrainedConfig) -> bool:
    return config.rope_parameters["rope_type"] in ("longrope", "dynamic")


class VisionConfig(PreTrainedConfig):
    """InternViT. The defaults are InternViT-300M-448px, the encoder of every InternVL 2 to 3 below 26B."""

    model_type = "intern_vit_6b"
    base_config_key = "vision_config"

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    num_channels: int = 3
    patch_size: int = 14
    image_size: int = 448
    """Side in pixels the position embedding is made for; other sizes are interpolated."""
    hidden_act: str = "gelu"
    norm_type: str = "layer_norm"
    """layer_norm or rms_norm."""
    layer_norm_eps: float = 1e-6
    qkv_bias: bool = True
    qk_normalization: bool = False
    """RMS-normalise queries and keys over all heads together."""
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path_rate: float = 0.0
    """Stochastic depth of the last layer; earlier layers get proportionally less."""
    initializer_range: float = 0.02
    initializer_factor: float = 1.0
    """First value of the layer scales ls1 and ls2."""

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.norm_type not in ("layer_norm", "rms_norm"):
            raise ValueError(f"vision_config.norm_type must be layer_norm or rms_norm, got {self.norm_type!r}")
        for size, parts in (("hidden_size", "num_attention_heads"), ("image_size", "patch_size")):
            if getattr(self, size) % getattr(self, parts):
                raise ValueError(
                    f"vision_config.{size} must be a multiple of {parts}, got {getattr(self, size)} "
                    f"and {getattr(self, parts)}"
                )


class InternLM2Config(LlamaConfig):
    """InternLM2 as the Llama it is. The type keeps its name, so that weights are mapped on loading and on saving."""

    model_type = "internlm2"

    bias: bool = False
    """Whether the attention's projections have one."""

    def __post_init__(self, **kwargs: Any) -> None:
        self.attention_bias = self.bias
        super().__post_init__(**kwargs)


class VideoChatOnlineConfig(PreTrainedConfig):
    """config.json of an InternVL 2 / 2.5 / 3 or VideoChat-Online checkpoint, and of ours."""

    model_type = "internvl_chat"
    sub_configs: ClassVar[dict[str, type]] = {"vision_config": VisionConfig, "llm_config": AutoConfig}

    vision_config: Any = None
    """VisionConfig or its dict."""
    llm_config: Any = None
    """Config of the language model (Phi3, Qwen2, Qwen3, Llama or InternLM2) or its published dict."""
    template: str = "phi3-chat"
    select_layer: int = -1
    """Which of the encoder's hidden states is read: -1 the last layer's, 0 the embeddings."""
    downsample_ratio: float = 0.5
    ps_version: str = "v2"
    """Pixel shuffle; v1 (transposed maps) is for old checkpoints."""
    force_image_size: int | None = None
    """Side in pixels of frames and tiles; None: vision_config.image_size."""
    dynamic_image_size: bool = True
    """Cut still images into tiles."""
    min_dynamic_patch: int = 1
    max_dynamic_patch: int = 12
    use_thumbnail: bool = True
    """Add the whole image when it was cut into several tiles."""
    reverse_memory_sample_ratio: Any = (8, 4, 1)
    """`every` of the memory's levels, finest first."""
    memory: Any = None
    """MemoryConfig as a dict; None: the published capacities at the grids the encoder allows."""
    img_context_token_id: int | None = None
    """Id of <IMG_CONTEXT>; published checkpoints leave it to the tokenizer."""
    system_message: str | None = None
    """Instead of the template's own system message."""
    answer_mode: AnswerMode | None = None
    """How it answers a question with options, which `eval` follows: `generate`, it says a letter; `likelihood`, it
    knows the options' words only, and the option that it finds likeliest is its answer; None: not known."""
    note: str | None = None
    """What a user of these weights must know; commands print it."""

    def __post_init__(self, **kwargs: Any) -> None:
        if not isinstance(self.vision_config, VisionConfig):
            values = {key: value for key, value in (self.vision_config or {}).items() if key not in NOT_KEPT}
            self.vision_config = VisionConfig(**values)
        if not isinstance(self.llm_config, PreTrainedConfig):
            self.llm_config = _read_llm_config(self.llm_config or {"model_type": "phi3"})
        self.reverse_memory_sample_ratio = list(self.reverse_memory_sample_ratio)
        super().__post_init__(**{key: value for key, value in kwargs.items() if key not in NOT_KEPT})
        self._check()

    def _check(self) -> None:
        if self.answer_mode not in (None, *get_args(AnswerMode)):
            raise ValueError(f"answer_mode must be {' or '.join(get_args(AnswerMode))}, got {self.answer_mode!r}")
        if self.ps_version not in ("v1", "v2"):
            raise ValueError(f"ps_version must be v1 or v2, got {self.ps_version!r}")
        num_layers = self.vision_config.num_hidden_layers
        if not -num_layers - 1 <= self.select_layer <= num_layers:
            raise ValueError(f"select_layer {self.select_layer} does not exist in an encoder of {num_layers} layers")
        grid = self.image_size / self.vision_config.patch_size * self.downsample_ratio
        if not grid.is_integer():
            raise ValueError(
                f"image size {self.image_size}, patch size {self.vision_config.patch_size} and downsample_ratio "
                f"{self.downsample_ratio} give no whole grid: {grid}"
            )
        self.memory_config.for_encoder(self.grid)  # refuses a memory that does not fit

    @property
    def image_size(self) -> int:
        """Side in pixels of a frame or tile."""
        return self.force_image_size or self.vision_config.image_size

    @property
    def picture(self) -> dict[str, Any]:
        """How a frame becomes pixels; bicubic, ImageNet's mean and deviation are `FrameTransform`'s defaults."""
        return {"size": self.image_size}

    @property
    def grid(self) -> int:
        """Side of a frame's map after the pixel shuffle: grid * grid tokens at full size."""
        return int(self.image_size // self.vision_config.patch_size * self.downsample_ratio)

    @property
    def any_shape(self) -> bool:
        """Frames are squares of one size."""
        return False

    @property
    def small_frames(self) -> SmallFrames:
        """The network was trained on averaged maps."""
        return "pooled"

    @property
    def feature_size(self) -> int:
        """Channels of a frame's map after the pixel shuffle, C."""
        return self.vision_config.hidden_size * round(1 / self.downsample_ratio) ** 2

    @property
    def memory_config(self) -> MemoryConfig:
        """The memory this model was made for, on its own grids: `memory`, else the published proportions."""
        if self.memory is not None:
            return MemoryConfig.from_dict(self.memory).for_encoder(self.grid)
        every = tuple(self.reverse_memory_sample_ratio)
        capacities = (2,) * (len(every) - 1) + (12,)
        return MemoryConfig.pyramid(capacities=capacities, every=every).for_encoder(self.grid)

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """The language model's config, which generation and resizing ask for."""
        return self.llm_config

    def to_diff_dict(self) -> dict[str, Any]:
        """What `save_pretrained` writes: the published names, and the class InternVL's loaders know."""
        values = _write_dtype(super().to_diff_dict())
        common = PreTrainedConfig().to_dict()
        for key, write in (("vision_config", _write_dtype), ("llm_config", _write_llm_config)):
            part = getattr(self, key).to_dict()
            part["dtype"] = self.dtype or part.get("dtype")
            self.dict_dtype_to_str(part)
            values[key] = write({name: value for name, value in part.items() if common.get(name, ...) != value})
        return {**values, "architectures": ["InternVLChatModel"]}


def _read_llm_config(values: dict[str, Any]) -> PreTrainedConfig:
    """A published llm_config -> the transformers 5 config of its type. Raises ValueError for one we cannot run."""
    values = {key: copy.deepcopy(value) for key, value in values.items() if key not in NOT_KEPT}
    # 1. its model_type, else that of the class it names
    given, named = values.pop("model_type", None), (values.get("architectures") or [None])[0]
    of_class = {name: kind for kind, name in LLM_ARCHITECTURES.items()}
    model_type = given if given in LLM_ARCHITECTURES else of_class.get(named)
    if model_type is None:
        raise ValueError(
            f"llm_config: unknown language model (model_type {given!r}, architectures {named!r}), "
            f"expected one of {', '.join(LLM_ARCHITECTURES)}"
        )
    values["architectures"] = values.get("architectures") or [LLM_ARCHITECTURES[model_type]]
    # 2. its rope
    for key in ("rope_scaling", "rope_parameters"):
        if values.get(key):
            values[key] = _read_rope(values[key], model_type, values)
    return InternLM2Config(**values) if model_type == "internlm2" else AutoConfig.for_model(model_type, **values)


def _read_rope(rope: dict[str, Any], model_type: str, values: dict[str, Any]) -> dict[str, Any]:
    """Check one rope table; the early Phi-3 types "su" and "yarn" become "longrope", which they are."""
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if model_type == "phi3" and kind in ("su", "yarn"):
        rope = {**rope, "type": kind, "rope_type": "longrope"}
        if kind == "yarn":  # attention scaling of Phi-3's own "yarn"; longrope's formula would give another
            scale = values["max_position_embeddings"] / values["original_max_position_embeddings"]
            rope.setdefault("attention_factor", 0.1 * math.log(scale) + 1.0 if scale > 1 else 1.0)
        kind = "longrope"
    if kind not in ROPE_KEYS:
        known = ", ".join(ROPE_KEYS)
        raise ValueError(f"llm_config: unknown rope type {kind!r}, expected one of {known}, or su for Phi-3")
    if missing := [key for key in ROPE_KEYS[kind] if rope.get(key) is None]:
        raise ValueError(f"llm_config: rope type {kind!r} needs {', '.join(missing)}, got {rope}")
    return rope


def _write_llm_config(values: dict[str, Any]) -> dict[str, Any]:
    """The reverse of `_read_llm_config`, from `to_dict()` of a transformers 5 config."""
    values = _write_dtype(values)
    rope = dict(values.pop("rope_parameters", None) or {})
    kind = rope.pop("rope_type", "default")
    published_kind = rope.pop("type", kind)
    if "rope_theta" in rope:
        values["rope_theta"] = rope.pop("rope_theta")
    partial_rotary_factor = rope.pop("partial_rotary_factor", 1.0)
    if partial_rotary_factor != 1.0:
        values["partial_rotary_factor"] = partial_rotary_factor
    if values["model_type"] == "phi3":  # stands beside rope_scaling there, and older loaders allow no key more
        rope.pop("original_max_position_embeddings", None)
        if published_kind == "yarn":
            rope.pop("attention_factor", None)
    values["rope_scaling"] = None if kind == "default" else {"type": published_kind, **rope}
    return values


def _write_dtype(values: dict[str, Any]) -> dict[str, Any]:
    """A copy that names its dtype `torch_dtype`, as loaders of either generation know it."""
    values = dict(values)
    if "dtype" in values:
        values["torch_dtype"] = values.pop("dtype")
    return values
