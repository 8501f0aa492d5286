"""Packaging: what the program needs (ranges; requirements.txt has the tested pins), extras, the console script."""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
README = HERE / "README.md"
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "videochat_online/__init__.py").read_text("utf-8"), re.MULTILINE)
assert VERSION, 'videochat_online/__init__.py must hold a line __version__ = "..."'

BESIDE = ("anno_data", "shell/deepspeed")
"""Folders of json files beside the package, where users know them; videochat_online/files.py finds them."""

# Both ends of every range are run: shell/test_wheel.sh installs the newest and the oldest versions that stand here and
# tries the program with them. Where a package renames things in minor versions, the next minor version is the end.
CORE = [
    "torch>=2.13,<2.14",  # each other torch is a download of several GB with CUDA: none was run
    "transformers>=5.20.2,<5.25",  # the newest that Python 3.10 can install; since 5.24 a cache is called `cache`
    "tokenizers>=0.23.1,<0.24",
    "accelerate>=1.10,<1.16",
    "safetensors>=0.8,<0.9",
    "sentencepiece>=0.2,<0.3",
    "numpy>=2.0,<2.5",
    "pillow>=11.0,<13",  # gradio's end, too
    "av>=15.0,<16",
    "tqdm>=4.66,<5",
    "httpx>=0.28,<0.29",  # transformers brings it no longer: its hub client has gone on to httpx2
]
EXTRAS = {
    # DeepSpeed compiles its operators on first use; set DS_BUILD_OPS=0 so that installing it compiles nothing.
    "train": ["peft>=0.19,<0.22", 'deepspeed>=0.19,<0.20; platform_system == "Linux"', "tensorboard>=2.20,<2.22"],
    "quantize": ["bitsandbytes>=0.50,<0.51"],
    "demo": [
        "gradio>=6.31,<6.32",
        "fastapi>=0.140,<0.166",
        "uvicorn>=0.40,<0.55",
        "websockets>=15.0,<18",
        "prometheus-client>=0.21,<0.27",
    ],
    "eval": ["matplotlib>=3.10,<3.12"],
    "decord": ['decord>=0.6,<0.7; platform_system == "Linux" and platform_machine == "x86_64"'],
    "flash": ["flash-attn>=2.7,<3"],  # needs a GPU to build and to run: tried by nobody here
}
# The tests cover every part, so their environment has every part; a browser for the page's tests is Debian's chromium.
TOOLS = [
    "pytest==9.2.0",
    "pytest-xdist>=3.8,<3.9",
    "ruff==0.17.6",
    "mypy==2.4.1",
    "setuptools>=77,<85",
    "playwright>=1.65,<1.66",
    "hypothesis>=6.140,<7",
    "schemathesis>=4.30.1,<4.33",
]
EXTRAS["dev"] = [one for name in ("train", "quantize", "demo", "eval", "decord") for one in EXTRAS[name]] + TOOLS


class BuildWithFiles(build_py):
    """Puts the files of BESIDE into the package: an installed one has nothing beside it."""

    def get_source_files(self) -> list[str]:
        return [*super().get_source_files(), *(f"{folder}/{name}" for folder in BESIDE for name in self._names(folder))]

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for folder in BESIDE:
            target = Path(self.build_lib, "videochat_online", folder)
            self.mkpath(str(target))
            for name in self._names(folder):
                self.copy_file(str(HERE / folder / name), str(target / name))

    @staticmethod
    def _names(folder: str) -> list[str]:
        names = sorted(path.name for path in HERE.joinpath(folder).glob("*.json"))
        assert names, f"{folder} holds no json file: the wheel would lack it"
        return names


setup(
    name="videochat-online",
    version=VERSION.group(1),
    description="Train, evaluate and run multimodal models that watch a video stream and answer questions about it",
    long_description=README.read_text("utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=find_packages(include=["videochat_online", "videochat_online.*"]),
    package_data={"videochat_online": ["pocket/*", "serve/swagger/*", "demo/page.*", "lab/*.json"]},
    cmdclass={"build_py": BuildWithFiles},
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["videochat-online = videochat_online.cli:main"]},
)
