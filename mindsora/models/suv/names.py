"""SUV (Open-Sora Plan v1.5.0): the upstream names of its parameters."""

from collections import Counter

from mindsora.models.naming import NameTable, Shapes, indices

# The text half of the very last block, which tensor-parallel training creates although nothing reads its result.
_LAST_BLOCK_TEXT = (
    "attn1.to_add_out.weight",
    "attn1.to_add_out.bias",
    "norm2.norm_enc.weight",
    "norm2.norm_enc.bias",
    "ff_enc.net.0.proj.weight",
    "ff_enc.net.2.weight",
)


def _tolerated(cell) -> frozenset[str]:
    """The six tensors above, if the Cell is built without them."""
    if cell.config.last_block_text:
        return frozenset()
    layers = cell.config.num_layers
    return frozenset(f"transformer_blocks.{len(layers) - 1}.{layers[-1] - 1}.{name}" for name in _LAST_BLOCK_TEXT)


def _infer(shapes: Shapes) -> tuple[dict, dict]:
    blocks = Counter(int(stage) for stage, _ in indices(shapes, r"transformer_blocks\.(\d+)\.(\d+)\..*"))
    layers, stages = [blocks[stage] for stage in range(len(blocks))], len(blocks)
    dim, channels, patch, _ = shapes["patch_embed.proj.weight"]
    head_dim = shapes["transformer_blocks.0.0.attn1.norm_q.weight"][0]
    embed, pooled = shapes["time_text_embed.text_embedder.linear_1.weight"]
    config = {
        "num_layers": layers,
        "num_heads": dim // head_dim,
        "head_dim": head_dim,
        "patch_size": patch,
        "in_channels": channels,
        "out_channels": shapes["proj_out.weight"][0] // patch**2,
        "timestep_embed_dim": embed,
        "pooled_projection_dim": pooled,
        "caption_channels": shapes["caption_projection.weight"][1],
        "double_ff": "transformer_blocks.0.0.ff_enc.net.2.weight" in shapes,
    }
    if f"transformer_blocks.{stages - 1}.{layers[-1] - 1}.{_LAST_BLOCK_TEXT[0]}" in shapes:
        config["last_block_text"] = True
    if "skip_norm_linear.0.1.weight" not in shapes:  # the dense model
        config["skip_connection"] = False
        return config, {"sparse_n": [1] * stages}
    # Released: 1, 2, 4, 8, 4, 2, 1. The factor doubles towards the middle stage.
    return config, {"sparse_n": [2 ** min(stage, stages - 1 - stage) for stage in range(stages)]}


TABLE = NameTable(
    stem="diffusion_pytorch_model",
    signature=(
        "patch_embed.proj.weight",
        "proj_out.weight",
        "transformer_blocks.0.0.attn1.norm_q.weight",
        "time_text_embed.text_embedder.linear_1.weight",
        "caption_projection.weight",
    ),
    infer=_infer,
    rules=(
        (r"patch_embed\.(\w+)", r"patch_embed.proj.\1"),
        (r"(.*\.attn1\.to_out)\.(\w+)", r"\1.0.\2"),
        (r"(.*\.ff(?:_enc)?)\.up\.(\w+)", r"\1.net.0.proj.\2"),
        (r"(.*\.ff(?:_enc)?)\.down\.(\w+)", r"\1.net.2.\2"),
        (r"(skip_norm_linear(?:_enc)?\.\d+)\.(\w+)", r"\1.1.\2"),
    ),
    ignored=(r".*\._extra_state",),
    tolerated=_tolerated,
)
