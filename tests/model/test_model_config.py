"""config.json as published, read and written; and settings that cannot be."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from videochat_online.config import MemoryConfig
from videochat_online.model_config import LLM_ARCHITECTURES, InternLM2Config, VideoChatOnlineConfig, VisionConfig

FACTORS = {"short_factor": [1.0 + i / 50 for i in range(48)], "long_factor": [1.0 + i for i in range(48)]}
PHI3_128K = {
    "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "vocab_size": 32020, "hidden_size": 3072,
    "intermediate_size": 8192, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
    "max_position_embeddings": 131072, "original_max_position_embeddings": 4096, "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5, "sliding_window": 262144, "tie_word_embeddings": False, "pad_token_id": 32000,
    "attn_implementation": "flash_attention_2", "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"},
    "torch_dtype": "bfloat16",
}  # fmt: skip
QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 151936, "hidden_size": 2560,
    "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8,
    "head_dim": 128, "max_position_embeddings": 40960, "rope_theta": 1000000, "tie_word_embeddings": True,
}  # fmt: skip


def published(llm: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """config.json of an InternVL2-4B-like checkpoint."""
    return {
        "_attn_implementation_autoset": True, "_commit_hash": None,
        "architectures": ["InternVLChatModel"], "auto_map": {"AutoModel": "modeling.Model"},
        "model_type": "internvl_chat", "template": "phi3-chat", "downsample_ratio": 0.5, "dynamic_image_size": True,
        "force_image_size": 448, "max_dynamic_patch": 12, "min_dynamic_patch": 1, "use_thumbnail": True,
        "ps_version": "v2", "select_layer": -1, "pad2square": False, "use_backbone_lora": 0, "use_llm_lora": 0,
        "torch_dtype": "bfloat16", "transformers_version": None, "llm_config": llm,
        "vision_config": {
            "architectures": ["InternVisionModel"], "model_type": "intern_vit_6b", "hidden_size": 1024,
            "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 14,
            "image_size": 448, "qkv_bias": True, "qk_normalization": False, "norm_type": "layer_norm",
            "layer_norm_eps": 1e-6, "drop_path_rate": 0.1, "use_flash_attn": True, "torch_dtype": "bfloat16",
            "output_attentions": False, "num_experts": 8, "use_moe": False,
        },
        **changes,
    }  # fmt: skip


def read(tmp_path: Path, values: dict[str, Any]) -> VideoChatOnlineConfig:
    (tmp_path / "config.json").write_text(json.dumps(values), "utf-8")
    return VideoChatOnlineConfig.from_pretrained(tmp_path)


def write(tmp_path: Path, config: VideoChatOnlineConfig) -> dict[str, Any]:
    config.save_pretrained(tmp_path / "saved")
    return json.loads((tmp_path / "saved/config.json").read_text("utf-8"))


def test_internvl2_4b(tmp_path: Path):
    config = read(tmp_path, published({**PHI3_128K, "rope_scaling": {"type": "su", **FACTORS}}))
    assert (config.image_size, config.grid, config.feature_size) == (448, 16, 4096)
    assert config.vision_config.drop_path_rate == 0.1
    assert config.memory_config == MemoryConfig.pyramid(grids=(16, 8, 4))
    assert config._attn_implementation is None and config.llm_config._attn_implementation is None
    assert str(config.dtype) == "torch.bfloat16"
    assert not hasattr(config, "auto_map") and not hasattr(config.llm_config, "auto_map")


@pytest.mark.parametrize("kind", ["su", "yarn", "longrope"])
def test_phi3_rope_types_keep_the_checkpoints_factors(tmp_path: Path, kind: str):
    rope = {"type": kind, **FACTORS}
    config = read(tmp_path, published({**PHI3_128K, "rope_scaling": rope}))
    got = config.llm_config.rope_parameters
    assert got["rope_type"] == "longrope" and got["original_max_position_embeddings"] == 4096
    assert {key: got[key] for key in FACTORS} == FACTORS
    assert got.get("attention_factor") == (pytest.approx(0.1 * math.log(32) + 1) if kind == "yarn" else None)
    assert write(tmp_path, config)["llm_config"]["rope_scaling"] == rope


@pytest.mark.parametrize(
    "rope",
    [
        {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
        {"type": "dynamic", "factor": 2.0},
        {"type": "linear", "factor": 2.0},
        None,
    ],
)
def test_internvl_2_5_and_3_5(tmp_path: Path, rope: dict[str, Any] | None):
    values = published({**QWEN3, "rope_scaling": rope}, template="internvl2_5")
    config = read(tmp_path, values)
    assert (config.template, config.llm_config.model_type) == ("internvl2_5", "qwen3")
    got = config.llm_config.rope_parameters
    assert got["rope_type"] == (rope or {"type": "default"})["type"] and got["rope_theta"] == 1000000
    saved = write(tmp_path, config)
    assert saved["llm_config"]["rope_scaling"] == rope and saved["llm_config"]["rope_theta"] == 1000000


def test_what_is_saved_is_what_was_published(tmp_path: Path):
    """Every published value comes back under its own name, and a second reading gives the same config."""
    values = published({**PHI3_128K, "rope_scaling": {"type": "su", **FACTORS}})
    config = read(tmp_path, values)
    saved = write(tmp_path, config)
    ours_alone = ("auto_map", "_commit_hash", "transformers_version", "architectures", "output_attentions")
    ours_alone += ("attn_implementation", "_attn_implementation_autoset")
    for part in (None, "vision_config", "llm_config"):
        theirs, ours = (values, saved) if part is None else (values[part], saved[part])
        for key in theirs.keys() - {*ours_alone, "llm_config", "vision_config"}:
            assert ours[key] == theirs[key], key
    assert saved["architectures"] == ["InternVLChatModel"]
    assert saved["llm_config"]["architectures"] == ["Phi3ForCausalLM"]
    again = VideoChatOnlineConfig.from_pretrained(tmp_path / "saved")
    assert again.llm_config.to_dict() == config.llm_config.to_dict()
    assert again.to_diff_dict() == config.to_diff_dict()


@pytest.mark.parametrize("name", ["phi3", "qwen2"])
def test_recorded_configs(golden: Path, name: str):
    config = VideoChatOnlineConfig.from_pretrained(golden / f"model_{name}")
    assert config.llm_config.model_type == name and config.grid == 16
    assert config.memory_config.every == (8, 4, 1)


def test_a_language_model_named_only_by_its_class(golden: Path):
    llm = json.loads((golden / "fullsize_keys.json").read_text("utf-8"))["config"]["llm"]
    assert "model_type" not in llm
    assert VideoChatOnlineConfig(llm_config=llm).llm_config.model_type == "phi3"


def test_internlm2_is_a_llama_that_keeps_its_name(tmp_path: Path, make_config: Any):
    config = make_config("internlm2", llm={"bias": True, "rope_scaling": {"type": "dynamic", "factor": 2.0}})
    assert isinstance(config.llm_config, InternLM2Config) and config.llm_config.attention_bias
    saved = write(tmp_path, config)["llm_config"]
    assert (saved["model_type"], saved["bias"]) == ("internlm2", True)
    assert saved["architectures"] == ["InternLM2ForCausalLM"]
    assert saved["rope_scaling"] == {"type": "dynamic", "factor": 2.0}


def test_defaults_are_the_published_4b():
    config = VideoChatOnlineConfig()
    assert (config.grid, config.llm_config.model_type, config.llm_config.hidden_size) == (16, "phi3", 3072)
    assert set(LLM_ARCHITECTURES) >= {"phi3", "qwen2", "qwen3", "llama", "internlm2"}


def test_memory_settings(tmp_path: Path, make_config: Any):
    small = make_config(vision={"image_size": 64})  # 16 patches a side, 8x8 maps
    assert small.memory_config.grids == (8, 4, 2) and small.memory_config.capacities == (2, 2, 12)
    assert make_config(vision={"image_size": 64}, reverse_memory_sample_ratio=[4, 1]).memory_config.every == (4, 1)
    memory = MemoryConfig.pyramid(capacities=(1, 3), grids=(2, 1), every=(2, 1), cascade=True)
    config = make_config(memory=memory.to_dict(), system_message="Hello", note="untrained")
    assert config.memory_config == memory
    config.save_pretrained(tmp_path)
    again = VideoChatOnlineConfig.from_pretrained(tmp_path)
    assert (again.memory_config, again.system_message, again.note) == (memory, "Hello", "untrained")


def test_reading_leaves_what_was_given_alone():
    llm = {**PHI3_128K, "rope_scaling": {"type": "yarn", **FACTORS}}
    before = json.dumps(llm)
    VideoChatOnlineConfig(llm_config=llm)
    assert json.dumps(llm) == before


def test_auto_config_reads_our_type(tmp_path: Path):
    import videochat_online.model.videochat  # noqa: F401 (registers the type)

    (tmp_path / "config.json").write_text(json.dumps(published(QWEN3)), "utf-8")
    assert type(AutoConfig.from_pretrained(tmp_path)) is VideoChatOnlineConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"llm": {"model_type": "gpt9", "architectures": ["A"]}}, r"'gpt9', architectures 'A'\), expected one of phi3"),
        ({"llm": {"rope_scaling": {"type": "spiral"}}}, "unknown rope type 'spiral', expected one of default"),
        ({"llm": {"rope_scaling": {"type": "su", "short_factor": [1.0]}}}, "unknown rope type 'su'"),
        ({"llm": {"rope_scaling": {"type": "yarn"}}}, "rope type 'yarn' needs factor"),
        ({"ps_version": "v3"}, "ps_version must be v1 or v2, got 'v3'"),
        ({"select_layer": 3}, "select_layer 3 does not exist in an encoder of 2 layers"),
        ({"downsample_ratio": 0.3}, "give no whole grid"),
        ({"vision": {"norm_type": "batch_norm"}}, "norm_type must be layer_norm or rms_norm, got 'batch_norm'"),
        ({"vision": {"hidden_size": 15}}, "hidden_size must be a multiple of num_attention_heads, got 15 and 2"),
        ({"vision": {"image_size": 18}}, "image_size must be a multiple of patch_size, got 18 and 4"),
        ({"memory": MemoryConfig.pyramid(grids=(16, 8, 4)).to_dict()}, "do not fit an encoder that gives 2x2 maps"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be(make_config: Any, changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        make_config(**changes)


def test_longrope_needs_its_factors(make_config: Any):
    with pytest.raises(ValueError, match="rope type 'longrope' needs long_factor"):
        make_config("phi3", llm={"rope_scaling": {"type": "su", "short_factor": [1.0] * 4}})


def test_vision_defaults_are_internvit_300m():
    config = VisionConfig()
    assert (config.hidden_size, config.num_hidden_layers, config.image_size // config.patch_size) == (1024, 24, 32)
