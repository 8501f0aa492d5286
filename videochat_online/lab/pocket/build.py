"""The small model that ships: its shape, random weights to begin training from, and trained ones to ship.

    python -m videochat_online.lab.pocket.build FOLDER [--seed N | --trained MODEL]

Same architecture as the 4B model (InternViT, connector, Phi3), small enough for two CPU cores. A 64 px frame gives
a 4x4 map, so the pyramid's grids are 4, 2, 1 and a full memory costs 52 tokens.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from ...command_line import CommandParser
from ...model_config import VideoChatOnlineConfig

HERE = Path(__file__).parents[2] / "pocket"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
KNOWS = (
    "the pocket model knows the coloured shapes of `videochat-online world` and nothing else; for real video: --model "
    "HuggingFaceTB/SmolVLM2-500M-Video-Instruct, or another of docs/models.md"
)
UNTRAINED = "the pocket model is untrained: its weights are random and its answers mean nothing"

VISION = {
    "image_size": 64,
    "patch_size": 8,
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
}
LANGUAGE = {
    "model_type": "phi3",
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}


def pocket_config(tokenizer_folder: Path = HERE, *, note: str | None = None) -> VideoChatOnlineConfig:
    """The config for the tokenizer in `tokenizer_folder`, whose ids it takes over."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return VideoChatOnlineConfig(
        vision_config=VISION,
        llm_config={**LANGUAGE, **ids, "vocab_size": len(tokenizer)},
        template="phi3-chat",
        dynamic_image_size=False,
        max_dynamic_patch=1,
        use_thumbnail=False,
        img_context_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        answer_mode="likelihood",  # letters were never learnt; see the model card
        note=note,
    )


def build(folder: Path, *, seed: int = 0, trained: Path | None = None) -> None:
    """Write a model folder with random weights, or with those of the folder `trained`."""
    import torch

    from ...model.videochat import VideoChatOnline

    torch.manual_seed(seed)
    model = VideoChatOnline(pocket_config(note=UNTRAINED if trained is None else KNOWS))
    if trained is not None:
        model.load_state_dict(VideoChatOnline.from_pretrained(trained, dtype=torch.float32).state_dict())
    model.save_pretrained(folder)
    for name in TOKENIZER_FILES:
        if (HERE / name) != (folder / name).resolve():
            shutil.copyfile(HERE / name, folder / name)


def main() -> None:
    parser = CommandParser(description="Write the pocket model.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="of random weights")
    parser.add_argument("--trained", type=Path, metavar="MODEL", help="take the weights of this folder")
    options = parser.parse_args()
    build(options.folder, seed=options.seed, trained=options.trained)


if __name__ == "__main__":
    main()
