"""Upstream's names of Toy's parameters."""

from mindsora.models.naming import NameTable, Shapes, count


def _infer(shapes: Shapes) -> tuple[dict, dict]:
    dim, channels, patch, _ = shapes["toy.patches.weight"]
    config = {
        "dim": dim,
        "num_layers": count(shapes, r"toy\.layers\.(\d+)\..*"),
        "in_channels": channels,
        "caption_channels": shapes["toy.text.weight"][1],
        "patch_size": patch,
    }
    return config, {}


TABLE = NameTable(
    stem="diffusion_pytorch_model",
    signature=("toy.patches.weight", "toy.text.weight", "toy.layers.0.to_qkv.weight"),
    infer=_infer,
    rules=((r"patch_embed\.(\w+)", r"toy.patches.\1"), (r"blocks\.(.*)", r"toy.layers.\1"), (r"(.*)", r"toy.\1")),
)
