"""WF-VAE: our Cell's names are upstream's but for the norms, which upstream wraps once more."""

import numpy as np

from mindsora.ckpt_convert.names.table import NameTable
from mindsora.nn.haar import COEFFICIENT_2D, COEFFICIENT_3D

# Kernel k of the 3-D transform has the sign (-1)^(t bt + y by + x bx), k = 4 bt + 2 by + bx.
_NAMES_3D = ("h", "g", "hh", "gh", "h_v", "g_v", "hh_v", "gh_v")
_NAMES_2D = ("aa", "ad", "da", "dd")  # signs alternate along: nothing, y, x, both


def _haar_kernels(cell) -> dict[str, np.ndarray]:
    """The fixed Haar kernels upstream keeps in its state dict; strict loading there needs them."""
    sign = np.array([[1, 1], [1, -1]], np.float32)
    bands = {
        name: (np.float32(COEFFICIENT_3D) * np.einsum("i,j,l->ijl", sign[k >> 2], sign[k >> 1 & 1], sign[k & 1]))[None, None]
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


TABLE = NameTable(
    rules=((r"(.*\.norm\w*)\.(weight|bias)", r"\1.norm.\2"),),
    constants=_haar_kernels,
)
