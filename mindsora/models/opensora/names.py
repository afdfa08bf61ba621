"""The denoisers of Open-Sora Plan v1.3.0, text to video and inpainting: what their parameters are called upstream."""

from functools import partial

from mindsora.models.naming import NameTable, Shapes, count

_HEAD_DIM = 96  # released


def _infer(shapes: Shapes, class_name: str) -> tuple[dict, dict]:
    from mindsora.models.opensora.model import FIXED  # here: reading names needs no model

    dim, channels, patch, _ = shapes["pos_embed.proj.weight"]
    config = {
        "_class_name": class_name,
        "num_layers": count(shapes, r"transformer_blocks\.(\d+)\..*"),
        "in_channels": channels,
        "out_channels": shapes["proj_out.weight"][0] // patch**2,
        "patch_size": patch,
        "caption_channels": shapes["caption_projection.linear_1.weight"][1],
        "cross_attention_dim": dim,
    }
    if "pos_embed_mask.0.proj.weight" in shapes:
        config["vae_scale_factor_t"] = shapes["pos_embed_mask.0.proj.weight"][1]
    # Nothing in the weights shows where one head ends: the largest legal ones up to the released size.
    head_dim = next((size for size in range(_HEAD_DIM, 0, -6) if dim % size == 0), None)
    if head_dim is None:
        raise ValueError(f"{dim} channels, which make no heads of a multiple of 6")
    heads = {"num_attention_heads": dim // head_dim, "attention_head_dim": head_dim, "sparse_n": 4}
    return config, FIXED | heads  # upstream's own defaults are not the released values


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
_MASK = ("pos_embed_masked_hidden_states.1.weight", "pos_embed_mask.0.proj.weight")

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
    infer=partial(_infer, class_name="OpenSoraT2V_v1_3"),
    rules=_RULES,
)
INPAINT = NameTable(
    stem="diffusion_pytorch_model",
    signature=_SIGNATURE + _MASK,
    infer=partial(_infer, class_name="OpenSoraInpaint_v1_3"),
    rules=_RULES,
)
