"""Convolution in plain MindSpore: the definition of the result."""

from functools import cache

from mindspore import Tensor, nn, ops

from mindsora.kernels import forms

SCRATCH = 1 << 28  # bytes the plain form may spend on columns at a time


def in_front(x: Tensor, head: Tensor, front: int) -> Tensor:
    """Prepend the frames of `head` to x or, if `head` is a placeholder, `front` copies of x's first frame."""
    if head.ndim > 1:
        return ops.concat((head, x), 1)
    for _ in range(front):
        x = ops.concat((forms.cut(x, 1, 0, 1), x), 1)
    return x


def zeros_around(x: Tensor, axis: int, before: int, after: int) -> Tensor:
    # By concatenation: under ms.jit the gradient of ops.pad is wrong from the second call on.
    shape = x.shape
    if before:
        x = ops.concat((ops.zeros(shape[:axis] + (before,) + shape[axis + 1 :], x.dtype), x), axis)
    if after:
        x = ops.concat((x, ops.zeros(shape[:axis] + (after,) + shape[axis + 1 :], x.dtype)), axis)
    return x


class Conv3dReference(nn.Cell):
    """The definition, as matrix products: columns of the kh*kw spatial taps, one MatMul for each of the kt frames.

    Args:
        stride: (st, sh, sw).
        before, after: zeros around H and W.
        front: copies of the first frame if there is no head.
    """

    def __init__(self, stride: tuple[int, int, int], before: int, after: int, front: int):
        super().__init__()
        self.stride = stride
        self.before = before
        self.after = after
        self.front = front

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor, head: Tensor) -> Tensor:
        x = in_front(x, head, self.front)
        st, sh, sw = self.stride
        co, ci, kt, kh, kw = weight.shape
        b, frames, rows, columns, _ = x.shape
        extra = self.before + self.after
        t, h, w = (frames - kt) // st + 1, (rows + extra - kh) // sh + 1, (columns + extra - kw) // sw + 1
        # Nothing reads the stride - 1 zeros behind; they are there because _every takes whole strides.
        x = zeros_around(x, 1, 0, st - 1)
        x = zeros_around(x, 2, self.before, self.after + sh - 1)
        x = zeros_around(x, 3, self.before, self.after + sw - 1)
        matrix = weight.transpose(2, 3, 4, 1, 0).reshape(kt, kh * kw * ci, co)
        # Blocks of output rows and frames whose columns fit the scratch memory.
        row_bytes = 4 * b * w * kh * kw * ci
        block_h = max(1, min(h, SCRATCH // row_bytes))
        block_t = max(1, SCRATCH // (row_bytes * h)) if block_h == h else 1
        clips = ()
        for t0 in range(0, t, block_t):
            t1 = min(t, t0 + block_t)
            strips = ()
            for h0 in range(0, h, block_h):
                strips = strips + (self._block(x, matrix, (t0, t1, h0, min(h, h0 + block_h), w), (kt, kh, kw)),)
            clips = clips + (strips[0] if len(strips) == 1 else ops.concat(strips, 2),)
        y = clips[0] if len(clips) == 1 else ops.concat(clips, 1)
        return y + bias

    def _block(self, x: Tensor, matrix: Tensor, where: tuple, kernel: tuple) -> Tensor:
        st, sh, sw = self.stride
        t0, t1, h0, h1, w = where
        kt, kh, kw = kernel
        y = 0
        for d in range(kt):
            frames = self._every(x, 1, t0 * st + d, t1 - t0, st)
            taps = ()
            for r in range(kh):
                rows = self._every(frames, 2, h0 * sh + r, h1 - h0, sh)
                for s in range(kw):
                    taps = taps + (self._every(rows, 3, s, w, sw),)
            columns = taps[0] if len(taps) == 1 else ops.concat(taps, -1)
            y = y + ops.matmul(columns.reshape(-1, matrix.shape[1]), matrix[d])
        return y.reshape(x.shape[0], t1 - t0, h1 - h0, w, matrix.shape[2])

    def _every(self, x: Tensor, axis: int, first: int, count: int, step: int) -> Tensor:
        """x[first : : step] along an axis, `count` elements."""
        # No stepped slice: on CPU its gradient reads out of bounds (MindSpore 2.10).
        part = x.narrow(axis, first, count * step)
        if step == 1:
            return part
        shape = x.shape
        part = part.reshape(shape[:axis] + (count, step) + shape[axis + 1 :])
        return part.narrow(axis + 1, 0, 1).reshape(shape[:axis] + (count,) + shape[axis + 1 :])


conv3d = cache(Conv3dReference)
