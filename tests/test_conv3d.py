"""Convolution on CPU: plain form and compiled operator against PyTorch's in float64.

Relative to the largest result, float32 sums of at most 27 * 40 products are off by less than 2e-6.
"""

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Tensor, nn

from mindsora.errors import InputError
from mindsora.kernels import choice
from mindsora.kernels.conv3d import ascend, conv3d, cpu, reference
from mindsora.kernels.conv3d.cpu import Conv3dCPU
from mindsora.kernels.conv3d.reference import Conv3dReference
from mindsora.kernels.placeholder import nothing
from mindsora.nn.conv import CausalConv3d

CASES = {  # x, weight, stride, zeros before, zeros after, copies in front; frames of the head (0: none)
    "causal": ((2, 5, 9, 11, 5), (7, 5, 3, 3, 3), (1, 1, 1), 1, 1, 2, 0),
    "later chunk": ((2, 3, 9, 11, 5), (7, 5, 3, 3, 3), (1, 1, 1), 1, 1, 2, 2),
    "one frame": ((2, 1, 5, 4, 3), (4, 3, 3, 3, 3), (1, 1, 1), 1, 1, 2, 0),
    "later frame": ((1, 1, 5, 4, 3), (4, 3, 3, 3, 3), (1, 1, 1), 1, 1, 2, 2),
    "wide": ((1, 3, 4, 21, 40), (70, 40, 3, 3, 3), (1, 1, 1), 1, 1, 2, 0),
    "large": ((1, 2, 17, 18, 9), (3, 9, 3, 3, 3), (1, 1, 1), 1, 1, 2, 0),  # more positions than one item of work has
    "pointwise": ((1, 2, 3, 4, 150), (66, 150, 1, 1, 1), (1, 1, 1), 0, 0, 0, 0),  # more channels than one pass has
    "halving": ((2, 5, 8, 12, 6), (6, 6, 3, 3, 3), (2, 2, 2), 0, 1, 2, 0),
    "halving later": ((1, 4, 8, 12, 6), (6, 6, 3, 3, 3), (2, 2, 2), 0, 1, 2, 1),
    "halving space": ((1, 3, 8, 10, 3), (4, 3, 1, 3, 3), (1, 2, 2), 0, 1, 0, 0),
    "odd strides": ((1, 6, 7, 9, 2), (3, 2, 3, 3, 3), (2, 2, 2), 1, 1, 0, 0),
    "uneven": ((2, 5, 7, 10, 3), (17, 3, 3, 5, 2), (1, 3, 2), 2, 0, 1, 0),
    "flat": ((2, 2, 6, 6, 4), (17, 4, 1, 3, 3), (1, 1, 1), 1, 1, 0, 0),
}


def draw(case):
    """x, weight, bias and the head, if there is one; and the geometry."""
    shape, weight, *geometry, head = CASES[case]
    shapes = [shape, weight, weight[:1]] + ([(shape[0], head, *shape[2:])] if head else [])
    rng = np.random.default_rng(0)
    return [rng.standard_normal(s, np.float32) for s in shapes], geometry


def oracle(arrays, stride, before, after, front):
    """The convolution, a direction, and the gradients of (convolution * direction).sum(), in float64."""
    x, weight, bias, *head = (torch.from_numpy(a).double().requires_grad_() for a in arrays)
    clip = torch.cat([*(head or [x[:, :1].expand(-1, front, -1, -1, -1)]), x], 1).permute(0, 4, 1, 2, 3)
    padded = torch.nn.functional.pad(clip, (before, after, before, after))
    y = torch.nn.functional.conv3d(padded, weight, bias, stride).permute(0, 2, 3, 4, 1)
    direction = np.random.default_rng(1).standard_normal(y.shape, np.float32)
    (y * torch.from_numpy(direction)).sum().backward()
    return y.detach().numpy(), direction, [tensor.grad.numpy() for tensor in (x, weight, bias, *head)]


class Weighted(nn.Cell):
    """(convolution * direction).sum(), and the convolution."""

    def __init__(self, conv, direction):
        super().__init__()
        self.conv = conv
        self.direction = Tensor(direction)

    def construct(self, x, weight, bias, head):
        y = self.conv(x, weight, bias, head)
        return (y * self.direction).sum(), y


FORMS = [(form, case) for form in ("compiled", "plain") for case in CASES]
FORMS += [("plain in blocks", "halving"), pytest.param("plain in blocks", "causal", marks=pytest.mark.full)]


@pytest.mark.parametrize("form, case", FORMS)
def test_value_and_gradients(run, monkeypatch, form, case):
    arrays, geometry = draw(case)
    y, direction, gradients = oracle(arrays, *geometry)
    if form == "plain in blocks":
        batch, *_, channels = arrays[0].shape
        columns = arrays[1].shape[3] * arrays[1].shape[4] * channels
        monkeypatch.setattr(reference, "SCRATCH", 4 * columns * y.shape[3] * batch * 2)  # two rows at a time
    conv = (Conv3dCPU if form == "compiled" else Conv3dReference)(*geometry)
    inputs = [Tensor(array) for array in arrays]
    inputs += [nothing("float32")] * (4 - len(inputs))
    gradient = ms.grad(Weighted(conv, direction), tuple(range(len(arrays))), has_aux=True)
    gradient = ms.jit(gradient) if run.__name__ == "jitted" else gradient
    for _ in range(3):  # wrong gradients under jit have appeared from the second call on
        actual, (value,) = gradient(*inputs)
        for one, expected in zip((value, *actual), (y, *gradients), strict=True):
            assert one.shape == expected.shape
            np.testing.assert_allclose(one.asnumpy(), expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_two_geometries_in_one_graph(run):
    """MindSpore keeps one shape inference per operator name: the inference must not keep another layer's stride."""
    halve, keep = Conv3dCPU((2, 2, 2), 0, 1, 2), Conv3dCPU((1, 1, 1), 1, 1, 0)
    rng = np.random.default_rng(1)
    x, weight, bias = (Tensor(rng.standard_normal(s, np.float32)) for s in ((1, 5, 8, 8, 3), (3, 3, 3, 3, 3), (3,)))

    def both(x, weight, bias):
        return keep(x, weight, bias, nothing("float32")), halve(x, weight, bias, nothing("float32"))

    kept, halved = run(both, x, weight, bias)
    assert kept.shape == (1, 3, 8, 8, 3) and halved.shape == (1, 3, 4, 4, 3)


@pytest.mark.full
def test_threads_do_not_change_a_bit(monkeypatch):
    rng = np.random.default_rng(2)
    shapes = (2, 6, 32, 32, 32), (32, 32, 3, 3, 3), (32,)
    x, weight, bias = (Tensor(rng.standard_normal(shape, np.float32)) for shape in shapes)
    gradient = ms.grad(Weighted(Conv3dCPU((1, 1, 1), 1, 1, 2), np.float32(1)), (0, 1, 2), has_aux=True)
    results = []
    for threads in ("1", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        gradients, (value,) = gradient(x, weight, bias, nothing("float32"))
        results.append([value.asnumpy(), *(g.asnumpy() for g in gradients)])
    for one, three in zip(*results):
        np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize("kind", ["cpu", "reference"])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_clip_in_chunks_equals_the_whole(run, monkeypatch, kind, stride):
    """The compiled operator's sums do not depend on how a clip is cut: results are equal bit for bit."""
    monkeypatch.setenv("MINDSORA_KERNELS", f"conv3d={kind}")
    conv = CausalConv3d(4, 6, stride=stride)
    x = np.random.default_rng(3).standard_normal((2, 9, 6, 8, 4), np.float32)
    whole, _ = conv(Tensor(x))
    parts, state, start = [], None, 0
    for frames in (1, 2, 4, 2) if stride == 2 else (1, 1, 2, 1, 4):
        y, state = run(conv, Tensor(x[:, start : start + frames]), state)
        assert state.shape[1] == 2 // stride
        parts.append(y.asnumpy())
        start += frames
    assert start == x.shape[1]
    np.testing.assert_allclose(np.concatenate(parts, 1), whole.asnumpy(), rtol=0, atol=0 if kind == "cpu" else 2e-6)


@pytest.mark.parametrize("kind", ["cpu", "reference"])
def test_look_ahead_leaves_no_trace(run, monkeypatch, kind):
    monkeypatch.setenv("MINDSORA_KERNELS", f"conv3d={kind}")
    conv = CausalConv3d(3, 5, lookahead=1)
    x = Tensor(np.random.default_rng(4).standard_normal((1, 6, 4, 4, 3), np.float32))
    whole, _ = conv(x)
    first, state = run(conv, x[:, :3])
    np.testing.assert_array_equal(state.asnumpy(), x[:, :2].asnumpy())
    second, _ = run(conv, x[:, 2:], state)
    together = np.concatenate([first.asnumpy()[:, :2], second.asnumpy()], 1)
    np.testing.assert_allclose(together, whole.asnumpy(), rtol=0, atol=0 if kind == "cpu" else 2e-6)


def test_what_is_asked_for_runs(monkeypatch):
    x, weight, bias = (
        Tensor(np.ones((1, 1, 2, 2, 1), np.float32)),
        Tensor(np.ones((1, 1, 1, 1, 1), np.float32)),
        Tensor([0.0]),
    )
    for kind, module in (("cpu", cpu), ("reference", reference)):
        monkeypatch.setenv("MINDSORA_KERNELS", f"conv3d={kind}")
        calls = []
        monkeypatch.setattr(module, "conv3d", lambda *geometry, calls=calls: calls.append(geometry) or (lambda *_: x))
        conv3d(x, weight, bias, stride=(1, 2, 2), before=1, after=0, front=0)
        assert calls == [((1, 2, 2), 1, 0, 0)]


def mint_conv3d(x, weight, bias, stride, padding=(0, 0, 0)):
    """The documented behaviour of MindSpore's operator on (B, C, T, H, W), which does not exist on CPU."""
    x, weight, bias = (torch.from_numpy(a.asnumpy()).double() for a in (x, weight, bias))
    return Tensor(torch.nn.functional.conv3d(x, weight, bias, stride, padding).numpy())


@pytest.mark.parametrize("case", CASES)
def test_form_of_ascend(monkeypatch, case):
    """Padding, frames in front and layout, with a stand-in for the operator itself."""
    monkeypatch.setattr(choice, "device", lambda: "Ascend")
    monkeypatch.setattr(ascend.mint.nn.functional, "conv3d", mint_conv3d)
    arrays, (stride, before, after, front) = draw(case)
    y, _, _ = oracle(arrays, stride, before, after, front)
    actual = conv3d(*map(Tensor, arrays), stride=stride, before=before, after=after, front=front)
    np.testing.assert_allclose(actual.asnumpy(), y, rtol=0, atol=2e-6 * np.abs(y).max())


def test_shapes_that_do_not_belong_together():
    x, weight = Tensor(np.zeros((1, 1, 2, 2, 3), np.float32)), Tensor(np.zeros((1, 2, 1, 1, 1), np.float32))
    with pytest.raises(InputError, match=r"x \(1, 1, 2, 2, 3\) must be .B, T, H, W, Ci."):
        conv3d(x, weight, Tensor([0.0]), stride=(1, 1, 1), before=0, after=0, front=0)
