"""What is installed and what is public: requirements against setup.py, lazy names, the contents of the wheel."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import videochat_online

ROOT = Path(__file__).parent.parent
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
MACHINES = (("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "arm64"))


@pytest.fixture(scope="module")
def setup_arguments() -> dict[str, Any]:
    """What setup.py hands to setuptools."""
    arguments: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("setuptools.setup", arguments.update)
        runpy.run_path(str(ROOT / "setup.py"))
    return arguments


def pinned() -> list[Requirement]:
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    return [Requirement(line.partition("#")[0]) for line in lines if line.partition("#")[0].strip()]


def chosen(requirements: list[Requirement], python: str, machine: tuple[str, str]) -> dict[str, Requirement]:
    """The requirements whose markers hold there, by name; two for one name would contradict each other."""
    place = {"python_version": python, "platform_system": machine[0], "platform_machine": machine[1]}
    held = [one for one in requirements if one.marker is None or one.marker.evaluate(place)]
    names = [one.name for one in held]
    assert len(names) == len(set(names)), f"named twice for Python {python} on {machine}: {names}"
    return dict(zip(names, held, strict=True))


@pytest.mark.parametrize("machine", MACHINES, ids="-".join)
@pytest.mark.parametrize("python", PYTHONS)
def test_every_range_has_a_tested_pin(setup_arguments: dict[str, Any], python: str, machine: tuple[str, str]):
    ranges = chosen([Requirement(text) for text in setup_arguments["install_requires"]], python, machine)
    pins = chosen(pinned(), python, machine)
    assert pins.keys() == ranges.keys()
    for name, pin in pins.items():
        (exact,) = pin.specifier
        assert exact.operator == "==", f"{pin} is no exact pin"
        assert ranges[name].specifier.contains(exact.version), f"{pin} is outside of {ranges[name]}"


def test_every_range_has_two_ends(setup_arguments: dict[str, Any]):
    """A range that is open promises versions that nobody has run; shell/test_wheel.sh runs both ends."""
    plug_in = (ROOT / "lmms-eval-ovbench/pyproject.toml").read_text("utf-8")
    of_plug_in = re.findall(r'"(.+?)",', plug_in.partition("\ndependencies = [")[2].partition("\n]")[0])
    assert len(of_plug_in) > 5
    extras = setup_arguments["extras_require"].values()
    for text in [*setup_arguments["install_requires"], *chain(*extras), *of_plug_in]:
        operators = {one.operator for one in Requirement(text).specifier}
        assert operators in ({">=", "<"}, {"=="}), f"{text} must have a lower and an upper end"


def test_the_tests_run_with_the_pins():
    place = ("Linux", "x86_64") if sys.platform == "linux" else ("Darwin", "arm64")
    for name, pin in chosen(pinned(), "{}.{}".format(*sys.version_info[:2]), place).items():
        installed = Version(importlib.metadata.version(name))
        assert pin.specifier.contains(installed.public), f"{pin} is required, {installed} is installed"


def brought(texts: list[str]) -> set[str]:
    """Names of the packages that are installed with these, as they are installed here."""
    found: set[str] = set()
    open_ones = [Requirement(text) for text in texts]
    while open_ones:
        one = open_ones.pop()
        name = one.name.lower().replace("_", "-")
        if name in found or not (one.marker is None or one.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        try:
            open_ones += map(Requirement, importlib.metadata.requires(name) or [])
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def test_what_is_imported_is_required(setup_arguments: dict[str, Any]):
    """At the head of a file, where nothing says what is missing; a dependency may drop what it brought for years."""
    extras = {"serve": "demo", "demo": "demo", "lab": "dev"}
    bringers = importlib.metadata.packages_distributions()
    core = brought(setup_arguments["install_requires"])
    with_extra = {name: core | brought(setup_arguments["extras_require"][name]) for name in set(extras.values())}
    package = ROOT / "videochat_online"
    late = {package / "model" / "fused_pooling.py": "triton"}  # imported behind `require`; torch for CUDA brings it
    for path in package.rglob("*.py"):
        there = with_extra.get(extras.get(path.relative_to(package).parts[0], ""), core)
        for line in ast.parse(path.read_text("utf-8")).body:
            names = [one.name for one in line.names] if isinstance(line, ast.Import) else []
            names += [line.module or ""] if isinstance(line, ast.ImportFrom) and not line.level else []
            for name in {name.partition(".")[0] for name in names} - {*sys.stdlib_module_names, late.get(path)}:
                given = {one.lower().replace("_", "-") for one in bringers.get(name, ())}
                assert given & there, f"{path.relative_to(ROOT)} imports {name}, which nothing in setup.py brings"


def test_extras(setup_arguments: dict[str, Any]):
    extras = setup_arguments["extras_require"]
    assert set(extras) == {"train", "quantize", "demo", "eval", "decord", "flash", "dev"}
    everything = [*setup_arguments["install_requires"], *(text for texts in extras.values() for text in texts)]
    assert "torchvision" not in {Requirement(text).name for text in everything}
    tools = {one.name: str(one.specifier) for one in map(Requirement, extras["dev"])}
    assert all(tools[name].startswith("==") for name in ("pytest", "ruff", "mypy"))


def test_importing_the_package_is_free():
    """Nothing but the standard library: no torch, transformers, numpy or video library."""
    script = (
        "import sys; before = set(sys.modules); import videochat_online; print(videochat_online.__version__)\n"
        "extra = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(extra - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [videochat_online.__version__, "['videochat_online']"]


def test_the_public_names():
    """The contract other programs rely on; DESIGN names them, __all__ and dir() show them."""
    assert set(videochat_online.__all__) == {
        "MemoryConfig",
        "MemoryLevel",
        "Processor",
        "PyramidMemoryBank",
        "StreamingSession",
        "VideoChatOnline",
        "VideoChatOnlineConfig",
        "load_model",
        "open_video",
    }
    assert set(videochat_online.__all__) <= set(dir(videochat_online))


@pytest.mark.parametrize("name", videochat_online.__all__)
def test_a_public_name_is_what_it_says(name: str):
    assert getattr(videochat_online, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'load_modle'"):
        videochat_online.load_modle  # noqa: B018


def test_the_wheel_holds_what_its_commands_need(tmp_path: Path):
    """The package with the pocket model, and inside it the lists and settings that stand beside it in the source."""
    source = tmp_path / "source"
    for folder in ("videochat_online", "anno_data", "shell/deepspeed"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*build, "-w", str(tmp_path), str(source)], check=True, capture_output=True, text=True)
    (wheel,) = tmp_path.glob("videochat_online-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        commands = next(archive.read(name).decode() for name in held if name.endswith("entry_points.txt"))
    files = {str(path.relative_to(source)) for path in (source / "videochat_online").rglob("*") if path.is_file()}
    lists = {f"videochat_online/anno_data/{name}.json" for name in ("stage1_offline", "stage2_online")}
    zero = {f"videochat_online/shell/deepspeed/zero{stage}.json" for stage in (1, 2, 3)}
    assert files | lists | zero == {name for name in held if ".dist-info/" not in name}
    assert "videochat-online = videochat_online.cli:main" in commands
