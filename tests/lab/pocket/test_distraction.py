"""Training against distraction: lessons out of long streams, several questions behind one prompt."""

from __future__ import annotations

import torch

from videochat_online.lab.pocket import distraction
from videochat_online.lab.pocket.aged import Streams
from videochat_online.lab.pocket.distraction import Teacher, accuracy, choice_and_token_loss, fit_layers, option_scores
from videochat_online.processing import load_model


def test_several_questions_behind_one_prompt_score_as_each_alone(tmp_path):
    """As a session scores options; and a step lowers the loss, of the language model's layers alone."""
    model, processor = load_model("pocket")
    streams = Streams(60.0, 0.5, 5, 1, "train")
    lessons = list(Teacher(tmp_path, model, processor).of_stream(streams, 0, 1, only_pyramid=True))
    lesson = next(one for one in lessons if len(one.asked) > 1)
    together = [scores.tolist() for scores, _, _ in option_scores(model, lesson)]
    for (rest, options, right), scores in zip(lesson.asked, together, strict=True):
        assert 0 <= right < len(options)
        embeds = model.embed(torch.tensor([lesson.prompt + rest]), lesson.rows.float())
        for ids, score in zip(options, scores, strict=True):
            whole = torch.cat([embeds, model.embed_words(torch.tensor([ids[:-1]]))], 1)
            told = model(inputs_embeds=whole, logits_to_keep=len(ids)).logits[0].log_softmax(-1)
            alone = told[torch.arange(len(ids)), torch.tensor(ids)].sum()
            assert abs(float(alone) - score) < 1e-3
    before, words = float(choice_and_token_loss(model, lesson)), model.get_input_embeddings().weight.clone()
    fit_layers(model, [lesson], [lesson], steps=8, rate=1e-3)
    assert float(choice_and_token_loss(model, lesson)) < before
    assert torch.equal(words, model.get_input_embeddings().weight)
    assert set(accuracy(model, lessons)) == {"60 s"}


def test_what_is_shown_and_streams_that_are_kept(tmp_path, monkeypatch):
    """Each way of showing comes; frames of one's own have one question; a second run takes what the first kept."""
    monkeypatch.setattr(distraction, "GROUPS", ((30.0, 0.5, 2),))
    monkeypatch.setattr(distraction, "CHUNK", 2)
    monkeypatch.setattr(distraction, "SHOWN", {"pyramid": 0.4, "newest 16x1": 0.1, "uniform 19x1": 0.1, "perfect": 0.4})
    model, processor = load_model("pocket")
    teacher = Teacher(tmp_path, model, processor)
    lessons = teacher.lessons("train", 2)
    assert {"pyramid", "perfect"} <= {one.shown for one in lessons}
    assert all(len(one.asked) == 1 and len(one.rows) <= 8 for one in lessons if one.shown == "perfect")
    monkeypatch.setattr(teacher, "of_stream", None)
    again = teacher.lessons("train", 2)
    assert [one.prompt for one in again] == [one.prompt for one in lessons]
