"""Loading a model with everything it needs, and the processor's own promises."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from videochat_online import StreamingSession, load_model
from videochat_online.model import weights
from videochat_online.processing import load_tokenizer
from videochat_online.prompt.messages import Image, Message, get_template
from videochat_online.prompt.render import render


@pytest.fixture
def published_folder(golden, tmp_path):
    """A folder as checkpoints are published: the config does not name the id of <IMG_CONTEXT>."""
    source = golden / "model_phi3"
    config = json.loads((source / "config.json").read_text())
    assert "img_context_token_id" not in config
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").symlink_to(source / "weights.safetensors")
    for file in (golden / "tokenizers" / "phi3_fast").iterdir():
        (tmp_path / file.name).symlink_to(file)
    return tmp_path


def test_a_published_folder_answers(published_folder):
    model, processor = load_model(published_folder, device="cpu")
    assert model.config.img_context_token_id == processor.image_token_id == 813
    session = StreamingSession(model, processor)
    session.see(np.zeros((48, 48, 3), np.uint8), 0.0)
    assert isinstance(session.ask("What?", max_new_tokens=3), str)
    assert processor.transform.size == 64 and processor.template.name == "phi3-chat"


def test_what_we_save_loads_again(published_folder, tmp_path):
    model, processor = load_model(published_folder, device="cpu")
    model.save_pretrained(tmp_path / "copy")
    processor.save_pretrained(tmp_path / "copy")
    again, processor_again = load_model(tmp_path / "copy", device="cpu")
    for (name, one), (_, other) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(one, other), name
    text = "What is the person doing at 3.5s?"
    assert processor_again.tokenizer(text)["input_ids"] == processor.tokenizer(text)["input_ids"]


def test_a_system_message_in_the_config_is_used(published_folder):
    config = json.loads((published_folder / "config.json").read_text())
    (published_folder / "config.json").write_text(json.dumps({**config, "system_message": "Look."}))
    _, processor = load_model(published_folder, device="cpu")
    assert processor.template.system_message == "Look."


def test_internlm2_tokenizers_are_read_as_llamas(golden, tmp_path, monkeypatch):
    """Such checkpoints name a class of their own code, which is never run."""
    AutoTokenizer.from_pretrained(golden / "tokenizers" / "phi3_fast").save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings |= {
        "tokenizer_class": "InternLM2Tokenizer",
        "auto_map": {"AutoTokenizer": ["code.InternLM2Tokenizer", None]},
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    monkeypatch.setattr(weights, "snapshot_download", lambda name, **_: str(tmp_path))
    for name in (tmp_path, "OpenGVLab/InternVL2-8B"):  # a folder, and a hub id
        tokenizer = load_tokenizer(name)
        assert type(tokenizer).__name__.startswith("Llama")
        assert tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>") == 813


@pytest.mark.parametrize("kind", ["internlm2_dummy_prefix0", "internlm2_dummy_prefix1"])
def test_internlm2_gives_the_ids_of_the_published_class(kind: str, shared: Path, tmp_path: Path):
    """Recorded by the published code with two sentencepiece models, one of which writes a space before each text."""
    folder = shared / "golden/tokenizers" / kind
    recorded = json.loads((folder / "ref.json").read_text("utf-8"))
    tokenizer = load_tokenizer(folder)
    assert {text: tokenizer(text)["input_ids"] for text in recorded} == recorded
    # what is saved says the same
    tokenizer.save_pretrained(tmp_path)
    saved = AutoTokenizer.from_pretrained(tmp_path)
    assert {text: saved(text)["input_ids"] for text in recorded} == recorded
    # a prompt is rendered as it is tokenized, and answers are read back
    (prompt,) = [text for text in recorded if text.startswith("<|im_start|>system")]
    template = replace(get_template("internlm2-chat"), system_message="You are good.")
    messages = [Message("user", (Image(2), "\nWhat is this?"))]
    assert render(messages, template, tokenizer, generate=True).ids == recorded[prompt]
    assert tokenizer.decode(recorded["hello"], skip_special_tokens=True) == "hello"


def test_a_folder_without_tokenizer(published_folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (published_folder / name).unlink()
    with pytest.raises(ValueError, match=r"no tokenizer found in .* expected tokenizer\.json or tokenizer\.model"):
        load_model(published_folder, device="cpu")


@pytest.mark.parametrize("answer", ["A", " B", "<|end|>x", "a red circle", ""])
def test_an_answers_tokens_are_those_that_training_shows(published_folder, answer):
    _, processor = load_model(published_folder, device="cpu")
    ids = processor.answer_ids(answer)
    assert ids[-1:] == processor.end_token_ids[:1] and ids.count(ids[-1]) == 1
    words = "".join(processor.tokenizer.convert_ids_to_tokens(ids[:-1])).replace("▁", " ")
    assert words == answer.lstrip()  # the mark before it swallows spaces
    dialogue = [Message("user", ("Which?",)), Message("assistant", (answer,))]
    prompt = processor.render(dialogue[:1], generate=True).ids
    assert processor.render(dialogue).ids == prompt + ids
