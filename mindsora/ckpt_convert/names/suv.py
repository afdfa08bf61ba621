"""SUV (Open-Sora Plan v1.5.0): what its parameters are called upstream."""

from mindsora.ckpt_convert.names.table import NameTable

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
    """The six tensors above, where the Cell is built without them."""
    if cell.config.last_block_text:
        return frozenset()
    layers = cell.config.num_layers
    return frozenset(f"transformer_blocks.{len(layers) - 1}.{layers[-1] - 1}.{name}" for name in _LAST_BLOCK_TEXT)


TABLE = NameTable(
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
