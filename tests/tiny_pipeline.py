"""A model folder with every part of a real one, small random weights, and the tokenisers of the golden folder."""

import json
import shutil
from pathlib import Path

import mindspore as ms
from golden_file import FOLDER

from mindsora.ckpt_convert import save
from mindsora.models import SUV, CLIPTextModel, T5Encoder, WFVAE, WFVAEConfig
from mindsora.zoo import COMPONENTS

CONFIGS = {
    "transformer": (SUV, {
        "_class_name": "SparseUMMDiT", "num_layers": [2, 2, 2], "sparse_n": [1, 2, 1], "num_heads": 2, "head_dim": 16,
        "in_channels": 4, "out_channels": 4, "timestep_embed_dim": 32, "caption_channels": 24,
        "pooled_projection_dim": 20, "patch_size": 2,
    }),
    "vae": (WFVAE, WFVAEConfig(
        latent_dim=4, base_channels=8, encoder_num_resblocks=1, encoder_energy_flow_hidden_size=4,
        decoder_num_resblocks=1, decoder_energy_flow_hidden_size=4, t_interpolation="trilinear",
        connect_res_layer_num=1, temporal_stride=8, scale=(0.5, 1.0, 1.5, 2.0), shift=(0.1, 0.0, -0.1, 0.2),
    ).to_upstream()),
    "text_encoder": (T5Encoder, {
        "model_type": "t5", "vocab_size": 1100, "d_model": 24, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2,
        "feed_forward_proj": "gated-gelu",
    }),
    "text_encoder_2": (CLIPTextModel, {
        "vocab_size": 1714, "hidden_size": 16, "intermediate_size": 32, "projection_dim": 20, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 48, "hidden_act": "gelu", "eos_token_id": 1713,
    }),
}
INDEX = {
    "_class_name": "TextToVideoPipeline",
    **{component: ["mindsora", name] for component, name in COMPONENTS.items()},
    "template": "v1.5", "vae_stride": [8, 8, 8], "patch_size": 2,
    "max_frames": 17, "max_height": 64, "max_width": 64,
    "num_frames": 9, "height": 32, "width": 48,
    "num_inference_steps": 2, "guidance_scale": 3.0, "guidance_rescale": 0.7, "fps": 8,
    "max_text_lengths": [40, 48],
}


def write(folder: Path) -> Path:
    """Write the model folder and return it. The weights are the same in every run."""
    ms.set_seed(0)
    for component, (model, config) in CONFIGS.items():
        (folder / component).mkdir(parents=True)
        name = "model" if component.startswith("text") else "diffusion_pytorch_model"
        save(model.from_upstream(config), folder / component / f"{name}.safetensors")
        write_json(folder / component / "config.json", config)
    for component, source in (("tokenizer", "t5_tiny"), ("tokenizer_2", "clip_tiny")):
        shutil.copytree(FOLDER / "tokenizers" / source, folder / component)
    write_json(folder / "scheduler" / "scheduler_config.json", {"_class_name": "FlowMatchScheduler", "shift": 7.0})
    write_json(folder / "model_index.json", INDEX)
    return folder


def write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2))
