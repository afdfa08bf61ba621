"""Golden files: weights, inputs and outputs computed with the PyTorch originals (metadata `source` names them)."""

import json
from pathlib import Path

import numpy as np
from mindspore import Tensor
from safetensors import safe_open

FOLDER = Path(__file__).parent / "golden"


class Golden:
    def __init__(self, name: str):
        with safe_open(FOLDER / f"{name}.safetensors", framework="np") as file:
            self.metadata = file.metadata()
            arrays = {key: file.get_tensor(key) for key in file.keys()}
        self.config = json.loads(self.metadata["config"])
        self.weights, self.inputs, self.outputs = (
            {key.removeprefix(kind): value for key, value in arrays.items() if key.startswith(kind)}
            for kind in ("weights/", "inputs/", "outputs/")
        )

    def tensor(self, name: str) -> Tensor:
        return Tensor(self.inputs[name])


def assert_close(actual, expected, atol: float):
    """Absolute tolerance; the caller says why it is what it is."""
    actual = actual.asnumpy() if isinstance(actual, Tensor) else np.asarray(actual)
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    np.testing.assert_allclose(actual.astype(np.float64), expected.astype(np.float64), rtol=0, atol=atol)
