"""Imports point down only and in no circle, a name is defined once, files say what they are, importing does nothing.

The layers are those that docs/architecture.md shows. Every import is read from the syntax tree: those inside functions,
those for type checkers and `import_module("...")` with a literal name count as well.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "videochat_online"

LAYERS: tuple[set[str], ...] = (
    {"config", "drawing", "extras", "files", "model_config", "pixels"},
    {"media", "prompt", "model"},
    {"processing", "command_line", "data", "streaming"},
    {"training", "evaluation", "chat", "info", "llm_export"},
    {"serve", "demo"},
    {"shapeworld", "pocket", "bench", "lab"},
    {"cli", "__main__", "gradio_demo", "lmms-eval-ovbench"},
)
LAYER = {unit: number for number, units in enumerate(LAYERS) for unit in units}
SAME_LAYER = {
    ("model_config", "config"),
    ("data", "processing"),
    ("streaming", "processing"),
    ("command_line", "processing"),
    ("pocket", "shapeworld"),  # the small model learns in the small world
    ("bench", "shapeworld"),  # and its samples are what training is measured on
    ("lab", "shapeworld"),  # a world to watch on the page
    ("demo", "serve"),  # the page stands on the server's sessions
    ("__main__", "cli"),
    ("gradio_demo", "cli"),
}
ONLY_BELOW = {"shapeworld": {"files", "media"}}  # what a unit may import, where that is less than all layers below
BY_NAME = {("cli", "lab"), ("serve", "lab")}
"""Who may reach the lab: by name (import_module), when it is asked for, and not with a plain import."""
FACADE = f"{PACKAGE} itself"  # the public names of videochat_online/__init__.py: for layer 4 and outside
IMPORTERS = ("import_module", "__import__")
NEVER = {"torchvision"}  # beside our torch it fails to import and takes transformers with it


def project_files(root: Path) -> list[Path]:
    """Python files of the package and of the programs that stand beside it."""
    files = [*root.glob("*.py"), *(root / PACKAGE).rglob("*.py"), *(root / "lmms-eval-ovbench").rglob("*.py")]
    return sorted(path.relative_to(root) for path in files)


def unit_of(path: Path) -> str:
    """Which box of the picture a file is in: media/readers.py -> media, cli.py -> cli, lab/bench/ask.py -> bench."""
    parts = path.with_suffix("").parts
    if parts[0] != PACKAGE:
        return parts[0]
    return parts[2] if parts[1] == "lab" and parts[2] in LAYER else parts[1]


def imported_modules(path: Path, tree: ast.AST, *, by_name: bool = True) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of everything a file imports, names of a `from` import included."""
    package = path.parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif by_name and isinstance(node, ast.Call) and ast.unparse(node.func).endswith(IMPORTERS):
            names = (name.value for name in node.args[:1] if isinstance(name, ast.Constant))
            yield from ((node.lineno, str(name)) for name in names)


def target_unit(module: str) -> str | None:
    """The box an absolute module name is in; None for other people's packages and for our version number."""
    parts = module.split(".")
    if parts[0] != PACKAGE:
        return parts[0] if parts[0] in LAYER else None
    if parts[1:] == ["__version__"]:
        return None
    if len(parts) == 1 or parts[1] not in LAYER:
        return FACADE
    return parts[2] if parts[1] == "lab" and len(parts) > 2 and parts[2] in LAYER else parts[1]


def is_allowed(unit: str, target: str) -> bool:
    if unit == target or (unit, target) in SAME_LAYER:
        return True
    if target == FACADE:
        return LAYER[unit] == len(LAYERS) - 1
    return LAYER[target] < LAYER[unit] and target in ONLY_BELOW.get(unit, LAYER)


def violations(root: Path) -> list[str]:
    """One line for each broken rule under `root`."""
    found = []
    for path in project_files(root):
        tree = ast.parse((root / path).read_text("utf-8"), str(path))
        unit = unit_of(path)
        if tree.body and not ast.get_docstring(tree):
            found.append(f"{path}: opens without a docstring that says what the file does")
        if unit not in LAYER and unit not in ("__init__", "setup"):
            found.append(f"{path}: {unit!r} has no place in LAYERS")
            continue
        plain = set(imported_modules(path, tree, by_name=False))
        for line, module in imported_modules(path, tree):
            target = target_unit(module)
            if (unit, target) in BY_NAME and (line, module) not in plain:
                continue
            if module.split(".")[0] in NEVER:
                found.append(f"{path}:{line}: imports {module}, which this project keeps out")
            elif unit in LAYER and target is not None and not is_allowed(unit, target):
                found.append(f"{path}:{line}: {unit} must not import {target} ({module})")
    return found


def test_the_project_keeps_its_layers():
    assert project_files(ROOT)
    assert violations(ROOT) == []


BAD = {
    "upwards": ("model/bank.py", "from ..streaming.session import X", "model must not import streaming"),
    "sideways": ("media/readers.py", "from ..prompt import messages", "media must not import prompt"),
    "siblings": ("data/dataset.py", "from videochat_online.streaming import session", "data must not import streaming"),
    "programs": ("training/run.py", "import videochat_online.evaluation.runner", "training must not import evaluation"),
    "in a function": ("model/bank.py", "def f():\n    from .. import cli", "model must not import cli"),
    "for types": ("config.py", "if TYPE_CHECKING:\n    from .model import bank", "config must not import model"),
    "the lab": ("serve/sources.py", "from ..lab import world_source", "serve must not import lab"),
    "by name": ("model/a.py", "m = import_module('videochat_online.data.x')", "model must not import data"),
    "facade": ("streaming/session.py", "from videochat_online import load_model", "streaming must not import"),
    "shapeworld": ("lab/shapeworld/build.py", "from ...model import videochat", "shapeworld must not import model"),
    "demo": ("media/live.py", "import gradio_demo", "media must not import gradio_demo"),
    "torchvision": ("media/transforms.py", "from torchvision import transforms", "keeps out"),
    "no place": ("utils.py", "import os", "'utils' has no place"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_module_is_found(name: str, tmp_path: Path):
    path, source, message = BAD[name]
    write_module(tmp_path, path, f'"""What it does."""\n{source}\n')
    assert len(found := violations(tmp_path)) == 1
    assert message in found[0]


def test_a_missing_docstring_is_found(tmp_path: Path):
    write_module(tmp_path, "media/readers.py", "import os\n")
    expected = "videochat_online/media/readers.py: opens without a docstring that says what the file does"
    assert violations(tmp_path) == [expected]


GOOD = {
    "media/readers.py": "import decord\nfrom . import sampling\nfrom .sampling import x",
    "streaming/session.py": "from ..processing import Processor\nfrom .. import __version__, config",
    "lab/shapeworld/build.py": "from ...media.readers import Frame",
    "evaluation/benchmarks/ovbench.py": "from ...streaming.session import S\nfrom ..types import T",
    "cli.py": "from . import load_model\nfrom .evaluation import runner",
    "serve/sources.py": "m = import_module('videochat_online.lab.world_source')",
    "media/__init__.py": None,
}


def test_good_modules_pass(tmp_path: Path):
    for path, source in GOOD.items():
        write_module(tmp_path, path, "" if source is None else f'"""What it does."""\n{source}\n')
    assert violations(tmp_path) == []


def write_module(root: Path, path: str, source: str) -> None:
    file = root / PACKAGE / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(source, "utf-8")


def import_graph(root: Path) -> dict[str, set[str]]:
    """Each file of the package -> the files it imports: inside functions, for type checkers and by name as well.

    The lab is left out where it may be reached by name: it stands on the product, and nothing is imported before it is
    asked for. `from . import x` counts for x alone where that is a file: its folder's __init__ says nothing more.
    """
    files = {module_name(path): path for path in project_files(root) if path.parts[0] == PACKAGE}
    graph: dict[str, set[str]] = {}
    for name, path in files.items():
        tree = ast.parse((root / path).read_text("utf-8"))
        graph[name], plain = set(), set(imported_modules(path, tree, by_name=False))
        for line, module in imported_modules(path, tree):
            if (unit_of(path), target_unit(module)) in BY_NAME and (line, module) not in plain:
                continue
            target = module if module in files else module.rpartition(".")[0]
            graph[name] |= {target} & files.keys() - {name}
    return graph


def module_name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def circles(graph: dict[str, set[str]]) -> list[tuple[str, ...]]:
    """Groups of files that import each other, over however many steps."""
    reached: dict[str, set[str]] = {}
    for name in graph:
        found, ahead = set(), set(graph[name])
        while ahead:
            found |= ahead
            ahead = {target for each in ahead for target in graph[each]} - found
        reached[name] = found
    groups = {tuple(sorted({name, *(o for o in reached[name] if name in reached[o])})) for name in graph}
    return sorted(group for group in groups if len(group) > 1)


def test_no_file_imports_itself_over_others():
    assert circles(import_graph(ROOT)) == []


CIRCULAR = {
    "a folder": {"data/a.py": "from .b import x", "data/b.py": "from .a import y"},
    "over three": {"data/a.py": "from . import b", "data/b.py": "from .c import z", "data/c.py": "from .a import y"},
    "for types": {"data/a.py": "from .b import x", "data/b.py": "if TYPE_CHECKING:\n    from .a import y"},
    "in a function": {"data/a.py": "from .b import x", "data/b.py": "def f():\n    from .a import y"},
    "by name": {"data/a.py": "from .b import x", "data/b.py": "m = import_module('videochat_online.data.a')"},
    "a package file": {"data/__init__.py": "from .a import y", "data/a.py": "from . import name"},
}


@pytest.mark.parametrize("name", CIRCULAR)
def test_a_circle_is_found(name: str, tmp_path: Path):
    for path, source in CIRCULAR[name].items():
        write_module(tmp_path, path, source)
    (group,) = circles(import_graph(tmp_path))
    assert len(group) == len(CIRCULAR[name])


def test_a_folder_without_circles_passes(tmp_path: Path):
    for path, source in {"data/a.py": "from . import b", "data/b.py": "import os", "data/__init__.py": ""}.items():
        write_module(tmp_path, path, source)
    assert circles(import_graph(tmp_path)) == []


CONVENTIONS = {"main": f"{PACKAGE}.", "measure": f"{PACKAGE}.lab.bench."}
"""Names that may stand in several files, and where: they mean one thing in all.

`main` starts a program of its own; `measure(options) -> Tables` is how `videochat-online bench` calls each comparison.
"""


def repeated_names(root: Path) -> dict[str, set[str]]:
    """Public top-level classes and functions that more than one file of the package defines, the lab's too."""
    places: dict[str, set[str]] = defaultdict(set)
    for path in project_files(root):
        module = module_name(path)
        if path.parts[0] == PACKAGE:
            for node in ast.parse((root / path).read_text("utf-8")).body:
                if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    agreed = node.name in CONVENTIONS and module.startswith(CONVENTIONS[node.name])
                    if not agreed and not node.name.startswith("_"):
                        places[node.name].add(module.removeprefix(f"{PACKAGE}."))
    return {name: files for name, files in places.items() if len(files) > 1}


def test_a_name_means_one_thing():
    assert repeated_names(ROOT) == {}


def test_a_repeated_name_is_found(tmp_path: Path):
    source = "class Turn: ...\ndef main(): ...\ndef measure(): ...\ndef _own(): ..."
    for path in ("data/a.py", "streaming/b.py", "lab/bench/c.py", "lab/bench/d.py"):
        write_module(tmp_path, path, source)
    assert repeated_names(tmp_path) == {
        "Turn": {"data.a", "streaming.b", "lab.bench.c", "lab.bench.d"},
        "measure": {"data.a", "streaming.b"},
    }
