"""The pickles inside torch files, read without executing anything and without torch.

A pickle is a program for a small stack machine. This machine runs only the opcodes that a state dict needs. It never
imports a name in the program but looks it up in a closed table of tensors, storages, OrderedDict and plain values.
Training checkpoints also hold bookkeeping (argparse's Namespace, NumPy's random state, Megatron's and MindSpeed-MM's
settings); such objects become `Opaque`, which keeps only the name. The machine refuses every other name.
"""

import pickletools
import re
from dataclasses import dataclass
from typing import Any

from mindsora.ckpt_convert.dtypes import NUMPY, TORCH_STORAGE
from mindsora.errors import InputError, shown

MAX_WORK = 1_000_000  # instructions plus elements that calls copy; bounds memory and time. Released v1.5: 60,000
MAX_INTEGER = 1024  # bits; the largest integer in a real file, a random generator's state, has 128
MAX_NAME = 200  # characters of a global's or a storage's name


@dataclass(frozen=True)
class Name:
    """A global that the program names; it is never imported."""

    path: str


@dataclass(frozen=True)
class Opaque:
    """An object of a known bookkeeping class, without its contents."""

    path: str


@dataclass(frozen=True)
class StorageRef:
    """The storage of a persistent id. `dtype` is None for raw bytes."""

    key: str
    dtype: str | None
    size: int  # elements


@dataclass(frozen=True)
class TensorRef:
    """A view of a storage; offset and strides in elements."""

    storage: StorageRef
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


_STORAGES = {f"torch.{storage}": dtype for dtype, storage in TORCH_STORAGE.items()}
_DTYPES = {f"torch.{name}": name for name in NUMPY}
_LISTS = {
    "torch.Size",
    *(
        f"{module}.{kind}"
        for module in ("builtins", "__builtin__")  # the latter up to protocol 2
        for kind in ("list", "set", "frozenset")
    ),
}
_REBUILD = {
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch._tensor._rebuild_from_type_v2",
    "torch_npu.utils.storage._rebuild_npu_tensor",  # v2 plus the device's memory layout; the bytes are plain
}
_RAW_STORAGES = {"torch.storage.UntypedStorage", "torch.UntypedStorage"}
_CLASSES = {"torch.Tensor", "torch.nn.parameter.Parameter"}
# Bookkeeping of training checkpoints. It cannot call other functions: calls are limited to exactly these names.
_OPAQUE = {
    "argparse.Namespace",
    "types.SimpleNamespace",
    "pathlib.PosixPath",
    "signal.Signals",
    "collections.defaultdict",
    "_codecs.encode",
    "_io.BytesIO",
    "copyreg._reconstructor",
    "copy_reg._reconstructor",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.ndarray",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.core.numeric._frombuffer",
    "numpy._core.numeric._frombuffer",
    "torch.device",
    "torch.complex64",
    "torch.complex128",
    "torch._C.Generator",
    "torch_npu.npu._format.Format",
    *(
        f"{module}.{kind}"
        for module in ("builtins", "__builtin__")
        for kind in ("dict", "int", "float", "object", "bytearray", "complex", "slice", "range", "xrange")
    ),
}
_OPAQUE_PACKAGES = ("megatron.", "mindspeed.", "mindspeed_mm.")


def _is_opaque(path: str) -> bool:
    return path in _OPAQUE or path.startswith(_OPAQUE_PACKAGES)


_KNOWN = {"collections.OrderedDict"} | _STORAGES.keys() | _DTYPES.keys() | _LISTS | _REBUILD | _RAW_STORAGES | _CLASSES
_OTHER_KINDS = re.compile(r"torch\.(\w+Storage|(complex|uint|float8|float4|q?int|quint|bits)\w+)")  # of tensors


class Machine:
    """The stack machine that runs one pickle.

    Args:
        where: names the file in errors.

    Attributes:
        storages: key -> storage, for all storages that the pickle refers to.
    """

    def __init__(self, where: str):
        self.where = where
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, StorageRef] = {}
        self.work = 0

    def run(self, stream) -> Any:
        """Build the object of the pickle at the stream's position; leave the stream after the pickle.

        Raises:
            InputError: the pickle is damaged, too long, or names something that does not belong in a checkpoint.
        """
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                self.count(1)
                if opcode.name == "STOP":
                    break
                step = _STEPS.get(opcode.name)
                if step is None:
                    raise InputError(f"{self.where}: the pickle uses {opcode.name}, which no state dict needs; refused")
                step(self, argument)
            if len(self.stack) != 1:
                raise InputError(f"{self.where}: the pickle is damaged (it leaves {len(self.stack)} values)")
            return self.stack[0]
        except InputError:
            raise
        except (
            ValueError,
            TypeError,
            KeyError,
            IndexError,
            AttributeError,
            OverflowError,
            MemoryError,
            RecursionError,
        ) as error:
            why = shown(error, quote=False)
            raise InputError(f"{self.where}: the pickle is damaged ({why}); fetch the file again") from error

    def count(self, work: int) -> None:
        self.work += work
        if self.work > MAX_WORK:
            raise InputError(
                f"{self.where}: the pickle has more than {MAX_WORK} instructions or copies; no state dict needs them"
            )

    def pop(self) -> Any:
        if self.marks and len(self.stack) <= self.marks[-1]:
            raise IndexError("a value is missing")
        return self.stack.pop()

    def to_mark(self) -> list:
        begin = self.marks.pop()
        values = self.stack[begin:]
        del self.stack[begin:]
        return values

    def top(self, kind: type) -> Any:
        """The value on top, which must be of this kind; an Opaque accepts all operations and stores nothing."""
        value = self.stack[-1]
        if not isinstance(value, (kind, Opaque)):
            raise TypeError(f"{type(value).__name__} where a {kind.__name__} belongs")
        return value

    def name(self, path: str) -> None:
        if path not in _KNOWN and not _is_opaque(path):
            if _OTHER_KINDS.fullmatch(path):
                raise InputError(
                    f"{self.where}: tensors of kind {shown(path)} are not supported; known: {', '.join(NUMPY)}"
                )
            raise InputError(
                f"{self.where}: the pickle names {shown(path, MAX_NAME)}, which has no place in a checkpoint; "
                "refused, not run. Save a plain state_dict() instead"
            )
        self.stack.append(Name(path))

    def call(self, function: Any, arguments: Any) -> None:
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise TypeError("a call of what is no function")
        self.stack.append(self._result(function.path, arguments))

    def _result(self, path: str, arguments: tuple) -> Any:
        if path == "collections.OrderedDict":
            pairs = self._copied(arguments)
            if any(type(pair) not in (list, tuple) or len(pair) != 2 for pair in pairs):
                raise ValueError("an OrderedDict of what are no pairs")
            return _filled({}, [value for pair in pairs for value in pair])
        if path in _LISTS:
            return self._copied(arguments)
        if path == "torch._utils._rebuild_parameter" or path == "torch._utils._rebuild_parameter_with_state":
            return _tensor(arguments[0])
        if path == "torch._tensor._rebuild_from_type_v2":
            rebuild, _, inner, _ = arguments
            if rebuild.path == path or rebuild.path not in _REBUILD:
                raise TypeError("a tensor subclass that is not rebuilt from a tensor")
            return self._result(rebuild.path, inner)
        if path == "torch._utils._rebuild_tensor_v3":
            storage, offset, shape, strides, _, _, dtype = arguments[:7]
            self._no_lazy_bits(arguments[7:])
            return self._view(storage, _DTYPES.get(dtype.path), offset, shape, strides)
        if path in _REBUILD:
            storage, offset, shape, strides = arguments[:4]
            if path == "torch._utils._rebuild_tensor_v2":
                self._no_lazy_bits(arguments[6:])
            return self._view(storage, storage.dtype, offset, shape, strides)
        if _is_opaque(path):
            return Opaque(path)
        raise InputError(f"{self.where}: the pickle calls {shown(path)}, which is no function of a state dict; refused")

    def _copied(self, arguments: tuple) -> tuple:
        """Copy the one sequence among the arguments. Every copy counts as work, since a short program can make many."""
        if not arguments:
            return ()
        if len(arguments) != 1 or type(arguments[0]) not in (list, tuple):
            raise TypeError("a list of what is no sequence")
        self.count(len(arguments[0]))
        return tuple(arguments[0])

    def _no_lazy_bits(self, metadata: tuple) -> None:
        """Refuse views that torch marks as negated or conjugated, because their stored bytes lack the change of sign."""
        if any(isinstance(flags, dict) and (flags.get("neg") or flags.get("conj")) for flags in metadata):
            raise InputError(
                f"{self.where}: a tensor that is stored negated or conjugated; save tensor.resolve_neg() instead"
            )

    def _view(self, storage: Any, dtype: str | None, offset: Any, shape: Any, strides: Any) -> TensorRef:
        if not isinstance(storage, StorageRef) or dtype is None:
            raise TypeError("a tensor without storage or dtype")
        if type(shape) is not tuple or type(strides) is not tuple or len(shape) != len(strides) or len(shape) > 32:
            raise ValueError("shape and strides of a tensor must be tuples of one length, at most 32")
        if any(type(n) is not int or not 0 <= n < 2**63 for n in (offset, *shape, *strides)):
            raise ValueError("offset, shape and strides of a tensor must be whole numbers, not negative")
        return TensorRef(storage, dtype, offset, shape, strides)

    def persistent(self, identifier: Any) -> StorageRef:
        kind, cls, key, _, size = identifier[:5]
        if kind != "storage" or type(key) is not str or len(key) > MAX_NAME or type(size) is not int or size < 0:
            raise TypeError("a persistent id that is no storage")
        if cls.path not in _STORAGES and cls.path not in _RAW_STORAGES:
            raise TypeError(f"a storage of kind {shown(cls.path)}")
        if len(identifier) > 5 and identifier[5] is not None:
            raise InputError(f"{self.where}: storages that are views of storages are not supported; save again")
        ref = StorageRef(key, _STORAGES.get(cls.path), size)
        if self.storages.setdefault(key, ref) != ref:
            raise InputError(f"{self.where}: storage {shown(key)} is described twice, and differently")
        return self.storages[key]


def _tensor(value: Any) -> TensorRef:
    if not isinstance(value, TensorRef):
        raise TypeError("a parameter without a tensor")
    return value


def _push(machine: Machine, value: Any) -> None:
    machine.stack.append(value)


def _integer(machine: Machine, value: int) -> None:
    if value.bit_length() > MAX_INTEGER:  # repeated hashing and comparison would never end
        raise ValueError(f"a number of {value.bit_length()} bits")
    machine.stack.append(value)


def _constant(value: Any):
    return lambda machine, _: machine.stack.append(value)


def _build(machine: Machine, _) -> None:
    machine.pop()  # attributes of a dict (`_metadata`) or of a bookkeeping object hold no tensors
    if not isinstance(machine.stack[-1], (dict, Opaque)):
        raise TypeError(f"attributes for a {type(machine.stack[-1]).__name__}")


def _append(machine: Machine, values: list) -> None:
    target = machine.top(list)
    if isinstance(target, list):
        target.extend(values)


def _set_items(machine: Machine, values: list) -> None:
    target = machine.top(dict)
    if isinstance(target, dict):
        _filled(target, values)


def _filled(target: dict, values: list) -> dict:
    """Add alternating keys and values. Skip keys that are not strings, which belong to bookkeeping.

    A file could choose the hashes of such keys: thousands of numbers with one hash take hours, and so does hashing a
    tuple with shared parts. The hashes of strings are salted.
    """
    if len(values) % 2:
        raise ValueError("a key without a value")
    for key, value in zip(values[::2], values[1::2], strict=True):
        if isinstance(key, (str, bytes)):
            if key in target:
                raise ValueError(f"the key {shown(key, 60)} stands there twice")
            target[key] = value
    return target


def _stack_global(machine: Machine, _) -> None:
    name, module = machine.pop(), machine.pop()
    if type(name) is not str or type(module) is not str:
        raise TypeError("a global without a name")
    machine.name(f"{module}.{name}")


def _reduce(machine: Machine, _) -> None:
    arguments = machine.pop()
    machine.call(machine.pop(), arguments)


def _new_object(machine: Machine, _) -> None:
    arguments, cls = machine.pop(), machine.pop()
    if not isinstance(cls, Name) or not _is_opaque(cls.path):
        what = (
            cls.path if isinstance(cls, Name) else type(cls).__name__
        )  # never the repr of an object that the file built
        raise InputError(f"{machine.where}: the pickle makes an object of {shown(what)}; refused")
    machine.call(cls, arguments)


def _tuple(count: int):
    def make(machine: Machine, _):
        values = [machine.pop() for _ in range(count)]
        machine.stack.append(tuple(reversed(values)))

    return make


def _mark_list(machine: Machine, _) -> None:
    machine.stack.append(machine.to_mark())


def _mark_tuple(machine: Machine, _) -> None:
    machine.stack.append(tuple(machine.to_mark()))


def _mark_dict(machine: Machine, _) -> None:
    values = machine.to_mark()
    machine.stack.append({})
    _set_items(machine, values)


def _append_one(machine: Machine, _) -> None:
    _append(machine, [machine.pop()])


def _set_item(machine: Machine, _) -> None:
    value, key = machine.pop(), machine.pop()
    _set_items(machine, [key, value])


def _memoize(machine: Machine, index: int | None) -> None:
    index = len(machine.memo) if index is None else index
    if index > machine.work:  # picklers number in order; a file that skips could make hashes collide
        raise ValueError(f"value {index} is remembered after {machine.work} instructions")
    machine.memo[index] = machine.stack[-1]


_STEPS = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda machine, _: None),
    **dict.fromkeys(
        (
            "FLOAT",
            "BINFLOAT",
            "STRING",
            "BINSTRING",
            "SHORT_BINSTRING",
            "UNICODE",
            "BINUNICODE",
            "SHORT_BINUNICODE",
            "BINUNICODE8",
            "BINBYTES",
            "SHORT_BINBYTES",
            "BINBYTES8",
            "BYTEARRAY8",
        ),
        _push,
    ),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4"), _integer),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_SET": lambda machine, _: machine.stack.append([]),
    "EMPTY_TUPLE": _constant(()),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "TUPLE": _mark_tuple,
    "LIST": _mark_list,
    "FROZENSET": _mark_tuple,
    "DICT": _mark_dict,
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "APPEND": _append_one,
    "SETITEM": _set_item,
    **dict.fromkeys(("APPENDS", "ADDITEMS"), lambda machine, _: _append(machine, machine.to_mark())),
    "SETITEMS": lambda machine, _: _set_items(machine, machine.to_mark()),
    "POP": lambda machine, _: machine.pop(),
    "POP_MARK": lambda machine, _: machine.to_mark(),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _memoize),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda machine, index: machine.stack.append(machine.memo[index])),
    "GLOBAL": lambda machine, argument: machine.name(argument.replace(" ", ".", 1)),
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "NEWOBJ": _new_object,
    "BUILD": _build,
    "BINPERSID": lambda machine, _: machine.stack.append(machine.persistent(machine.pop())),
}
