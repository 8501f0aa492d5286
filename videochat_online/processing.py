"""What goes into a model and what comes out: frames to pixels, dialogues to ids, ids to text; and `load_model`.

The one place where pictures, words and model settings meet; streaming/ and data/ both stand on it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from .config import stream_grid
from .files import write_json
from .media.picture import rgb_array
from .media.transforms import FrameTransform, Picture, Size
from .model.backbone import Facts
from .model.weights import HUB_OPTIONS, NO_WEIGHTS, find_folder, load_pretrained
from .model_config import VideoChatOnlineConfig
from .prompt.messages import Message, Template, get_template, lay_out
from .prompt.render import Rendered, end_token_ids, render

log = logging.getLogger(__name__)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
BESIDE = (
    "processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json", "generation_config.json",
    "chat_template.json",
)  # fmt: skip
"""Files that `Processor.files` holds."""
SPACE = "\u2581"
"""How sentencepiece writes a space."""


@dataclass(frozen=True)
class Processor:
    """Everything beside the weights that a model's numbers depend on. Holds no state of any stream."""

    tokenizer: PreTrainedTokenizerBase
    template: Template
    transform: FrameTransform
    files: Mapping[str, str] = field(default_factory=dict)
    """Texts of a checkpoint of another family that stand beside its config.json, and which a model trained from it
    needs as well: how pictures are prepared, and what others' programs read."""

    def frames(self, frames: Sequence[Picture], size: Size | None = None) -> torch.Tensor:
        """PIL images or uint8 arrays (H, W, 3) -> pixel values float32, squares (T, 3, S, S) unless a size is given."""
        return self.transform.batch(frames, size)

    @staticmethod
    def picture_size(frame: Picture, facts: Facts) -> Size | None:
        """Height and width of all pictures of a stream whose first is `frame`; None: the encoder's own squares."""
        if not facts.any_shape:
            return None
        height, width = rgb_array(frame).shape[:2]
        pixels = facts.image_size // facts.grid  # of a token's side
        rows, columns = stream_grid(height, width, facts.grid)
        return rows * pixels, columns * pixels

    def render(self, messages: Sequence[Message], *, generate: bool = False) -> Rendered:
        """A dialogue as token ids, loss mask and image places; `generate` opens the assistant's next turn."""
        return render(messages, self.template, self.tokenizer, generate=generate)

    def answer_ids(self, text: str) -> list[int]:
        """The tokens of a whole answer as training shows it: its words, whatever they look like, and the end mark."""
        rendered = self.render([Message("user", ("?",)), Message("assistant", (text,))])
        return [id_ for id_, spoken in zip(rendered.ids, rendered.loss_mask, strict=True) if spoken]

    @property
    def end_token_ids(self) -> list[int]:
        """Ids that end an answer."""
        return end_token_ids(self.template, self.tokenizer)

    @property
    def image_token_id(self) -> int:
        """Id of the mark that stands for one visual token."""
        return int(self.tokenizer.convert_tokens_to_ids(self.template.image))  # type: ignore[arg-type]

    def decode(self, ids: Sequence[int]) -> str:
        """Token ids -> text, without marks."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    @classmethod
    def from_pretrained(cls, name: str | Path, config: Facts, **hub: Any) -> Processor:
        """The processor of a model folder or hub id; pictures, template and system message come from `config`."""
        template = get_template(config.template)
        if config.system_message is not None:
            template = replace(template, system_message=config.system_message)
        tokenizer = load_tokenizer(name, **hub)
        check_vocabulary(tokenizer, config, str(name))
        files = {}
        if not isinstance(config, VideoChatOnlineConfig):
            compare_with_chat_template(tokenizer, template)
            folder = find_folder(name, NO_WEIGHTS, hub)
            files = {one: (folder / one).read_text("utf-8") for one in BESIDE if (folder / one).is_file()}
        return cls(tokenizer, template, FrameTransform(**config.picture), files)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the tokenizer and `files`; everything else stands in the model's config.json."""
        save_tokenizer(self.tokenizer, Path(folder))
        for name, text in self.files.items():
            (Path(folder) / name).write_text(text, "utf-8")


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a fast tokenizer so that older programs read it too, down to transformers 4.37 with tokenizers 0.15.

    They know its class by another name, and merges as "a b", which stands for the pair as long as no token has a space.
    """
    tokenizer.save_pretrained(folder)
    settings, file = folder / "tokenizer_config.json", folder / "tokenizer.json"
    values = json.loads(settings.read_text("utf-8"))
    if values.get("tokenizer_class") == "TokenizersBackend":
        new = {"backend", "is_local", "local_files_only"}
        values = {key: value for key, value in values.items() if key not in new}
        values |= {"tokenizer_class": "PreTrainedTokenizerFast"}
        write_json(settings, values)
    if file.is_file():
        whole = json.loads(file.read_text("utf-8"))
        merges = whole["model"].get("merges") or []
        if merges and not any(isinstance(pair, str) or " " in "".join(pair) for pair in merges):
            whole["model"]["merges"] = [" ".join(pair) for pair in merges]
            write_json(file, whole)


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, config: Facts, name: str) -> None:
    """Raise ValueError where the tokenizer gives ids for which the model has no embedding."""
    rows = config.llm_config.vocab_size
    if beyond := sorted((id_, token) for token, id_ in tokenizer.get_vocab().items() if id_ >= rows):
        id_, token = beyond[0]
        raise ValueError(
            f"{name}: the model has embeddings for {rows:,} tokens, and the tokenizer has {len(beyond):,} beyond them "
            f"(the first is {token!r}, id {id_}): take the tokenizer that the model was trained with"
        )


def compare_with_chat_template(tokenizer: PreTrainedTokenizerBase, template: Template) -> None:
    """Warn where the chat template that came with a tokenizer writes a dialogue in another way than ours does."""
    from jinja2 import TemplateError

    turns = (("user", "Where?"), ("assistant", "There."), ("user", "Why?"))
    messages: Any = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
    try:
        theirs = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except (TemplateError, TypeError, ValueError):  # none there, or one that takes no lists of parts
        return
    pieces = lay_out([Message(role, (text,)) for role, text in turns], template, generate=True)  # type: ignore[arg-type]
    ours = "".join(piece.text for piece in pieces)
    if theirs != ours:
        log.warning("the checkpoint's chat template writes %r, template %s writes %r", theirs, template.name, ours)


def load_tokenizer(name: str | Path, **hub: Any) -> PreTrainedTokenizerBase:
    """The fast tokenizer of a folder or hub id.

    InternLM2 checkpoints name a tokenizer class of their own code, which is not run: see `as_internlm2`.
    Raises ValueError where there is none.
    """
    from transformers import AutoTokenizer, LlamaTokenizer

    folder = find_folder(name, NO_WEIGHTS, hub)
    try:
        settings = folder / "tokenizer_config.json"
        own_class = json.loads(settings.read_text()).get("tokenizer_class", "") if settings.is_file() else ""
        if own_class.startswith("InternLM2"):
            tokenizer = LlamaTokenizer.from_pretrained(folder)
            model_file = folder / "tokenizer.model"
            return as_internlm2(tokenizer, model_file) if model_file.is_file() else tokenizer
        if not any((folder / name).is_file() for name in TOKENIZER_FILES):  # transformers would make an empty one
            raise ValueError("none of them is there")
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        why = " ".join(str(error).split())
        raise ValueError(f"no tokenizer found in {name}: expected tokenizer.json or tokenizer.model ({why})") from error


def as_internlm2(tokenizer: PreTrainedTokenizerBase, model_file: Path) -> PreTrainedTokenizerBase:
    """A Llama tokenizer of InternLM2's sentencepiece model, made to give the ids of the published class.

    That class puts <s> first, though its settings do not say so, and gives each text between special tokens to
    sentencepiece by itself, which writes a space before it only where the model was trained with one.
    """
    from sentencepiece import SentencePieceProcessor
    from tokenizers import decoders, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = SentencePieceProcessor(model_file=str(model_file)).encode("a", out_type=str)
    has_prefix = pieces[0].startswith(SPACE)
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = None
    prefix = [normalizers.Prepend(SPACE)] if has_prefix else []
    backend.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", SPACE)])
    first = [decoders.Strip(" ", 1, 0)] if has_prefix else []
    parts = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *first]
    backend.decoder = decoders.Sequence(parts)
    start = str(tokenizer.bos_token)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{start} $A", pair=f"{start} $A {start} $B", special_tokens=[(start, tokenizer.bos_token_id)]
    )
    # Not the Llama class: it would make its own spaces when it is saved and read again.
    names = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=tokenizer.model_max_length, **names)


def load_model(
    name: str | Path,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    attn_implementation: str = "auto",
    **options: Any,
) -> tuple[Any, Processor]:
    """Load a model and its processor, ready to answer. The model is a `VideoChatOnline`, or for the other families of
    docs/models.md another `Backbone`.

    Args:
        name: "pocket" (ships with the package), a folder, or a hub id such as "MCG-NJU/VideoChatOnline-4B".
        device: "auto" takes CUDA where there is one, else MPS, else the CPU.
        dtype: "auto" takes the checkpoint's own on CUDA and float32 on the CPU; or "float32", "bfloat16", "float16".
        attn_implementation: "auto" (torch's SDPA), "sdpa", "eager" or "flash_attention_2".
        options: passed on: `adapter`, a folder or hub id with a PEFT adapter for the model (`name` may be one itself:
            it names its model); `quantize`, "int8" or "nf4", or transformers' `quantization_config`; `device_map`,
            `allow_pickle`, `read`, `engine`, and for the hub `revision`, `token`, `cache_dir`, `local_files_only`,
            `force_download`.

    Raises ValueError for an unknown name or a checkpoint that does not fit, saying what was tried.
    """
    model = load_pretrained(name, device=device, dtype=dtype, attn_implementation=attn_implementation, **options)
    hub = {key: options[key] for key in HUB_OPTIONS if key in options}
    processor = Processor.from_pretrained(name, model.config, **hub)
    if isinstance(model.config, VideoChatOnlineConfig) and model.config.img_context_token_id is None:
        model.config.img_context_token_id = processor.image_token_id  # published configs leave it to the tokenizer
    return model, processor
