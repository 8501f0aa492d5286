"""The table of docs/models.md: which published model runs on what, computed from its sizes; no weights, no network.

    python -m videochat_online.lab.model_table [--write docs/models.md]

real_models.json holds the sizes as published descriptions have them (config.json of each, as far as sizes go), and the
licence on its page. Speeds are on paper: the encoder's work over what a device is assumed to reach.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, NamedTuple

from ..command_line import CommandParser
from ..info import model_facts
from ..model.backbone import Facts
from ..model.backbones.families import FAMILIES
from ..model_config import VideoChatOnlineConfig

SOURCE = Path(__file__).with_name("real_models.json")
BEGIN, END = "<!-- table: python -m videochat_online.lab.model_table -->", "<!-- end of table -->"
PICTURES = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3}
"""Any settings: they do not change a size."""
ROOM = 1.15
"""Activations and what the driver holds, as a multiple of weights, memory and cache."""


class Machine(NamedTuple):
    """What a user has."""

    name: str
    gigabytes: float
    tflops: float
    """What the encoder is assumed to reach, about a third of what such a device promises."""
    weights: str
    """How weights are held there: a key of info's `bytes`."""


MACHINES = (
    Machine("laptop, CPU", 8, 0.2, "float32"),
    Machine("8 GB GPU", 8, 10, "bfloat16"),
    Machine("16 GB GPU", 16, 25, "bfloat16"),
    Machine("24 GB GPU", 24, 45, "bfloat16"),
    Machine("48 GB GPU", 48, 60, "bfloat16"),
    Machine("80 GB GPU", 80, 250, "bfloat16"),
)


def published() -> list[dict[str, Any]]:
    """The rows of real_models.json."""
    return list(json.loads(SOURCE.read_text("utf-8")))


def facts_of(config: dict[str, Any]) -> Facts:
    """What a published config.json says of a model, without its folder."""
    from transformers import AutoConfig

    values = copy.deepcopy(config)
    kind = values.pop("model_type")
    if kind not in FAMILIES:
        return VideoChatOnlineConfig(**values)
    return FAMILIES[kind].read_facts(AutoConfig.for_model(kind, **values), PICTURES)


def needs(facts: dict[str, Any], weights: str) -> float:
    """GB of weights, a full memory and its keys and values."""
    value = 4 if weights == "float32" else 2
    held = facts["memory_values"] + facts["memory_tokens"] * facts["kv_cache_values_per_token"]
    return ROOM * float(facts["bytes"][weights] + value * held) / 1e9


def rows() -> list[list[str]]:
    """One row a model, under the smallest machine that holds it: in bfloat16, and with --quantize nf4."""
    table = []
    for number, one in enumerate(published()):
        facts = model_facts(facts_of(one["config"]))
        fits = [each for each in MACHINES if needs(facts, each.weights) <= each.gigabytes]
        gpu = next((each for each in MACHINES[1:] if each in fits), None)
        small = next((each for each in MACHINES[1:] if needs(facts, "nf4") <= each.gigabytes), None)
        has = fits[0] if fits else MACHINES[-1]
        sizes = " / ".join(f"{facts['bytes'][kind] / 1e9:.1f}" for kind in ("float32", "bfloat16", "nf4"))
        speeds = [has] if has == MACHINES[-1] or gpu in (has, None) else [has, gpu]
        row = [
            has.name,
            f"`{one['id']}`",
            f"{facts['parameters']['total'] / 1e9:.2f} B",
            sizes,
            small.name.removesuffix(" GPU") if small else "-",
            f"{facts['vision']['grid'] ** 2} / {facts['memory_tokens']}",
            "; ".join(f"{each.name}: {each.tflops * 1e12 / facts['encoder_flops']:,.1f}" for each in speeds),
            one["licence"],
        ]
        table.append((MACHINES.index(has), facts["parameters"]["total"], number, row))
    return [row for *_, row in sorted(table)]


HEAD = (
    "you have", "model", "parameters", "GB in float32 / bfloat16 / nf4", "nf4 fits", "tokens a frame / in memory",
    "frames a second, on paper", "licence",
)  # fmt: skip


def table_text() -> str:
    lines = [HEAD, ["---"] * len(HEAD), *rows()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def put_into(page: str) -> str:
    """The page with a fresh table between its marks. Raises ValueError where it has none."""
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"the page needs one {BEGIN} and one {END}")
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{table_text()}\n{END}{rest.split(END)[1]}"


def main(arguments: list[str] | None = None) -> int:
    parser = CommandParser(prog="python -m videochat_online.lab.model_table", description=__doc__)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the marks of this page")
    parser.set_defaults(run=run_table)
    return parser.run(arguments)


def run_table(options: Any) -> int:
    if options.write is None:
        print(table_text())
    else:
        options.write.write_text(put_into(options.write.read_text("utf-8")), "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
