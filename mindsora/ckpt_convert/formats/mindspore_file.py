"""MindSpore's .ckpt: a protobuf message `Checkpoint` whose repeated field `value` holds one slice of a tensor each.

    Checkpoint { repeated Value value = 1 }
    Value { string tag = 1; TensorProto tensor = 2 }
    TensorProto { repeated int64 dims = 1; string tensor_type = 2; bytes tensor_content = 3 }

Consecutive values of one tag hold the pieces of one tensor (512 MB each). This module parses the fields by position,
because the protobuf library would hold the whole file in memory.
"""

import math
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np

from mindsora.ckpt_convert.dtypes import MINDSPORE, NUMPY, named
from mindsora.ckpt_convert.entry import Entry, File, Storage, StorageEntry
from mindsora.errors import InputError, shown

PIECE = 512 * 2**20  # bytes of a tensor per value, as MindSpore writes them
MAX_VALUES = 200_000  # bounds memory; the released v1.5 denoiser has 1,400 tensors in 1,400 values
_HEAD = 4096  # bytes to read at once, more than tag, dims and type take
_CRC = 17  # bytes of an optional trailer: "crc_num", then ten bytes of CRC-32, big-endian


def looks_like(head: bytes) -> bool:
    """Whether the first field is a Value whose first field is a tag."""
    try:
        number, kind, position = _key(head, 0)
        length, position = _varint(head, position)
    except (IndexError, InputError):
        return False
    return (number, kind) == (1, 2) and length > 4 and head[position : position + 1] == b"\x0a"


def read(file: File) -> dict[str, Entry]:
    """Read the tensors of a file. InputError: it is truncated or encrypted, or holds anything but tensors."""
    end = file.size
    if end >= _CRC and bytes(file.read(end - _CRC, 7)) == b"crc_num":
        end -= _CRC
    position, count = 0, 0
    tensors: dict[str, tuple] = {}  # tag -> dims, kind, pieces
    last = None
    while position < end:
        count += 1
        if count > MAX_VALUES:
            raise InputError(f"{file}: more than {MAX_VALUES} tensors; the limit keeps memory bounded")
        try:
            tag, dims, kind, content, position = _value(file, position, end)
        except (IndexError, UnicodeDecodeError) as error:
            raise InputError(
                f"{file}: is no MindSpore checkpoint, or damaged at byte {position}; fetch it again"
            ) from error
        if tag in tensors:
            known_dims, known_kind, pieces = tensors[tag]
            if (known_dims, known_kind) != (dims, kind) or tag != last:
                raise InputError(f"{file}: tensor {shown(tag)} stands there twice")
            pieces.append(content)
        else:
            tensors[tag] = dims, kind, [content]
        last = tag
    entries: dict[str, Entry] = {}
    for tag, (dims, kind, pieces) in tensors.items():
        dtype = named(MINDSPORE, kind, f"{file}: tensor {shown(tag)}")
        storage = Storage(file, pieces)
        shape = () if dims == (0,) and storage.nbytes else dims  # MindSpore writes a scalar's shape as [0]
        if math.prod(shape) * NUMPY[dtype].itemsize != storage.nbytes:
            raise InputError(
                f"{file}: tensor {shown(tag)} of shape {shape}, {dtype} cannot fill {storage.nbytes} bytes"
            )
        entries[tag] = StorageEntry(tag, dtype, shape, storage)
    return entries


def _value(file: File, position: int, end: int):
    """Parse one Value: tag, dims, tensor type, (offset, length) of the content, and the position of the next Value."""
    head = file.read(position, min(_HEAD, end - position))
    base, (low, high) = position, _field(head, 0, 1)
    stop = base + high
    tag_low, tag_high = _field(head, low, 1)
    tag = bytes(head[tag_low:tag_high]).decode()
    tensor_low, tensor_high = _field(head, tag_high, 2)
    if len(tag) == 0 or stop > end or tensor_high != high or tag_high > len(head):
        raise IndexError
    at, dims = tensor_low, []
    number, kind, _ = _key(head, at)
    while number == 1:
        if kind == 0:  # one dimension
            size, at = _varint(head, _key(head, at)[2])
            dims.append(size)
        else:  # all dimensions, packed
            at, packed = _field(head, at, 1)
            while at < packed:
                size, at = _varint(head, at)
                dims.append(size)
            if at != packed:
                raise IndexError
        if len(dims) > 32 or max(dims, default=0) >= 2**63:
            raise InputError(f"{file}: tensor {shown(tag)}: dimensions {dims[:4]} are not possible")
        number, kind, _ = _key(head, at)
    type_low, type_high = _field(head, at, 2)
    if type_high > len(head):
        raise IndexError
    content_low, content_high = _field(head, type_high, 3)
    if content_high != tensor_high:
        raise IndexError
    name = bytes(head[type_low:type_high]).decode()
    return tag, tuple(dims), name, (base + content_low, content_high - content_low), stop


def _field(data, at: int, expected: int) -> tuple[int, int]:
    """Begin and end of the length-delimited field `expected` at `at`."""
    number, kind, at = _key(data, at)
    if (number, kind) != (expected, 2):
        raise IndexError
    length, at = _varint(data, at)
    return at, at + length


def _key(data, at: int) -> tuple[int, int, int]:
    value, at = _varint(data, at)
    return value >> 3, value & 7, at


def _varint(data, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise IndexError


def write(out: BinaryIO, entries: Iterable[Entry]) -> Iterable[int]:
    """Write a file; yield the number of bytes after every slice."""
    for entry in entries:
        if entry.dtype not in MINDSPORE:
            raise InputError(
                f"tensor {shown(entry.name)} is {entry.dtype}, which MindSpore does not have; choose a --dtype"
            )
        dims = b"".join(b"\x08" + _encoded(n) for n in entry.shape or (0,))
        kind = MINDSPORE[entry.dtype].encode()
        head = dims + b"\x12" + _encoded(len(kind)) + kind
        tag = b"\x0a" + _encoded(len(entry.name.encode())) + entry.name.encode()
        left, pieces = entry.nbytes, entry.slices()
        while True:
            room = min(PIECE, left)
            tensor = head + b"\x1a" + _encoded(room)
            value = tag + b"\x12" + _encoded(len(tensor) + room) + tensor
            out.write(b"\x0a" + _encoded(len(value) + room) + value)
            left -= room
            while room:
                piece = next(pieces)
                out.write(piece.view(np.uint8))
                room -= piece.nbytes
                yield piece.nbytes
            if left == 0:
                break


def _encoded(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
