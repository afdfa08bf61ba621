"""Tiny weights under the names and in the folders of the published files."""

import shutil
from pathlib import Path
from unittest.mock import patch

import tiny_pipeline
import torch
from safetensors.torch import load_file

PLAN, T5, MT5 = "LanguageBind/Open-Sora-Plan-", "google/t5-v1_1-xl", "google/mt5-xxl"
CLIP = "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k"


def publish_v1_5(root: Path) -> None:
    """Write v1.5's repositories as root/OWNER/NAME; its text encoders have PyTorch weights, as theirs have."""
    model, config = tiny_pipeline.CONFIGS["text_encoder_2"]
    with patch.dict(tiny_pipeline.CONFIGS, text_encoder_2=(model, config | {"max_position_embeddings": 77})):
        tiny = tiny_pipeline.write(root / ".tiny")
    published = root / (PLAN + "v1.5.0") / "MindSpeed"
    published.mkdir(parents=True)
    for part, name in (("transformer", "model_ema.pt"), ("vae", "wfvae_888_dim32.ckpt")):
        torch.save(load_file(tiny / part / "diffusion_pytorch_model.safetensors"), published / name)
    (published / "README.md").write_text("not needed")
    for part, tokenizer, name in (("text_encoder", "tokenizer", T5), ("text_encoder_2", "tokenizer_2", CLIP)):
        shutil.copytree(tiny / tokenizer, root / name)
        shutil.copy(tiny / part / "config.json", root / name)
        torch.save(load_file(tiny / part / "model.safetensors"), root / name / "pytorch_model.bin")
        (root / name / "tf_model.h5").write_text("not needed")
    (root / CLIP / "special_tokens_map.json").write_text('{"pad_token": "<|endoftext|>"}')
    shutil.rmtree(tiny)


def publish_v1_3(root: Path, tasks: list[str]) -> None:
    """Write v1.3's repositories likewise. tasks: "t2v", "i2v"."""
    folders = {"t2v": "any93x640x640", "i2v": "any93x640x640_i2v"}
    _publish_mt5(root, tiny_pipeline.write_v1_3, "v1.3.0", {task: folders[task] for task in tasks})


def publish_v1_2(root: Path, tasks: list[str]) -> None:
    """The same of v1.2."""
    folders = {"t2v": "93x720p", "i2v": "93x480p_i2v"}
    _publish_mt5(root, tiny_pipeline.write_v1_2, "v1.2.0", {task: folders[task] for task in tasks})


def _publish_mt5(root: Path, write, release: str, folders: dict[str, str]) -> None:
    for task, folder in folders.items():
        tiny = write(root / ".tiny", task)
        repository = root / (PLAN + release)
        shutil.copytree(tiny / "transformer", repository / folder)
        shutil.copytree(tiny / "vae", repository / "vae", dirs_exist_ok=True)
        shutil.copytree(tiny / "text_encoder", root / MT5, dirs_exist_ok=True)
        shutil.copy(tiny / "tokenizer" / "spiece.model", root / MT5)
        shutil.rmtree(tiny)
