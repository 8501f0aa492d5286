"""The connector learns to say what it sees in the words of the language model."""

from __future__ import annotations

import torch

from videochat_online import load_model
from videochat_online.lab.pocket.align import (
    AlignSettings,
    Words,
    align,
    distance,
    draw_word_vectors,
    examples,
    fit_norm,
)
from videochat_online.lab.shapeworld.labels import visible_things
from videochat_online.lab.shapeworld.simulate import sample_stream
from videochat_online.lab.shapeworld.vocabulary import COLOUR_NAMES


def test_a_frame_in_words_is_the_sum_of_its_things():
    model, processor = load_model("pocket", device="cpu")
    vectors = draw_word_vectors(model, processor.tokenizer)
    words = Words.of(vectors, processor.tokenizer)
    scene, time = sample_stream(3, "train", 2, 20.0), 8.0
    fine, coarse = words.of_frame(scene, time, 4), words.of_frame(scene, time, 1)
    torch.testing.assert_close(fine.sum((0, 1)), coarse[0, 0])
    shown = {COLOUR_NAMES[thing.colour(time)] for thing in visible_things(scene, time)}
    said = (words.colours @ coarse[0, 0]).topk(len(shown)).indices.tolist()
    assert shown and {COLOUR_NAMES[place] for place in said} == shown


def test_words_begin_alike_with_and_without_the_space_and_for_reading_and_writing():
    model, processor = load_model("pocket", device="cpu")
    vectors = draw_word_vectors(model, processor.tokenizer)
    bare, spaced = (processor.tokenizer.convert_tokens_to_ids(word) for word in ("red", "\u0120red"))
    assert torch.cosine_similarity(vectors[bare], vectors[spaced], dim=0) > 0.8
    assert torch.equal(model.get_input_embeddings().weight, model.get_output_embeddings().weight)


def test_the_norm_leaves_each_channel_centred_and_of_one_size():
    model, _ = load_model("pocket", device="cpu")
    features = 5 + torch.randn(40, model.config.feature_size, 4, 4) * torch.rand(model.config.feature_size, 1, 1)
    fit_norm(model.mlp1, features)
    with torch.no_grad():
        rows = model.mlp1[0](features.permute(0, 2, 3, 1).flatten(0, 2))
    torch.testing.assert_close(rows.mean(0), torch.zeros_like(rows[0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(rows.std(0), torch.ones_like(rows[0]), atol=1e-2, rtol=0)


def test_what_is_said_comes_closer_to_what_is_there_and_the_encoder_stays():
    model, processor = load_model("pocket", device="cpu")
    encoder = {name: value.clone() for name, value in model.vision_model.state_dict().items()}
    found = []
    for steps in (1, 60):
        settings = AlignSettings(scenes=6, steps=steps, batch_size=16)
        align(model, processor, settings)
        words = Words.of(model.get_input_embeddings().weight.detach(), processor.tokenizer)
        with torch.no_grad():
            found.append(float(distance(model.mlp1, *examples(model, processor, words, settings))))
    assert found[1] < 0.8 * found[0]
    assert all(torch.equal(value, encoder[name]) for name, value in model.vision_model.state_dict().items())


def test_a_trained_models_words_stay_when_its_connector_is_taught_anew():
    model, processor = load_model("pocket", device="cpu")
    words = model.get_input_embeddings().weight.detach().clone()
    align(model, processor, AlignSettings(scenes=2, steps=2, batch_size=4), new_words=False)
    assert torch.equal(model.get_input_embeddings().weight, words)
