"""The denoisers of Open-Sora Plan v1.3.0 and v1.2.0, text to video and inpainting: the upstream names of their parameters
and keys.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from mindsora.models.naming import NameTable, Shapes, count

_HEAD_DIM = 96  # released
_V1_2_CHANNELS = 4  # of the latents; v1.3's have 8
_SCALES = ("interpolation_scale_t", "interpolation_scale_h", "interpolation_scale_w")
_SYNONYMS = {"num_heads": "num_attention_heads", "head_dim": "attention_head_dim"}


def plain(config: Mapping) -> dict:
    """A configuration with the keys of upstream's config.json, from these or from MindSpeed-MM's for the same models."""
    config = {_SYNONYMS.get(key, key): value for key, value in config.items()}
    scales, patch = config.get("interpolation_scale"), config.get("patch_size")
    if isinstance(scales, (list, tuple)) and len(scales) == 3:
        del config["interpolation_scale"]
        config = dict(zip(_SCALES, scales)) | config
    if isinstance(patch, (list, tuple)) and len(patch) == 3 and patch[1] == patch[2]:
        config |= {"patch_size_t": patch[0], "patch_size": patch[1]}
    return config


def _infer(shapes: Shapes) -> tuple[dict, dict]:
    from mindsora.models.opensora.model import FIXED  # imported here: reading names needs no model

    dim, channels, patch, _ = shapes["pos_embed.proj.weight"]
    config = {
        "num_layers": count(shapes, r"transformer_blocks\.(\d+)\..*"),
        "in_channels": channels,
        "out_channels": shapes["proj_out.weight"][0] // patch**2,
        "patch_size": patch,
        "caption_channels": shapes["caption_projection.linear_1.weight"][1],
        "cross_attention_dim": dim,
    }
    if "pos_embed_mask.0.proj.weight" in shapes:
        config["vae_scale_factor_t"] = shapes["pos_embed_mask.0.proj.weight"][1]
    # The weights do not show where one head ends: take the largest legal heads up to the released size.
    head_dim = next((size for size in range(_HEAD_DIM, 0, -6) if dim % size == 0), None)
    if head_dim is None:
        raise ValueError(f"{dim} channels, which make no heads of a multiple of 6")
    assumed = FIXED | {"num_attention_heads": dim // head_dim, "attention_head_dim": head_dim}
    if channels != _V1_2_CHANNELS:
        return config, assumed | {"sparse_n": 4}  # upstream's own default is not the released value
    # The weights do not show that the models for 720p divide positions by 1, 1.5 and 2.
    return config, assumed | {"sparse_n": 1} | dict.fromkeys(_SCALES, 1.0)


def _named(shapes: Shapes, class_name: str, **assumed) -> tuple[dict, dict]:
    config, open_keys = _infer(shapes)
    return config | {"_class_name": class_name}, open_keys | assumed


def _t2v_class(config: Mapping) -> str:
    return "OpenSoraT2V" if config.get("sparse_n") == 1 else "OpenSoraT2V_v1_3"


_SIGNATURE = (
    "pos_embed.proj.weight",
    "adaln_single.linear.weight",
    "adaln_single.emb.timestep_embedder.linear_1.weight",
    "caption_projection.linear_1.weight",
    "transformer_blocks.0.scale_shift_table",
    "transformer_blocks.0.attn2.to_k.weight",
    "scale_shift_table",
    "proj_out.weight",
)
_MASK = "pos_embed_mask.0.proj.weight"

_RULES = (
    (r"patch_embed\.(\w+)", r"pos_embed.proj.\1"),
    (r"embed_masked_video\.patches\.(\w+)", r"pos_embed_masked_hidden_states.0.proj.\1"),
    (r"embed_masked_video\.merge\.(\w+)", r"pos_embed_masked_hidden_states.1.\1"),
    (r"embed_mask\.patches\.(\w+)", r"pos_embed_mask.0.proj.\1"),
    (r"embed_mask\.merge\.(\w+)", r"pos_embed_mask.1.\1"),
    (r"adaln_single\.(timestep_embedder\..*)", r"adaln_single.emb.\1"),
    (r"(.*\.attn[12]\.to_out)\.(\w+)", r"\1.0.\2"),
    (r"(.*\.ff)\.up\.(\w+)", r"\1.net.0.proj.\2"),
    (r"(.*\.ff)\.down\.(\w+)", r"\1.net.2.\2"),
)

T2V = NameTable(
    stem="diffusion_pytorch_model",
    signature=_SIGNATURE,
    infer=_infer,
    rules=_RULES,
    plain=plain,
    class_name=_t2v_class,
)
INPAINT = replace(
    T2V,
    signature=(*_SIGNATURE, "pos_embed_masked_hidden_states.1.weight", _MASK),
    infer=partial(_named, class_name="OpenSoraInpaint_v1_3", sparse_n=4),
)
INPAINT_V1_2 = replace(
    T2V,
    signature=(*_SIGNATURE, "pos_embed_masked_video.1.weight", _MASK),
    infer=partial(_named, class_name="OpenSoraInpaint", sparse_n=1),
    rules=(
        (r"embed_grey_video\.patches\.(\w+)", r"pos_embed_masked_video.0.proj.\1"),
        (r"embed_grey_video\.merge\.(\w+)", r"pos_embed_masked_video.1.\1"),
        *_RULES,
    ),
)
