"""Element types, and their names in each container."""

import ml_dtypes
import numpy as np

from mindsora.errors import InputError

# name: (NumPy type, safetensors code, torch storage class, MindSpore's tensor_type). None: not in that container.
# torch has no storage class for the float8 types: it writes raw storages and stores the dtype with the tensor.
_TABLE = {
    "float64": (np.float64, "F64", "DoubleStorage", "Float64"),
    "float32": (np.float32, "F32", "FloatStorage", "Float32"),
    "float16": (np.float16, "F16", "HalfStorage", "Float16"),
    "bfloat16": (ml_dtypes.bfloat16, "BF16", "BFloat16Storage", "BFloat16"),
    "float8_e4m3fn": (ml_dtypes.float8_e4m3fn, "F8_E4M3", None, None),
    "float8_e5m2": (ml_dtypes.float8_e5m2, "F8_E5M2", None, None),
    "int64": (np.int64, "I64", "LongStorage", "Int64"),
    "int32": (np.int32, "I32", "IntStorage", "Int32"),
    "int16": (np.int16, "I16", "ShortStorage", "Int16"),
    "int8": (np.int8, "I8", "CharStorage", "Int8"),
    "uint8": (np.uint8, "U8", "ByteStorage", "UInt8"),
    "bool": (np.bool_, "BOOL", "BoolStorage", "Bool"),
}
NUMPY = {name: np.dtype(row[0]).newbyteorder("<") for name, row in _TABLE.items()}
SAFETENSORS = {name: row[1] for name, row in _TABLE.items()}
TORCH_STORAGE = {name: row[2] for name, row in _TABLE.items() if row[2]}
MINDSPORE = {name: row[3] for name, row in _TABLE.items() if row[3]}

FLOATING = tuple(name for name in _TABLE if "float" in name)
WEIGHTS = tuple(name for name in FLOATING if not name.startswith("float8"))  # the others need scales beside them
CASTS = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}  # of --dtype


def named(codes: dict[str, str], code: str, where: str) -> str:
    """The dtype that a container calls `code`; InputError for an unsupported one."""
    for name, known in codes.items():
        if known == code:
            return name
    raise InputError(f"{where}: dtype {str(code)[:40]!r} is not supported; known: {', '.join(codes.values())}")


def name_of(dtype: np.dtype) -> str:
    """The name ("float32", ...) of a NumPy dtype."""
    name = np.dtype(dtype).name
    if name not in NUMPY:
        raise InputError(f"dtype {name} is not supported; known: {', '.join(NUMPY)}")
    return name
