"""Hypothesis tests the readers: any bytes give a checkpoint or an InputError, and written files are read again.

The examples are the same in every run.
"""

import json
import math
import pickletools

import numpy as np
import pytest
import torch
from crafted import (
    FLOATS,
    archive,
    call,
    field,
    legacy,
    named,
    namespace,
    number,
    program,
    safe,
    state,
    storage,
    tensor,
    text,
    varint,
)
from fuzzing import HARM, fuzz, harmed
from hypothesis import assume, example, given
from hypothesis import strategies as st

from mindsora.ckpt_convert import entry, open_checkpoint
from mindsora.ckpt_convert.dtypes import MINDSPORE, NUMPY
from mindsora.ckpt_convert.entry import ArrayEntry, Cast, File, Joined, Part, Storage, StorageEntry
from mindsora.ckpt_convert.formats import mindspore_file, safetensors_file, torch_file
from mindsora.errors import InputError

pytestmark = pytest.mark.full

TORCH = {name: getattr(torch, name) for name in NUMPY}


def read_or_refused(path, data):
    """Name -> array; or None after an InputError of one printable line. Any other exception is a failure."""
    path.write_bytes(data)
    try:
        with open_checkpoint(path) as checkpoint:
            for found in checkpoint.values():
                assume(found.nbytes < 2**24)  # a flipped stride may make a tensor of megabytes
                assert sum(piece.nbytes for piece in found.slices(1000)) == found.nbytes
            return {name: found.numpy() for name, found in checkpoint.items()}
    except InputError as error:
        assert str(error).isprintable() and len(str(error)) < 2000
        return None


# Random bytes


HEADS = (
    b"",
    b"PK\3\4",
    b"PK\5\6",
    b"\x80\2",
    b"\x80",
    legacy()[:14],
    legacy()[:60],
    safe({"w": 1})[:13],
    field(0x0A, field(0x0A, b"w") + bytes(20))[:6],
)


@fuzz(300)
@given(st.sampled_from(HEADS), st.binary(max_size=200))
def test_any_bytes(tmp_path, head, tail):
    read_or_refused(tmp_path / "x", head + tail)


# Damaged files of every writer


def arrays():
    rng = np.random.default_rng(0)
    shapes = {"a": (3, 4), "b.c": (), "d": (5,), "e": (2, 3, 2)}
    return {
        name: np.ascontiguousarray(rng.standard_normal(shape)).astype(kind).reshape(shape)
        for (name, shape), kind in zip(shapes.items(), (np.float32, np.float64, np.int16, np.float16))
    }


def written(path, write, *more):
    with open(path, "wb") as out:
        for _ in write(out, [ArrayEntry(name, array) for name, array in arrays().items()], *more):
            pass
    return path.read_bytes()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "x"
    found = {
        "safetensors": written(path, safetensors_file.write, {"format": "pt"}),
        "MindSpore": written(path, mindspore_file.write),
        "our torch zip": written(path, torch_file.write, {"tied": "a"}, {"iteration": 3}),
    }
    tensors = {name: torch.from_numpy(array) for name, array in arrays().items()}
    a = tensors["a"]
    tensors |= {"t": a.t(), "gap": a[:, ::2], "wide": a[:, :1].expand(3, 5), "f8": a.to(torch.float8_e5m2)}
    for kind in ("torch zip", "torch legacy"):
        torch.save({"epoch": 1, "state_dict": tensors}, path, _use_new_zipfile_serialization=kind == "torch zip")
        found[kind] = path.read_bytes()
    return found


FILES = ("safetensors", "MindSpore", "our torch zip", "torch zip", "torch legacy")


@pytest.mark.parametrize("kind", FILES)
def test_a_whole_file(files, kind, tmp_path):
    assert read_or_refused(tmp_path / "x", files[kind])


@fuzz(1000)
@given(st.sampled_from(FILES), st.lists(HARM, min_size=1, max_size=3), st.sampled_from((1.0, 0.2)))
def test_a_harmed_file(files, tmp_path, kind, harms, share):
    """Headers are a small part of a file: half of the damage falls in its first fifth."""
    harms = [(name, where * share, *rest) for name, where, *rest in harms]
    read_or_refused(tmp_path / "x", harmed(files[kind], harms))


@fuzz(150)
@given(st.lists(HARM, min_size=1, max_size=4))
def test_a_harmed_pickle_in_a_sound_archive(tmp_path, harms):
    """The archive's checksums would catch most damage before the pickle is read."""
    weights = state(("w", tensor()), ("v", tensor((6,), (1,))))
    data = harmed(program(state(("model", weights), ("args", namespace(("lr", number(1)))))), harms)
    read_or_refused(tmp_path / "x", archive(data))
    read_or_refused(tmp_path / "x", legacy(data))


# Structures that are partly valid


PIECES = [bytes([opcode.code.encode("latin-1")[0]]) for opcode in pickletools.opcodes if opcode.arg is None] + [
    text("w"),
    text("state_dict"),
    number(0),
    number(-1),
    number(2**70),
    b"K\6",
    b"q\0",
    b"h\0",
    b"q\1",
    b"h\1",
    storage(),
    storage("1"),
    tensor(),
    state(("w", tensor())),
    named("collections.OrderedDict"),
    named("torch.Size"),
    named("torch.FloatStorage"),
    named("torch._utils._rebuild_tensor_v2"),
    named("torch._utils._rebuild_parameter"),
    named("argparse.Namespace"),
    namespace(),
    named("torch._tensor._rebuild_from_type_v2"),
    call(named("torch.Size"), b")"),
    b"G" + bytes(8),
    b"U\1x",
    b"Xhalf",
    b"\x95" + bytes(8),
]


@fuzz(400)
@given(st.lists(st.sampled_from(PIECES), max_size=14))
@example([b"}", text("w"), tensor(), b"s", b"2"])
def test_any_program(tmp_path, pieces):
    found = read_or_refused(tmp_path / "x", archive(program(b"".join(pieces))))
    assert found is None or all(array.tobytes() in FLOATS for array in found.values())


SIZES = st.integers(0, 8) | st.sampled_from([-1, 2**31, 2**62, 2**64, 10**400])
ROWS = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "I8", "BF16", "F8_E4M3", "C64", "", None, 3]),
        "shape": st.lists(SIZES, max_size=3) | st.none(),
        "data_offsets": st.lists(SIZES, max_size=3),
    }
)
JUNK = st.recursive(st.none() | st.text(max_size=3), st.lists)


@fuzz(300)
@given(st.dictionaries(st.text(max_size=3) | st.just("__metadata__"), ROWS | JUNK, max_size=3), st.integers(0, 20))
def test_any_header(tmp_path, header, count):
    read_or_refused(tmp_path / "x", safe(json.dumps(header).encode(), bytes(count)))


BYTES = st.binary(max_size=6) | st.sampled_from([b"w", b"Float32", b"Int8", bytes(8), bytes(24)])
NUMBER = st.tuples(st.sampled_from([0x08, 0x10]), st.integers(0, 2**70)).map(lambda it: bytes([it[0]]) + varint(it[1]))


def fields(content):
    one = st.tuples(st.sampled_from([0x0A, 0x12, 0x1A, 0x22]), content).map(lambda it: field(*it))
    return st.lists(one | NUMBER, max_size=4).map(b"".join)


MESSAGE = st.recursive(BYTES, fields, max_leaves=12)


@fuzz(300)
@given(MESSAGE, MESSAGE)
def test_any_message(tmp_path, tensors, rest):
    data = field(0x0A, field(0x0A, b"w") + field(0x12, b"\x08\2\x08\3" + field(0x12, b"Float32") + field(0x1A, FLOATS)))
    read_or_refused(tmp_path / "x", data + field(0x0A, field(0x0A, b"v") + field(0x12, tensors)) + rest)


# Round trips


@st.composite
def random_arrays(draw, kinds):
    """Name -> array of any kind and shape, of random bits: NaN with payloads, signed zeros, subnormal numbers."""
    found = {}
    for name in draw(st.lists(st.text("abc.09_é", min_size=1, max_size=6), min_size=1, max_size=4, unique=True)):
        kind = NUMPY[draw(st.sampled_from(kinds))]
        shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 4, 0]), max_size=3)))
        raw = draw(st.binary(min_size=math.prod(shape) * kind.itemsize, max_size=math.prod(shape) * kind.itemsize))
        raw = bytes(b & 1 for b in raw) if kind == np.bool_ else raw
        found[name] = np.frombuffer(bytearray(raw), kind).reshape(shape)
    return found


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name


def as_torch(array):
    if not array.size:
        return torch.empty(array.shape, dtype=TORCH[array.dtype.name])
    raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8).copy()
    return torch.from_numpy(raw).view(TORCH[array.dtype.name]).reshape(array.shape)


def raw_bytes(value):
    """(n,) uint8 tensor. clone, since contiguous() keeps a stride of 2 where there is one element."""
    value = value.clone(memory_format=torch.contiguous_format).reshape(-1)
    return value.view(torch.uint8) if value.numel() else torch.empty(0, dtype=torch.uint8)


@pytest.mark.parametrize(
    "write, more, kinds",
    [
        (safetensors_file.write, ({"format": "pt"},), list(NUMPY)),
        (torch_file.write, ({},), list(NUMPY)),
        (mindspore_file.write, (), list(MINDSPORE)),
    ],
    ids=["safetensors", "torch", "MindSpore"],
)
def test_what_is_written_is_read(write, more, kinds, tmp_path):
    @fuzz(100)
    @given(random_arrays(kinds))
    def check(arrays):
        with open(tmp_path / "x", "wb") as out:
            done = sum(write(out, [ArrayEntry(name, array) for name, array in arrays.items()], *more))
        assert done == sum(array.nbytes for array in arrays.values())
        assert_same(read_or_refused(tmp_path / "x", (tmp_path / "x").read_bytes()), arrays)
        if write is torch_file.write:
            loaded = torch.load(tmp_path / "x", weights_only=True)
            for name, array in arrays.items():
                assert torch.equal(raw_bytes(loaded[name]), raw_bytes(as_torch(array))), name
                assert loaded[name].dtype == TORCH[array.dtype.name] and tuple(loaded[name].shape) == array.shape

    check()


VIEWS = {
    "transposed": lambda x: x.permute(tuple(reversed(range(x.ndim)))),
    "every second": lambda x: x[..., ::2] if x.ndim else x,
    "from one on": lambda x: x[1:] if x.ndim and x.shape[0] > 1 else x,
    "last column": lambda x: x[..., -1] if x.ndim and x.numel() else x,
    "expanded": lambda x: x.expand(3, *x.shape),
    "one longer": lambda x: x.unsqueeze(-1),
    "empty": lambda x: x[:0] if x.ndim else x,
}


@pytest.mark.parametrize("modern", [True, False], ids=["zip", "legacy"])
def test_views_that_torch_writes_are_read(modern, tmp_path):
    @fuzz(150)
    @given(random_arrays(list(NUMPY)), st.lists(st.lists(st.sampled_from(sorted(VIEWS)), max_size=3), max_size=3))
    def check(arrays, views):
        tensors = {name: as_torch(array) for name, array in arrays.items()}
        for number_, names in enumerate(views):  # of the first tensor: they share its storage
            view = next(iter(tensors.values()))
            for name in names:
                view = VIEWS[name](view)
            tensors[f"view{number_}"] = view
        torch.save(tensors, tmp_path / "x", _use_new_zipfile_serialization=modern)
        expected = {}
        for name, value in tensors.items():
            kind = NUMPY[str(value.dtype).removeprefix("torch.")]
            expected[name] = np.frombuffer(raw_bytes(value).numpy().tobytes(), kind).reshape(tuple(value.shape))
        assert_same(read_or_refused(tmp_path / "x", (tmp_path / "x").read_bytes()), expected)

    check()


# Flat ranges


def check_ranges(found, expected, data):
    """Any range, in pieces of any length, equals that of NumPy's array."""
    flat = np.ascontiguousarray(expected).reshape(-1)
    assert found.shape == expected.shape and found.size == flat.size
    if flat.size:
        start = data.draw(st.integers(0, flat.size - 1))
        stop = data.draw(st.integers(start + 1, flat.size))
        assert found.read(start, stop).tobytes() == flat[start:stop].tobytes()
    pieces = list(found.slices(data.draw(st.integers(1, 40))))
    assert b"".join(piece.tobytes() for piece in pieces) == flat.tobytes()
    assert found.numpy().tobytes() == flat.tobytes()


@fuzz(400)
@given(
    st.sampled_from(["uint8", "float16", "float32"]),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), max_size=4),  # shape and stride
    st.integers(0, 12),
    st.integers(4, 400),
    st.data(),
)
def test_a_view_of_a_storage(tmp_path, monkeypatch, kind, axes, offset, region, data):
    monkeypatch.setattr(entry, "REGION", region)  # bytes: small values make it read in parts
    (tmp_path / "x").write_bytes(b"!!!" + np.random.default_rng(0).bytes(240) + b"???")
    stored = np.frombuffer((tmp_path / "x").read_bytes()[3:-3], NUMPY[kind])
    shape, strides = tuple(n for n, _ in axes), tuple(s for _, s in axes)
    file = File(tmp_path / "x")
    storage_ = Storage(file, [(3, 100), (103, 140)])
    reach = offset + sum((n - 1) * s for n, s in axes)
    try:
        if math.prod(shape) and reach >= stored.size:
            with pytest.raises(InputError, match="reaches beyond"):
                StorageEntry("w", kind, shape, storage_, offset, strides)
            return
        steps = [s * stored.itemsize for s in strides]
        view = np.empty(shape, stored.dtype)
        if view.size:
            view = np.lib.stride_tricks.as_strided(stored[offset:], shape, steps)
        check_ranges(StorageEntry("w", kind, shape, storage_, offset, strides), view, data)
    finally:
        file.close()


SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=3)


@fuzz(150)
@given(SHAPES, st.lists(st.integers(0, 3), min_size=1, max_size=4), st.booleans(), st.data())
def test_joined(shape, lengths, columns, data):
    axis = int(columns and len(shape) == 2)
    assume(sum(lengths))
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal((*shape[:axis], n, *shape[axis + 1 :])) for n in lengths]
    check_ranges(Joined("w", [ArrayEntry("w", part) for part in parts], axis), np.concatenate(parts, axis), data)


@fuzz(150)
@given(SHAPES, st.integers(1, 4), st.booleans(), st.data())
def test_part_and_joined_again(shape, count, columns, data):
    axis = int(columns and len(shape) == 2)
    shape[axis] *= count
    whole = np.random.default_rng(0).standard_normal(shape)
    parts = [Part(ArrayEntry("w", whole), axis, index, count) for index in range(count)]
    for part, expected in zip(parts, np.split(whole, count, axis)):
        check_ranges(part, expected, data)
    check_ranges(Joined("w", parts, axis), whole, data)


@fuzz(200)
@given(
    random_arrays(["float16", "bfloat16", "float32", "float64"]),
    st.sampled_from(["float16", "bfloat16", "float32"]),
    st.data(),
)
def test_cast(arrays, kind, data):
    source = next(iter(arrays.values()))
    with np.errstate(over="ignore", invalid="ignore"):
        expected = source.astype(NUMPY[kind])
        before, after = source.astype(np.float64), expected.astype(np.float64)
    check_ranges(Cast(ArrayEntry("w", source), kind), expected, data)
    cast = Cast(ArrayEntry("w", source), kind)
    list(cast.slices())
    finite = np.isfinite(before)
    assert cast.overflowed == np.sum(finite & np.isinf(after))
    assert cast.changed == np.sum(finite & np.isfinite(after) & (before != after))
