"""Networks that judge, given as ONNX files: what ran is known by the file's checksum."""

from pathlib import Path

import numpy as np

from mindsora.errors import InputError, shown
from mindsora.evaluate.measures import Judge
from mindsora.files import file_sha256


class Network:
    """An ONNX file on ONNX Runtime's CPU back end.

    Args:
        path: the file.
        name: what it is, for reports and errors.
        inputs: how many arrays it takes.

    Raises:
        InputError: ONNX Runtime is not installed, the file cannot be read, or it takes another number of arrays.
    """

    def __init__(self, path: Path, name: str, inputs: int = 1):
        try:
            import onnxruntime
        except ImportError:
            raise InputError(
                f"judge {name} runs on ONNX Runtime, which is not installed: pip install 'mindsora[judges]'"
            ) from None
        onnxruntime.set_default_logger_severity(3)  # errors alone
        try:
            self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors have no common base class of their own
            raise InputError(f"cannot read {shown(path)} as an ONNX network: {shown(error, quote=False)}") from None
        self.name, self.path = name, path
        self.names = [entry.name for entry in self._session.get_inputs()]
        if len(self.names) != inputs:
            raise InputError(
                f"network {shown(path)} takes {len(self.names)} arrays; judge {name} needs one with {inputs}"
            )

    def __call__(self, *arrays: np.ndarray) -> np.ndarray:
        """The network's first output for float32 arrays. InputError: it does not take their shapes."""
        try:
            return self._session.run(None, dict(zip(self.names, arrays, strict=True)))[0]
        except Exception as error:
            shapes = ", ".join(str(array.shape) for array in arrays)
            raise InputError(f"judge {self.name} refuses {shapes}: {shown(error, quote=False)}") from None

    @property
    def judge(self) -> Judge:
        return Judge(self.name, self.path.name, "model", file_sha256(self.path))
