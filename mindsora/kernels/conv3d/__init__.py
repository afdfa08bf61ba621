"""Convolution of channels-last clips, causal in time. See README.md."""

import mindspore as ms
from mindspore import Tensor, ops

from mindsora.errors import InputError
from mindsora.kernels.choice import choose
from mindsora.kernels.conv3d import ascend, cpu, reference
from mindsora.kernels.placeholder import nothing


def conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    head: Tensor | None = None,
    *,
    stride: tuple[int, int, int],
    before: int,
    after: int,
    front: int,
) -> Tensor:
    """Convolution of clips, padded with zeros in space and with frames in front in time.

        y[b,t,h,w,o] = bias[o] + sum_{i,d,r,s} weight[o,i,d,r,s]
                                 * x[b, t*st + d - front, h*sh + r - before, w*sw + s - before, i]

    Args:
        x: (B, T, H, W, Ci).
        weight: (Co, Ci, kt, kh, kw).
        bias: (Co,).
        head: the frames (B, front, H, W, Ci) in front, which an earlier chunk of the clip left; None for copies of the
            first frame.
        stride: (st, sh, sw).
        before, after: zeros in front of and behind H and W.
        front: frames in front, so that no frame sees a later one.

    Returns:
        (B, T', H', W', Co) in x's dtype. On CPU the arithmetic is float32 for every dtype.

    Raises:
        InputError: shapes that do not belong together.
    """
    kind = _kind(x.dtype, x.shape, weight.shape)
    head = nothing("float32") if head is None else head
    if kind == "ascend_builtin":
        return ascend.conv3d(x, weight, bias, head, stride=stride, before=before, after=after, front=front)
    dtype = x.dtype
    x, weight, bias, head = (
        x.astype(ms.float32),
        weight.astype(ms.float32),
        bias.astype(ms.float32),
        head.astype(ms.float32),
    )
    if kind == "reference":
        return reference.conv3d(stride, before, after, front)(x, weight, bias, head).astype(dtype)
    return cpu.conv3d(stride, before, after, front)(x, weight, bias, head).astype(dtype)


@ops.constexpr
def _kind(dtype, shape, weight):
    if len(shape) != 5 or len(weight) != 5 or shape[4] != weight[1]:
        raise InputError(
            f"x {shape} must be (B, T, H, W, Ci), and the weight {weight} (Co, Ci, kt, kh, kw) with its Ci"
        )
    return choose("conv3d", {"x": dtype})
