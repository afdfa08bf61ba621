"""WF-VAE: our Cell's names are upstream's except for the norms, which upstream wraps once more."""

import numpy as np

from mindsora.models.naming import NameTable, Shapes, count

# Kernel k of the 3-D transform has the sign (-1)^(t bt + y by + x bx), k = 4 bt + 2 by + bx.
_NAMES_3D = ("h", "g", "hh", "gh", "h_v", "g_v", "hh_v", "gh_v")
_NAMES_2D = ("aa", "ad", "da", "dd")  # signs alternate along: nothing, y, x, both
_SETTINGS = ("scale", "shift")  # of the latents: config.json's, and tensors of the wrapper for diffusion
_V1_5 = {  # of upstream's wrapper around the autoencoder, whose own config.json lacks them
    "scale": [
        0.7031, 0.7109, 1.5391, 1.2969, 0.7109, 1.4141, 1.3828, 2.1719, 1.7266, 1.8281, 1.9141, 1.2031,
        0.6875, 0.9609, 1.6484, 1.1875, 1.5312, 1.1328, 0.8828, 0.6836, 0.8828, 0.9219, 1.6953, 1.4453,
        1.5312, 0.6836, 0.7656, 0.8242, 1.2344, 1.0312, 1.7266, 0.9492,
    ],
    "shift": [
        -0.2129, 0.1226, 1.6328, 0.6211, -0.875, 0.6172, -0.5703, 0.1348, -0.2178, -0.9375, 0.3184, 0.3281,
        -0.0544, -0.1826, -0.2812, 0.4355, 0.1621, -0.2578, 0.7148, -0.7422, -0.2295, -0.2324, -1.4922,
        0.6328, 1.125, -0.2578, -2.1094, 1.0391, 1.1797, -1.2422, -0.2988, -0.957,
    ],
}  # fmt: skip


def _haar_kernels(cell) -> dict[str, np.ndarray]:
    """The fixed Haar kernels upstream keeps in its state dict; strict loading there needs them."""
    from mindsora.nn.haar import COEFFICIENT_2D, COEFFICIENT_3D  # imported here: reading names needs no MindSpore

    sign = np.array([[1, 1], [1, -1]], np.float32)
    bands = {
        name: (np.float32(COEFFICIENT_3D) * np.einsum("i,j,l->ijl", sign[k >> 2], sign[k >> 1 & 1], sign[k & 1]))[
            None, None
        ]
        for k, name in enumerate(_NAMES_3D)
    }
    flat = {
        name: (np.float32(COEFFICIENT_2D) * np.outer(sign[k & 1], sign[k >> 1]))[None, None]
        for k, name in enumerate(_NAMES_2D)
    }
    kernels = {}
    for level in ("in", "l1", "l2"):
        prefix = f"encoder.wavelet_transform_{level}."
        if level == "l1" and cell.config.temporal_stride == 4:
            kernels |= {prefix + name: kernel for name, kernel in flat.items()}
        else:
            kernels |= {f"{prefix}{name}_conv.conv.weight": kernel for name, kernel in bands.items()}
    for level in ("out", "l1", "l2"):
        own = flat if level == "l1" and cell.config.temporal_stride == 4 else bands
        kernels |= {f"decoder.inverse_wavelet_transform_{level}.{name}": kernel for name, kernel in own.items()}
    return {name: kernel.astype(np.float32) for name, kernel in kernels.items()}


def _infer(shapes: Shapes) -> tuple[dict, dict]:
    from mindsora.models.wfvae.model import BLOCKS_8  # imported here: reading names needs no model

    resblocks = count(shapes, r"decoder\.connect_l1\.(\d+)\.conv1\..*")
    last = shapes[f"decoder.connect_l1.{resblocks}.weight"]
    config = {
        "latent_dim": shapes["encoder.conv_out.conv.weight"][0] // 2,
        "base_channels": shapes["encoder.down1.0.weight"][0],
        "encoder_num_resblocks": count(shapes, r"encoder\.down1\.(\d+)\.conv1\..*"),
        "encoder_energy_flow_hidden_size": shapes["encoder.connect_l1.weight"][0],
        "decoder_num_resblocks": count(shapes, r"decoder\.up2\.(\d+)\.conv1\..*") - 1,
        "decoder_energy_flow_hidden_size": last[1],
        "connect_res_layer_num": resblocks,
        "use_attention": "encoder.mid.1.q.conv.weight" in shapes,
        "norm_type": "layernorm",  # of the signature's last name; a group norm is not wrapped
    }
    is_8 = shapes["encoder.connect_l1.weight"][1] == 24  # bands of a 3-D wavelet; 12 are a 2-D one's, of 4x8x8
    if is_8:
        config |= BLOCKS_8
    return config, {"t_interpolation": "trilinear"} | _standardisation(is_8 and config["latent_dim"] == 32)


def _standardisation(is_v1_5: bool) -> dict:
    """Scale and shift of the latents: those of v1.5, or upstream's defaults."""
    from mindsora.models.wfvae.model import WFVAEConfig  # here: as above

    if is_v1_5:
        return dict(_V1_5)
    return {key: list(getattr(WFVAEConfig, key)) for key in _SETTINGS}  # one value for all channels


TABLE = NameTable(
    stem="diffusion_pytorch_model",
    signature=(
        "encoder.down1.0.weight",
        "encoder.connect_l1.weight",
        "encoder.conv_out.conv.weight",
        "encoder.norm_out.norm.weight",
    ),
    infer=_infer,
    rules=((r"(.*\.norm\w*)\.(weight|bias)", r"\1.norm.\2"),),
    aliases=((r"(?:model|vae)\.(.*)", r"\1"),),  # wrapped for the diffusion model
    ignored=(r".*wavelet_tranform_.*",),  # (sic) Haar kernels of an early MindSpeed port
    settings=_SETTINGS,
    constants=_haar_kernels,
)
