"""Packaging: what the program needs (ranges; requirements.txt has the tested pins), extras, the console script."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
README = HERE / "README.md"
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "videochat_online/__init__.py").read_text("utf-8"), re.MULTILINE)
assert VERSION, 'videochat_online/__init__.py must hold a line __version__ = "..."'

CORE = [
    "torch>=2.6",
    "transformers>=5.20,<6",
    "tokenizers>=0.22",
    "accelerate>=1.10",
    "safetensors>=0.6",
    "sentencepiece>=0.2",
    "numpy>=2.0",
    "pillow>=11.0",
    'decord>=0.6.0; platform_system == "Linux" and platform_machine == "x86_64"',
    "av>=15.0,<16",
    "tqdm>=4.66",
]
EXTRAS = {
    # DeepSpeed compiles its operators on first use; set DS_BUILD_OPS=0 so that installing it compiles nothing.
    "train": ["peft>=0.21", 'deepspeed>=0.19; platform_system == "Linux"', "tensorboard>=2.21"],
    "demo": ["gradio>=6.31,<7", "fastapi", "uvicorn"],
    "eval": ["matplotlib>=3.10"],
    "live": ["av>=15.0,<16"],  # cameras and network streams go through PyAV, which the core already needs
    "flash": ["flash-attn>=2.7"],
}
# The tests cover every part, so their environment has every part; a browser for the page's tests is Debian's chromium.
TOOLS = ["pytest==9.2.0", "ruff==0.17.6", "mypy==2.4.1", "setuptools>=77", "playwright>=1.60", "schemathesis>=4.0"]
EXTRAS["dev"] = [*TOOLS, *EXTRAS["train"], *EXTRAS["demo"], *EXTRAS["eval"]]

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
    package_data={"videochat_online": ["pocket/*", "serve/swagger/*"]},
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["videochat-online = videochat_online.cli:main"]},
)
