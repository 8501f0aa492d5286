"""The network as a whole: pictures into the sequence, loss, generation, and what training does to it."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import cpu_offload
from transformers import AutoModel, AutoModelForCausalLM, DynamicCache

from videochat_online.media.transforms import FrameTransform
from videochat_online.model.memory_bank import average_pool
from videochat_online.model.videochat import CACHE_NAMES, VideoChatOnline

KINDS = ("phi3", "qwen2", "qwen3", "llama", "internlm2")
IMAGE_ID = 60


def prompt(*num_tokens: int) -> torch.Tensor:
    """(1, N) ids: a word, then for each picture its places and two words."""
    ids = [7]
    for number in num_tokens:
        ids += [IMAGE_ID] * number + [8, 9]
    return torch.tensor([ids])


def pictures(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("kind", KINDS)
def test_every_language_model_takes_pictures_and_learns(make_model: Any, kind: str):
    model = make_model(kind).train()
    ids = prompt(4, 1)
    output = model(input_ids=ids, labels=ids, pixel_values=pictures(2), image_grids=torch.tensor([2, 1]))
    assert output.logits.shape == (1, ids.shape[1], 64)
    output.loss.backward()
    for name, parameter in model.named_parameters():
        if "vision_model" in name or "mlp1" in name:
            assert parameter.grad is not None and bool(parameter.grad.abs().sum() > 0), name


@torch.no_grad()
def test_the_encoder_takes_bytes_as_it_takes_what_a_processor_makes_of_them(make_model: Any):
    model, frame = make_model(), np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    pixels = torch.from_numpy(frame).permute(2, 0, 1)[None]
    want = model.encode_frames(FrameTransform(16).batch([frame]))
    assert torch.equal(model.encode_frames(pixels), want)
    in_bf16 = model.to(torch.bfloat16)
    assert torch.equal(in_bf16.encode_frames(pixels), in_bf16.encode_frames(FrameTransform(16)(frame)[None]))


@torch.no_grad()
def test_frames_become_maps_and_maps_become_tokens(make_model: Any):
    model = make_model()
    maps = model.encode_frames(pictures(3))
    assert maps.shape == (3, 64, 2, 2)
    assert maps.permute(0, 2, 3, 1).is_contiguous()  # channels last, which pooling is fast on
    tokens = model.project(maps)
    assert tokens.shape == (12, 32)
    want = model.mlp1(maps[1].permute(1, 2, 0).reshape(4, 64))
    torch.testing.assert_close(tokens[4:8], want)
    mixed = model.project([maps[0], average_pool(maps[1], 1), maps[2]])
    torch.testing.assert_close(mixed[5:], tokens[8:])
    torch.testing.assert_close(model.encode_images(pictures(3), torch.tensor([2, 1, 2])), mixed)
    assert model.project([]).shape == (0, 32)


@torch.no_grad()
def test_pictures_of_other_sizes_give_maps_of_other_sizes(make_model: Any):
    assert make_model().encode_frames(torch.randn(1, 3, 24, 16)).shape == (1, 64, 3, 2)


@torch.no_grad()
def test_pixels_are_brought_to_the_encoders_dtype(make_model: Any):
    model = make_model().to(torch.bfloat16)
    assert model.project(model.encode_frames(pictures(1).double())).dtype == torch.bfloat16


@torch.no_grad()
def test_image_tokens_stand_at_their_places_in_order(make_model: Any):
    model, ids, tokens = make_model(), prompt(2, 3), torch.randn(5, 32)
    embeds = model.embed(ids, tokens)
    places = ids[0] == IMAGE_ID
    assert torch.equal(embeds[0, places], tokens)
    assert torch.equal(embeds[0, ~places], model.get_input_embeddings()(ids[0, ~places]))
    words = torch.tensor([[5, 6]])
    assert torch.equal(model.embed(words), model.get_input_embeddings()(words))
    assert torch.equal(model.embed(words, torch.zeros(0, 32)), model.embed(words))


@pytest.mark.parametrize("num_tokens", [3, 5, 0])
def test_more_or_fewer_tokens_than_places(make_model: Any, num_tokens: int):
    with pytest.raises(ValueError, match=rf"{num_tokens} image tokens for 4 <IMG_CONTEXT> positions"):
        make_model().embed(prompt(4), torch.zeros(num_tokens, 32) if num_tokens else None)


@pytest.mark.parametrize(("num_pictures", "num_tokens"), [(2, 8), (1, 4)])
def test_more_or_fewer_pictures_than_places(make_model: Any, num_pictures: int, num_tokens: int):
    with pytest.raises(ValueError, match=rf"{num_tokens} image tokens for 6 "):
        make_model()(input_ids=prompt(6), pixel_values=pictures(num_pictures))


def test_misuse_is_named(make_model: Any):
    model = make_model()
    with pytest.raises(ValueError, match="2 pictures came with 1 grids"):
        model(input_ids=prompt(8), pixel_values=pictures(2), image_grids=torch.tensor([2]))
    with pytest.raises(ValueError, match="cannot be pooled to a finer 3x3 grid"):
        model(input_ids=prompt(9), pixel_values=pictures(1), image_grids=torch.tensor([3]))
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        model()
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        model.generate(prompt(0), inputs_embeds=torch.zeros(1, 1, 32))
    with pytest.raises(ValueError, match="pixel_values need input_ids"):
        model(inputs_embeds=torch.zeros(1, 1, 32), pixel_values=pictures(1))
    with pytest.raises(ValueError, match="img_context_token_id is not set"):
        make_model(img_context_token_id=None).embed(prompt(4), torch.zeros(4, 32))


@torch.no_grad()
def test_loss_is_the_mean_over_the_next_tokens_that_count(make_model: Any):
    model, ids = make_model(), prompt(4)
    labels = torch.full_like(ids, -100)
    labels[0, [0, 5, 6]] = torch.tensor([3, 8, 9])  # the first has nothing before it and never counts
    output = model(input_ids=ids, labels=labels, pixel_values=pictures(1))
    want = F.cross_entropy(output.logits[0, [4, 5]], torch.tensor([8, 9]))
    torch.testing.assert_close(output.loss, want)
    logits = model(input_ids=ids, labels=ids, pixel_values=pictures(1)).logits
    want = F.cross_entropy(logits[0, :-1], ids[0, 1:])
    torch.testing.assert_close(model(input_ids=ids, labels=ids, pixel_values=pictures(1)).loss, want)


@torch.no_grad()
def test_the_mask_marks_padding_not_token_zero(make_model: Any):
    """Id 0 inside the text is a word, and hiding it is seen; padding behind the text changes nothing."""
    model = make_model(llm={"initializer_range": 0.3})
    text, hidden = torch.tensor([[5, 0, 6, 7]]), torch.tensor([[1, 0, 1, 1]])
    logits = model(input_ids=text).logits[0]
    assert not torch.allclose(logits[-1], model(input_ids=text, attention_mask=hidden).logits[0, -1])
    padded, mask = torch.tensor([[5, 0, 6, 7, 0, 0]]), torch.tensor([[1, 1, 1, 1, 0, 0]])
    got = model(input_ids=padded, attention_mask=mask).logits[0, :4]
    torch.testing.assert_close(got, logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["phi3", "qwen2"])
@torch.no_grad()
def test_packed_sequences_are_the_sequences_alone(make_model: Any, kind: str):
    """A block-diagonal 4D mask and restarting positions reach the language model untouched."""
    model = make_model(kind, llm={"initializer_range": 0.3})
    first, second = prompt(4), prompt(1, 4)
    split = first.shape[1]
    packed = torch.cat([first, second], dim=1)
    mask = torch.ones(packed.shape[1], packed.shape[1], dtype=torch.bool).tril()
    mask[split:, :split] = False
    positions = torch.cat([torch.arange(split), torch.arange(second.shape[1])])[None]
    got = model(
        input_ids=packed, attention_mask=mask[None, None], position_ids=positions, pixel_values=pictures(3),
        image_grids=torch.tensor([2, 1, 2]),
    ).logits[0]  # fmt: skip
    want_first = model(input_ids=first, pixel_values=pictures(3)[:1]).logits[0]
    want_second = model(input_ids=second, pixel_values=pictures(3)[1:], image_grids=torch.tensor([1, 2])).logits[0]
    torch.testing.assert_close(got, torch.cat([want_first, want_second]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_attention_implementations_agree(make_model: Any, kind: str):
    model, ids = make_model(kind, llm={"initializer_range": 0.1}), prompt(4, 4)
    want = model(input_ids=ids, pixel_values=pictures(2)).logits
    model.set_attn_implementation("eager")
    parts = (model, model.vision_model, model.language_model)
    assert [part.config._attn_implementation for part in parts] == ["eager"] * 3
    torch.testing.assert_close(model(input_ids=ids, pixel_values=pictures(2)).logits, want, rtol=1e-5, atol=1e-5)


def test_missing_flash_attention_names_the_install_command(make_config: Any):
    config = make_config()
    config._attn_implementation = "flash_attention_2"
    with pytest.raises(ImportError, match=r"pip install 'videochat-online\[flash\]'"):
        VideoChatOnline(config)


@torch.no_grad()
def test_generate_is_greedy_and_gives_new_ids_only(make_model: Any):
    model, ids = make_model(llm={"initializer_range": 0.3}), prompt(4)
    tokens = model.project(model.encode_frames(pictures(1)))
    new = model.generate(ids, image_tokens=tokens, max_new_tokens=6, eos_token_id=None)
    assert new.shape == (1, 6)
    embeds = model.embed(ids, tokens)
    assert torch.equal(model.generate(inputs_embeds=embeds, max_new_tokens=6, eos_token_id=None), new)
    for number in range(6):
        words = model.get_input_embeddings()(new[:, :number])
        logits = model(inputs_embeds=torch.cat([embeds, words], dim=1)).logits[0, -1]
        assert int(logits.argmax()) == int(new[0, number])
    stopped = model.generate(ids, image_tokens=tokens, max_new_tokens=6, eos_token_id=[int(new[0, 2])])
    assert stopped[0].tolist() == new[0, : new[0].tolist().index(int(new[0, 2])) + 1].tolist()


@torch.no_grad()
@pytest.mark.parametrize("name", CACHE_NAMES)  # transformers of any version knows one of them
def test_a_cache_with_the_start_of_the_prompt_changes_nothing(make_model: Any, name: str):
    model, ids = make_model(llm={"initializer_range": 0.3}), prompt(4, 4)
    embeds = model.embed(ids, model.project(model.encode_frames(pictures(2))))
    want = model.generate(inputs_embeds=embeds, max_new_tokens=5, eos_token_id=None)
    cache = {name: DynamicCache(config=model.config.llm_config)}
    model(inputs_embeds=embeds[:, :6], use_cache=True, **cache)
    assert cache[name].get_seq_length() == 6
    rest = model(inputs_embeds=embeds[:, 6:], use_cache=True, **cache).logits
    torch.testing.assert_close(rest, model(inputs_embeds=embeds).logits[:, 6:], rtol=1e-4, atol=1e-5)
    cache[name].crop(6 - embeds.shape[1])
    assert torch.equal(model.generate(inputs_embeds=embeds, max_new_tokens=5, eos_token_id=None, **cache), want)
    assert cache[name].get_seq_length() == embeds.shape[1] + 5 - 1


@torch.no_grad()
def test_no_argument_is_ignored_in_silence(make_model: Any):
    model, ids, cache = make_model(), prompt(0), DynamicCache()
    for call in (model, partial(model.generate, max_new_tokens=2, eos_token_id=None)):
        with pytest.raises(ValueError, match="cache and past_key_values are two names of one argument"):
            call(input_ids=ids, cache=cache, past_key_values=cache)
        with pytest.raises((TypeError, ValueError), match="past_keys"):
            call(input_ids=ids, past_keys=cache)
    with pytest.raises(TypeError, match="forward has no argument past_keys; it takes attention_mask, "):
        model(input_ids=ids, past_keys=cache)


@torch.no_grad()
def test_an_image_mark_the_model_writes_itself_is_a_word(make_model: Any):
    model = make_model()
    model.get_output_embeddings().weight.zero_()
    model.get_output_embeddings().weight[IMAGE_ID] = model.language_model.model.norm(
        model.language_model(inputs_embeds=model.embed(prompt(0)), output_hidden_states=True).hidden_states[-1][0, -1]
    )
    assert int(model.generate(prompt(0), max_new_tokens=3, eos_token_id=None)[0, 0]) == IMAGE_ID


def test_frozen_parts_stay_and_the_rest_still_learns(make_model: Any):
    model = make_model().train()
    model.vision_model.requires_grad_(False)
    model.language_model.requires_grad_(False)
    ids = prompt(4)
    model(input_ids=ids, labels=ids, pixel_values=pictures(1)).loss.backward()
    learning = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learning == {"mlp1"}


@pytest.mark.parametrize("kind", ["phi3", "qwen2"])
def test_gradient_checkpointing_reaches_both_parts(make_model: Any, checkpoint_gradients: Any, kind: str):
    model, ids = make_model(kind).train(), prompt(4)
    gradients = []
    for enable in (False, True):
        if enable:
            checkpoint_gradients(model)
            layers = (*model.vision_model.encoder.layers, *model.language_model.model.layers)
            assert all(layer.gradient_checkpointing for layer in layers)
        model.zero_grad()
        model(input_ids=ids, labels=ids, pixel_values=pictures(1), use_cache=False).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("tied", [False, True])
@torch.no_grad()
def test_the_vocabulary_grows_in_the_language_model(make_model: Any, tied: bool):
    model = make_model("qwen2", llm={"tie_word_embeddings": tied})
    old = model.get_input_embeddings().weight.clone()
    model.resize_token_embeddings(70)
    assert model.config.llm_config.vocab_size == 70 and model.language_model.vocab_size == 70
    assert torch.equal(model.get_input_embeddings().weight[:64], old)
    assert model(input_ids=torch.tensor([[69]])).logits.shape == (1, 1, 70)
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) is tied


def test_devices_split_between_layers_never_within(make_model: Any):
    model = make_model("qwen2")
    assert {"InternVisionLayer", "Qwen2DecoderLayer"} <= set(model._no_split_modules)


@torch.no_grad()
def test_offloaded_weights_are_fetched_where_they_are_needed(make_model: Any):
    model, ids = make_model("qwen2"), prompt(4)
    want = model(input_ids=ids, pixel_values=pictures(1)).logits
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert torch.equal(model(input_ids=ids, pixel_values=pictures(1)).logits, want)


def test_no_cache_is_built_while_training(make_model: Any):
    model, ids = make_model("qwen2"), prompt(0)
    assert model(input_ids=ids).past_key_values is not None
    assert model(input_ids=ids, labels=ids).past_key_values is None


def test_auto_classes_know_the_model(make_config: Any):
    for auto in (AutoModel, AutoModelForCausalLM):
        assert type(auto.from_config(make_config())) is VideoChatOnline


def test_registration_happens_with_this_model_and_not_before():
    """Other modules leave transformers' registries alone; this one adds itself."""
    code = (
        "from transformers import AutoConfig, CONFIG_MAPPING\n"
        "import videochat_online, videochat_online.model_config, videochat_online.model.memory_bank\n"
        "before = 'internvl_chat' in CONFIG_MAPPING\n"
        "import videochat_online.model.videochat\n"
        "print(before, 'internvl_chat' in CONFIG_MAPPING)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_whoever_takes_the_public_config_has_the_registration():
    code = (
        "import videochat_online\n"
        "from transformers import AutoConfig, AutoModel\n"
        "from videochat_online import VideoChatOnlineConfig\n"
        "folder = videochat_online.__path__[0] + '/pocket'\n"
        "print(type(AutoConfig.from_pretrained(folder)).__name__, type(AutoModel.from_pretrained(folder)).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["VideoChatOnlineConfig", "VideoChatOnline"]


def test_connector_has_the_published_shape(make_model: Any):
    shapes = {name: tuple(value.shape) for name, value in make_model().mlp1.state_dict().items()}
    assert shapes == {
        "0.weight": (64,), "0.bias": (64,), "1.weight": (32, 64), "1.bias": (32,), "3.weight": (32, 32), "3.bias": (32,)
    }  # fmt: skip
