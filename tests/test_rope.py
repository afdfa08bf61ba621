"""RoPE3D against upstream's tables and rotations, v1.5 and v1.3."""

import mindspore as ms
import numpy as np
import pytest
from golden_file import Golden, assert_close
from mindspore import Tensor

from mindsora.kernels.qk_norm_rope.rotary import RoPE3D
from mindsora.nn.rope import rope_table, rope_tensors, split_v1_3, split_v1_5

GOLDEN = Golden("rope3d")
NAMES = [name for name in GOLDEN.config if name != "note"]


def settings(name):
    config = GOLDEN.config[name]
    split = (split_v1_5 if name.startswith("v15") else split_v1_3)(config["head_dim"])
    return (config["t"], config["h"], config["w"]), split, tuple(config["interpolation_scale_thw"])


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("v15")])
def test_tables_match_upstream(name):
    grid, split, scale = settings(name)
    cos, sin = rope_table(grid, split, scale)
    starts = np.cumsum((0,) + split)
    for axis, start, width in zip("thw", starts, split):
        sign = np.repeat(np.float32([-1, 1]), width // 2)  # our table includes the minus sign of the rotation
        # 5e-7: one unit in the last place of cos and sin
        assert_close(cos[:, start : start + width], GOLDEN.outputs[f"{name}_cos_{axis}"], 5e-7)
        assert_close(sin[:, start : start + width] * sign, GOLDEN.outputs[f"{name}_sin_{axis}"], 5e-7)


@pytest.mark.parametrize("name", NAMES)
def test_rotation_matches_upstream(name, run):
    grid, split, scale = settings(name)
    tokens = Tensor(np.ascontiguousarray(GOLDEN.inputs[f"{name}_tokens"].transpose(1, 0, 2, 3)))
    rotated = run(RoPE3D(split), tokens, *rope_tensors(grid, split, scale)).asnumpy()
    assert_close(rotated.transpose(1, 0, 2, 3), GOLDEN.outputs[f"{name}_tokens"], 2e-6)


def test_v1_3_half_precision_rounds_the_angles(run):
    grid, split, scale = settings("v13_d96")
    tokens = Tensor(GOLDEN.inputs["v13_d96_tokens"].transpose(1, 0, 2, 3).astype(np.float16))
    tables = [Tensor(table[None, :, None]) for table in rope_table(grid, split, scale, np.float16)]
    rotated = run(RoPE3D(split), tokens, *tables)
    assert rotated.dtype == ms.float16
    expected = GOLDEN.outputs["v13_d96_tokens_float16_run"]
    # 4e-3: one unit in the last place of a float16 between 2 and 4, products summed in another order
    assert_close(rotated.asnumpy().transpose(1, 0, 2, 3), expected, 4e-3)


def test_gradient_is_the_inverse_rotation(run):
    """The hand-written gradient is the adjoint: <R x, g> = <x, R' g> for every x and g."""
    random = np.random.RandomState(0)
    split = split_v1_5(32)
    cos, sin = rope_tensors((2, 3, 4), split, (1.0, 1.0, 1.0))
    x, g = (Tensor(random.randn(2, 24, 3, 32).astype(np.float32)) for _ in range(2))
    rope = RoPE3D(split)

    def loss(x):
        return (rope(x, cos, sin) * g).sum()

    gradient = run(ms.grad(loss), x).asnumpy()
    np.testing.assert_allclose((gradient * x.asnumpy()).sum(), loss(x).asnumpy(), rtol=1e-5)
    norms = np.linalg.norm(gradient, axis=-1), np.linalg.norm(g.asnumpy(), axis=-1)
    np.testing.assert_allclose(*norms, rtol=1e-5)  # a rotation preserves lengths
