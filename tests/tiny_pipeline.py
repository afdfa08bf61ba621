"""Model folders with every part of a real one, small random weights, and the tokenisers of the golden folder."""

import json
import shutil
from pathlib import Path

import mindspore as ms
from golden_file import FOLDER

from mindsora.ckpt_convert import save
from mindsora.models import (
    SUV,
    WFVAE,
    CausalVAE,
    CausalVAEConfig,
    CLIPTextModel,
    OpenSoraInpaint,
    OpenSoraInpaintV1_2,
    OpenSoraT2V,
    T5Encoder,
    WFVAEConfig,
    registry,
)  # fmt: skip
from mindsora.zoo import COMPONENTS

CONFIGS = {
    "transformer": (
        SUV,
        {
            "_class_name": "SparseUMMDiT",
            "num_layers": [2, 2, 2],
            "sparse_n": [1, 2, 1],
            "num_heads": 2,
            "head_dim": 16,
            "in_channels": 4,
            "out_channels": 4,
            "timestep_embed_dim": 32,
            "caption_channels": 24,
            "pooled_projection_dim": 20,
            "patch_size": 2,
        },
    ),
    "vae": (
        WFVAE,
        WFVAEConfig(
            latent_dim=4,
            base_channels=8,
            encoder_num_resblocks=1,
            encoder_energy_flow_hidden_size=4,
            decoder_num_resblocks=1,
            decoder_energy_flow_hidden_size=4,
            t_interpolation="trilinear",
            connect_res_layer_num=1,
            temporal_stride=8,
            scale=(0.5, 1.0, 1.5, 2.0),
            shift=(0.1, 0.0, -0.1, 0.2),
        ).to_upstream(),
    ),
    "text_encoder": (
        T5Encoder,
        {
            "model_type": "t5",
            "vocab_size": 1100,
            "d_model": 24,
            "d_kv": 8,
            "d_ff": 32,
            "num_layers": 2,
            "num_heads": 2,
            "feed_forward_proj": "gated-gelu",
        },
    ),
    "text_encoder_2": (
        CLIPTextModel,
        {
            "vocab_size": 1714,
            "hidden_size": 16,
            "intermediate_size": 32,
            "projection_dim": 20,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 48,
            "hidden_act": "gelu",
            "eos_token_id": 1713,
        },
    ),
}
INDEX = {
    "_class_name": "TextToVideoPipeline",
    **{component: ["mindsora", name] for component, name in registry.spec("SUV").components.items()},
    "template": "v1.5",
    "vae_stride": [8, 8, 8],
    "patch_size": 2,
    "max_frames": 17,
    "max_height": 64,
    "max_width": 64,
    "num_frames": 9,
    "height": 32,
    "width": 48,
    "num_inference_steps": 2,
    "guidance_scale": 3.0,
    "guidance_rescale": 0.7,
    "fps": 8,
    "max_text_lengths": [40, 48],
}
SCHEDULER = {"_class_name": "FlowMatchScheduler", "shift": 7.0}

DENOISER_V1_3 = {
    "num_layers": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "caption_channels": 24,
    "patch_size": 2,
    "sparse_n": 4,
    "cross_attention_dim": 24,
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "sparse1d": True,
}
WFVAE_4 = WFVAEConfig(
    latent_dim=4,
    base_channels=8,
    encoder_num_resblocks=1,
    encoder_energy_flow_hidden_size=4,
    decoder_num_resblocks=1,
    decoder_energy_flow_hidden_size=4,
    t_interpolation="trilinear",
    connect_res_layer_num=1,
    temporal_stride=4,
    scale=(0.5, 1.0, 1.5, 2.0),
    shift=(0.1, 0.0, -0.1, 0.2),
).to_upstream()
CAUSALVAE = CausalVAEConfig(hidden_size=32, hidden_size_mult=(1, 1, 1, 1), num_res_blocks=1).to_upstream()
TASKS = {
    "t2v": (OpenSoraT2V, DENOISER_V1_3 | {"_class_name": "OpenSoraT2V_v1_3"}),
    "i2v": (OpenSoraInpaint, DENOISER_V1_3 | {"_class_name": "OpenSoraInpaint_v1_3", "vae_scale_factor_t": 4}),
}


DENOISER_V1_2 = {key: value for key, value in DENOISER_V1_3.items() if key not in ("sparse_n", "sparse1d")} | {
    "interpolation_scale_t": 1.0,
    "interpolation_scale_h": 1.5,
    "interpolation_scale_w": 2.0,
    "norm_type": "ada_norm_single",
    "use_rope": True,
}
TASKS_V1_2 = {
    "t2v": (OpenSoraT2V, DENOISER_V1_2 | {"_class_name": "OpenSoraT2V"}),
    "i2v": (OpenSoraInpaintV1_2, DENOISER_V1_2 | {"_class_name": "OpenSoraInpaint", "vae_scale_factor_t": 4}),
}
SCHEDULERS_V1_2 = {
    "t2v": {"_class_name": "EpsilonScheduler"},
    "i2v": {"_class_name": "EpsilonScheduler", "timestep_spacing": "leading", "solver": "pndm"},
}


def write(folder: Path) -> Path:
    """Write a model folder of the v1.5 kind and return it. The weights are the same in every run."""
    return _write(folder, CONFIGS, {"tokenizer": "t5_tiny", "tokenizer_2": "clip_tiny"}, SCHEDULER, INDEX)


def write_v1_3(folder: Path, task: str, causal: bool = False) -> Path:
    """Write a folder of the v1.3 kind. task: "t2v" or "i2v"; causal: with a CausalVAE instead of a WF-VAE."""
    vae = (CausalVAE, CAUSALVAE) if causal else (WFVAE, WFVAE_4)
    scheduler = {"_class_name": "VPredictionScheduler", "snr_gamma": 5.0 if task == "t2v" else None}
    return _write_mt5(folder, TASKS[task], vae, scheduler, "v1.3")


def write_v1_2(folder: Path, task: str) -> Path:
    """Write a folder of the v1.2 kind. task: "t2v" or "i2v"."""
    return _write_mt5(folder, TASKS_V1_2[task], (CausalVAE, CAUSALVAE), SCHEDULERS_V1_2[task], "v1.2")


def _write_mt5(folder: Path, transformer: tuple, vae: tuple, scheduler: dict, template: str) -> Path:
    configs = {
        "transformer": transformer,
        "vae": vae,
        "text_encoder": (T5Encoder, CONFIGS["text_encoder"][1] | {"model_type": "mt5"}),
    }
    classes = {name: ["mindsora", cell.__name__] for name, (cell, _) in configs.items()}
    classes |= {"tokenizer": ["mindsora", "T5Tokenizer"], "scheduler": ["mindsora", scheduler["_class_name"]]}
    index = (
        {key: value for key, value in INDEX.items() if key not in COMPONENTS}
        | classes
        | {
            "template": template,
            "vae_stride": [4, 8, 8],
            "guidance_rescale": 0.0,
            "max_text_lengths": [40],
        }
    )
    return _write(folder, configs, {"tokenizer": "t5_tiny"}, scheduler, index)


def write_with(folder: Path, denoiser: type, config: dict) -> Path:
    """Write a folder with another denoiser and v1.5's other components except CLIP."""
    spec = registry.spec(denoiser.__name__)
    configs = {name: CONFIGS[name] for name in ("vae", "text_encoder")} | {"transformer": (denoiser, config)}
    index = {key: value for key, value in INDEX.items() if key not in COMPONENTS} | {"max_text_lengths": [40]}
    index |= {name: ["mindsora", kind] for name, kind in spec.components.items()}
    return _write(folder, configs, {"tokenizer": "t5_tiny"}, SCHEDULER, index)


def _write(folder: Path, configs: dict, tokenizers: dict[str, str], scheduler: dict, index: dict) -> Path:
    ms.set_seed(0)
    for component, (model, config) in configs.items():
        (folder / component).mkdir(parents=True)
        name = "model" if component.startswith("text") else "diffusion_pytorch_model"
        cell = model.from_upstream(config)
        for parameter in cell.get_parameters():  # zero-initialised parameters would hide given frames
            if parameter.name.endswith(".merge.weight"):
                parameter.set_data(ms.Tensor(0.3 * ms.ops.standard_normal(parameter.shape, seed=1).asnumpy()))
        save(cell, folder / component / f"{name}.safetensors")
        write_json(folder / component / "config.json", config)
    for component, source in tokenizers.items():
        shutil.copytree(FOLDER / "tokenizers" / source, folder / component)
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    write_json(folder / "model_index.json", index)
    return folder


def write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2))
