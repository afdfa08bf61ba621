"""The dtype of each parameter of a model."""

import re

import mindspore as ms
from mindspore import nn


def set_precision(cell: nn.Cell, dtype) -> nn.Cell:
    """Set the dtype of every parameter of a model that runs in `dtype`, before or after values are loaded.

    A Cell class names the parameters that stay float32 by regular expressions over full parameter names:
    `keep_in_fp32` for every dtype, `keep_in_fp32_under_fp16` for parameters that only the range of float16 breaks.

    Args:
        cell: the model; one built under `mindspore.nn.utils.no_init_parameters()` allocates nothing here.
        dtype: ms.float32, ms.float16 or ms.bfloat16.

    Returns:
        The same Cell.
    """
    kept = getattr(cell, "keep_in_fp32", ())
    if dtype == ms.float16:
        kept += getattr(cell, "keep_in_fp32_under_fp16", ())
    for name, parameter in cell.parameters_and_names():  # names in `cell`, which may be a part of another Cell
        stays = any(re.fullmatch(pattern, name) for pattern in kept)
        parameter.set_dtype(ms.float32 if stays else dtype)
    return cell
