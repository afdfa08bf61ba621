"""Checks that every model must pass."""

import json
import math
import os
import subprocess
import sys

import mindspore as ms
import numpy as np
from golden_file import assert_close
from mindspore import Tensor, nn, ops

from mindsora.models import registry


class Loss(nn.Cell):
    """Mean of target * output: a loss that reaches every output."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def construct(self, target, *inputs):
        return (self.model(*inputs) * target).mean()


class Reconstruction(nn.Cell):
    """An autoencoder's pixels decoded from the mean, and the log-variance, in one row: uses every parameter."""

    def __init__(self, vae):
        super().__init__(auto_prefix=False)
        self.vae = vae

    def construct(self, x):
        mean, logvar = self.vae.encode_moments(x).chunk(2, axis=1)
        return ops.concat((self.vae.decode(mean).reshape(-1), logvar.reshape(-1)))


def check_lengths(vae, lengths):
    """Clips of these lengths, encoded and decoded in chunks, equal the whole.

    The same sums in another order, which differ by some 2e-5 in pixels where a group norm adds up the clip; 2e-5 and
    5e-5 are also what moments and pixels must hold against upstream.
    """
    rng = np.random.default_rng(0)
    for frames in lengths:
        x = Tensor(rng.standard_normal((1, 3, frames, 16, 16), np.float32))
        whole = vae.encode_moments(x)
        assert_close(vae.encode_moments(x, True), whole.asnumpy(), 2e-5)
        z = whole[:, : vae.config.latent_dim]
        pixels = vae.decode(z).asnumpy()
        assert pixels.shape[2] == frames
        for latents in (1, 2, 3):
            assert_close(vae.decode(z, True, latents), pixels, 5e-5)


def check_training_gradients(model, inputs, target, cancelled=()):
    """Gradients under ms.jit equal PyNative's for every parameter, over several calls, and none is all zero.

    cancelled: name endings of parameters that cannot change the result; their gradients are pure rounding.
    """
    loss = Loss(model)
    parameters = list(model.trainable_params())
    gradient = ms.value_and_grad(loss, None, parameters)
    value, eager = gradient(target, *inputs)
    eager = [g.asnumpy() for g in eager]
    largest = max(np.abs(g).max() for g in eager)
    for parameter, g in zip(parameters, eager):
        assert parameter.name.endswith(cancelled) == (np.abs(g).max() < 1e-6 * largest), parameter.name
    compiled = ms.jit(gradient)
    for _ in range(3):
        value_jit, graph = compiled(target, *inputs)
        np.testing.assert_allclose(value_jit.asnumpy(), value.asnumpy(), rtol=1e-5, atol=1e-7)
        for parameter, a, b in zip(parameters, graph, eager):
            # 1e-4 of the parameter's largest entry: float32 sums in another order. A single number is a sum over the
            # whole clip, and most of it cancels.
            atol = (1e-4 if b.size > 1 else 1e-3) * np.abs(b).max() + 1e-6 * largest * parameter.name.endswith(
                cancelled
            )
            np.testing.assert_allclose(a.asnumpy(), b, rtol=0, atol=atol, err_msg=parameter.name)


def check_released_shapes(cell, shapes, count=None):
    """The Cell's parameters, and the constants beside them, have exactly the keys and shapes of a released checkpoint."""
    table = registry.spec_of(cell).names
    expected = {table.normalise(key): tuple(shape) for key, shape in shapes.items()}
    parameters = list(cell.get_parameters())
    actual = {table.upstream_name(p.name): tuple(p.shape) for p in parameters}
    assert len(actual) == len(parameters)  # no two parameters share a name
    assert actual | {key: value.shape for key, value in table.constants(cell).items()} == expected
    assert count is None or sum(math.prod(shape) for shape in actual.values()) == count


_ENCODE = """
import importlib, json, sys
import mindspore as ms, numpy as np
ms.set_device("CPU")
module, name, config, batches = sys.argv[1:]
encode = ms.jit(getattr(importlib.import_module(module), name).from_upstream(json.loads(config)))
arrays = np.load(batches)
for batch in sorted({key.split("_")[0] for key in arrays}):
    encode(*(ms.Tensor(arrays[key]) for key in sorted(arrays) if key.startswith(batch + "_")))
"""


def count_compiled_graphs(folder, model, config, batches):
    """The number of graphs that MindSpore logs as compiled for these batches, each a tuple of arguments, in turn."""
    arrays = {f"{b:02d}_{a:02d}": array for b, batch in enumerate(batches) for a, array in enumerate(batch)}
    np.savez(folder / "batches.npz", **arrays)
    environment = os.environ | {"MS_SUBMODULE_LOG_v": "{PIPELINE:1}"}
    command = [sys.executable, "-c", _ENCODE, model.__module__, model.__name__, json.dumps(config)]
    done = subprocess.run(
        [*command, str(folder / "batches.npz")], env=environment, capture_output=True, text=True, check=True
    )
    return (done.stdout + done.stderr).count("Start compiling '")


def check_padding_compiles_nothing(folder, model, golden, ids, mask):
    """Other prompts of the same padded length run the same graph; another padded length shows the counter counts."""
    same = [(ids, mask), (ids[::-1], np.ones_like(mask)), (ids, np.tri(*mask.shape, dtype=mask.dtype))]
    assert count_compiled_graphs(folder, model, golden.config, same + [(ids[:, :-1], mask[:, :-1])]) == 2
