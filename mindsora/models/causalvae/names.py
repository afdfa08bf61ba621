"""CausalVAE of Open-Sora Plan v1.1 and v1.2: our Cell's names are upstream's, except for layers that run over chunks."""

from mindsora.models.naming import NameTable, Shapes, count

# Upstream's defaults, for a checkpoint without weights that change the frame rate: interpolation in time has none.
_FIRST_KIND = {
    "encoder_attention": "AttnBlock3D",
    "encoder_temporal_downsample": ["", "TimeDownsample2x", "TimeDownsample2x", ""],
    "decoder_attention": "AttnBlock3D",
    "decoder_temporal_upsample": ["", "", "TimeUpsample2x", "TimeUpsample2x"],
}


def _infer(shapes: Shapes) -> tuple[dict, dict]:
    levels = range(count(shapes, r"encoder\.down\.(\d+)\..*"))
    conv_in = "encoder.conv_in.conv.weight" if "encoder.conv_in.conv.weight" in shapes else "encoder.conv_in.weight"
    hidden = shapes[conv_in][0]
    widths = [shapes[f"encoder.down.{i}.block.0.norm2.weight"][0] for i in levels]
    config = {
        "hidden_size": hidden,
        "hidden_size_mult": [width // hidden for width in widths],
        "z_channels": shapes["decoder.conv_in.conv.weight"][1],
        "embed_dim": shapes["post_quant_conv.conv.weight"][1],
        "num_res_blocks": count(shapes, r"encoder\.down\.0\.block\.(\d+)\..*"),
        "encoder_conv_in": "Conv2d" if conv_in == "encoder.conv_in.weight" else "CausalConv3d",
        "encoder_resnet_blocks": [_resnet(shapes, f"encoder.down.{i}") for i in levels],
        "encoder_spatial_downsample": [_downsample(shapes, f"encoder.down.{i}.downsample") for i in levels],
        "decoder_resnet_blocks": [_resnet(shapes, f"decoder.up.{i}") for i in levels],
        "decoder_spatial_upsample": [_upsample(shapes, f"decoder.up.{i}.upsample") for i in levels],
    }
    down = [f"encoder.down.{i}.time_downsample.mix_factor" in shapes for i in levels]
    up = [f"decoder.up.{i}.time_upsample.mix_factor" in shapes for i in levels]
    in_time = {
        "encoder_temporal_downsample": ["TimeDownsampleRes2x" if there else "" for there in down],
        "decoder_temporal_upsample": ["TimeUpsampleRes2x" if there else "" for there in up],
    }
    # The two forms of attention have the same weights.
    attention = {"encoder_attention": "AttnBlock3DFix", "decoder_attention": "AttnBlock3DFix"}
    if any(down + up):
        return config | in_time, attention
    if "Spatial2xTime2x3DDownsample" in config["encoder_spatial_downsample"]:
        return config, attention | in_time
    return config, _FIRST_KIND


def _resnet(shapes: Shapes, level: str) -> str:
    return "ResnetBlock3D" if f"{level}.block.0.conv1.conv.weight" in shapes else "ResnetBlock2D"


def _downsample(shapes: Shapes, name: str) -> str:
    if f"{name}.conv.weight" in shapes:
        return "Downsample"
    return _wrapped(shapes, name, "SpatialDownsample2x", "Spatial2xTime2x3DDownsample")


def _upsample(shapes: Shapes, name: str) -> str:
    return _wrapped(shapes, name, "SpatialUpsample2x", "Spatial2xTime2x3DUpsample")


def _wrapped(shapes: Shapes, name: str, flat: str, deep: str) -> str:
    """Which of two samplers a level has, judged by its kernel's length in time; "" if it has none."""
    if f"{name}.conv.conv.weight" not in shapes:
        return ""
    return flat if shapes[f"{name}.conv.conv.weight"][2] == 1 else deep


TABLE = NameTable(
    stem="diffusion_pytorch_model",
    signature=(
        "encoder.down.0.block.0.norm1.weight",
        "encoder.mid.attn_1.q.conv.weight",
        "decoder.conv_in.conv.weight",
        "decoder.up.0.block.0.norm1.weight",
        "post_quant_conv.conv.weight",
    ),
    infer=_infer,
    rules=((r"(.*)\.layer\.(.*)", r"\1.\2"),),
    aliases=((r"(?:model|vae)\.(.*)", r"\1"),),  # wrapped for the diffusion model
    ignored=(r"loss\..*",),  # discriminator and LPIPS of a training checkpoint
)
