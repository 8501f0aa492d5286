"""The end of stage 0: the connector says what it sees in words the language model knows.

    python -m videochat_online.lab.pocket.align MODEL OUTPUT    again, in the words of a trained model

The encoder can tell what is where (warm_up.py); here the connector learns to map it onto the sum of the word vectors of
what a token covers: colour, shape, action and region of each thing, on every grid of the memory. So the language
model begins with pictures it can read as words, and copying a word is all it has to learn first. Its word vectors are
drawn again to that end, at unit length, the same for reading and writing; a word with and without the space before
it begin alike. Knows nothing of questions.

Afterwards it is best left as it is: trained on with the language model, tokens of length 2 grew to length 90 within
some thousand steps, and no layer could add anything to them any more.

N frames, G side of a grid (4, 2, 1), D the language model's width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedTokenizerBase

from ...command_line import CommandParser
from ...files import locked
from ...model.videochat import VideoChatOnline
from ...processing import Processor, load_model
from ..shapeworld.crowd import sample_crowd
from ..shapeworld.labels import visible_things
from ..shapeworld.render import render_frames
from ..shapeworld.scenes import Scene
from ..shapeworld.simulate import MAX_SEED, sample_stream
from ..shapeworld.vocabulary import ACTION_NAMES, COLOUR_NAMES, REGION_NAMES, SHAPE_NAMES, region_at

SPACE = "\u0120"
"""How byte-level BPE writes the space before a word."""
ALIKE = 0.95
"""Cosine of a word's vectors with and without the space, about."""
STREAM_SECONDS, FRAMES_OF_STREAM, FRAMES_OF_CROWD = 30.0, 8, 2
EMPTY_WEIGHT = 0.15
SCENES_PER_SEED = 2**32
"""Numbers of scenes that belong to one seed of stage 0: the first half to the encoder, the second to the connector."""


def check_seed(seed: int) -> None:
    """Raises ValueError where sampling has no scenes for it."""
    if not 0 <= seed < MAX_SEED // SCENES_PER_SEED:
        raise ValueError(f"seed must be from 0 to {MAX_SEED // SCENES_PER_SEED - 1}, got {seed}")


def check_steps(steps: int) -> None:
    """Raises ValueError where there are none: what was not trained is not announced as a model."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")


@dataclass(frozen=True)
class AlignSettings:
    """All that decides the result, beside the code and the encoder."""

    scenes: int = 500
    steps: int = 1500
    batch_size: int = 128
    learning_rate: float = 2e-3
    seed: int = 0
    levels: tuple[int, ...] = (1, 1, 2, 2, 3, 3)

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_steps(self.steps)


def align(model: VideoChatOnline, processor: Processor, settings: AlignSettings, *, new_words: bool = True) -> None:
    """Change the connector of `model` in place and, with `new_words`, its word vectors; the encoder stays as it is.

    1. word vectors 2. frames with what is in each cell 3. the connector's norm to the features' scale 4. steps.
    """
    torch.manual_seed(settings.seed)
    if new_words:
        draw_word_vectors(model, processor.tokenizer)
    reading = model.get_input_embeddings()
    assert isinstance(reading, nn.Embedding), f"words: {reading}"
    vectors = reading.weight.detach()
    features, targets = examples(model, processor, Words.of(vectors, processor.tokenizer), settings)
    connector = model.mlp1
    fit_norm(connector, features)
    for layer in (connector[1], connector[3]):
        assert isinstance(layer, nn.Linear), f"the connector is norm, linear, GELU, linear; got {type(layer)}"
        nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    optimizer = torch.optim.AdamW(connector.parameters(), lr=settings.learning_rate, weight_decay=0.01)
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * min(1.0, (step + 1) / 100, max(0.02, 1 - step / settings.steps))
        rows = torch.randint(0, len(features), (settings.batch_size,))
        optimizer.zero_grad()
        distance(connector, features[rows], targets[rows]).backward()
        optimizer.step()


@torch.no_grad()
def draw_word_vectors(model: VideoChatOnline, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """New input and output vectors (vocabulary, D) for all words, of unit length; returned."""
    reading, writing = model.get_input_embeddings(), model.get_output_embeddings()
    assert isinstance(reading, nn.Embedding) and isinstance(writing, nn.Linear), f"words: {reading} and {writing}"
    vectors = torch.randn_like(reading.weight) * reading.embedding_dim**-0.5
    vocabulary = tokenizer.get_vocab()
    for word, id_ in sorted(vocabulary.items()):
        bare = vocabulary.get(word.removeprefix(SPACE)) if word.startswith(SPACE) else None
        if bare is not None:
            vectors[bare] = ALIKE * vectors[id_] + (1 - ALIKE**2) ** 0.5 * vectors[bare]
    reading.weight.copy_(vectors)
    writing.weight.copy_(vectors)
    return vectors


@dataclass(frozen=True)
class Words:
    """Vectors of the world's words, (number of names, D) each."""

    colours: torch.Tensor
    shapes: torch.Tensor
    actions: torch.Tensor
    regions: torch.Tensor

    @classmethod
    def of(cls, vectors: torch.Tensor, tokenizer: PreTrainedTokenizerBase) -> Words:
        vocabulary = tokenizer.get_vocab()
        kinds = (COLOUR_NAMES, SHAPE_NAMES, ACTION_NAMES, REGION_NAMES)
        return cls(*(torch.stack([vectors[vocabulary[SPACE + name]] for name in names]) for names in kinds))

    def of_frame(self, scene: Scene, time: float, grid: int) -> torch.Tensor:
        """(G, G, D): in each cell the sum over the things whose centre it holds."""
        found = torch.zeros(grid, grid, self.colours.shape[1])
        for thing in visible_things(scene, time):
            x, y = thing.position(time)
            row, column = (min(grid - 1, max(0, int(value * grid))) for value in (y, x))
            action = thing.at(time).action
            found[row, column] += self.colours[thing.colour(time)] + self.shapes[thing.shape]
            found[row, column] += self.regions[region_at(x, y)]
            found[row, column] += self.actions[action] if action >= 0 else 0
        return found


def examples(
    model: VideoChatOnline, processor: Processor, words: Words, settings: AlignSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps (N, C, G, G) of frames, and what their cells should say (N, G, G, D). Every fourth scene is a crowd."""
    maps, targets = [], []
    for number in range(settings.scenes):
        rng = np.random.default_rng([settings.seed, number])
        level = settings.levels[number % len(settings.levels)]
        if number % 4 == 3:
            scene, num_frames = sample_crowd(rng, level), FRAMES_OF_CROWD
        else:
            scene, num_frames = _stream(settings.seed, number, level), FRAMES_OF_STREAM
        times = rng.random(num_frames) * (scene.seconds - 0.1)
        with torch.no_grad():
            maps.append(
                model.encode_frames(processor.frames(list(render_frames(scene, times, model.config.image_size))))
            )
        targets += [words.of_frame(scene, float(time), model.config.grid) for time in times]
    return torch.cat(maps), torch.stack(targets)


def _stream(seed: int, number: int, level: int) -> Scene:
    return sample_stream(seed * SCENES_PER_SEED + SCENES_PER_SEED // 2 + number, "train", level, STREAM_SECONDS)


@torch.no_grad()
def fit_norm(connector: nn.Sequential, features: torch.Tensor) -> None:
    """Set the connector's layer norm so that each channel varies about 0 by 1: what never changes says nothing."""
    norm = connector[0]
    assert isinstance(norm, nn.LayerNorm), f"the connector begins with a layer norm, got {type(norm)}"
    rows = F.layer_norm(features.permute(0, 2, 3, 1).flatten(0, 2), norm.normalized_shape, eps=norm.eps)
    spread = rows.std(0).clamp(min=1e-3)
    norm.weight.copy_(1 / spread)
    norm.bias.copy_(-rows.mean(0) / spread)


def distance(connector: nn.Module, features: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Squared distance of tokens from what they should say, over all grids; empty cells count less."""
    total, grid = torch.zeros(()), features.shape[-1]
    while grid >= 1:
        step = features.shape[-1] // grid
        pooled = F.avg_pool2d(features, step).permute(0, 2, 3, 1)  # (N, grid, grid, C)
        words = targets.unflatten(1, (grid, step)).unflatten(3, (grid, step)).sum((2, 4))
        error = (connector(pooled) - words).pow(2).sum(-1)
        weight = torch.where(words.abs().sum(-1) > 0, 1.0, EMPTY_WEIGHT)
        total = total + (error * weight).sum() / weight.sum()
        grid //= 2
    return total


def main() -> None:
    parser = CommandParser(description="Teach the connector of a trained pocket model again; its words stay.")
    parser.add_argument("model", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seed", type=int, default=AlignSettings.seed)
    options = parser.parse_args()
    with locked(options.output):
        model, processor = load_model(options.model, device="cpu", dtype="float32")
        align(model, processor, AlignSettings(seed=options.seed), new_words=False)
        model.save_pretrained(options.output)
        processor.save_pretrained(options.output)


if __name__ == "__main__":
    main()
