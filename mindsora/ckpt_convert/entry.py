"""Lazy tensors, which read one slice at a time.

Every entry reads its elements as flat ranges in row-major order, so that merging, splitting, casting and copying a
tensor of any size takes the memory of a few slices.
"""

import hashlib
import math
import os
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from mindsora.ckpt_convert.dtypes import NUMPY, name_of
from mindsora.errors import InputError, shown

SLICE = 16 * 2**20  # bytes of a slice
REGION = 64 * 2**20  # bytes to read at once for a transposed or gapped view
PAGE = 4096  # bytes; a file system reads no less


MAX_HOLE = 2**36  # upper limit of a hole in a file, bytes; the largest file of the line has 23 GB


class File:
    """A file with reads by position. It is not mapped, because mapped pages count as the process's memory."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        try:
            self._fd = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise InputError(f"cannot read {shown(path)}: {error.strerror}") from error
        status = os.fstat(self._fd)
        self.size = status.st_size
        # Weights do not compress sixteenfold: such a file is an unfinished download or a malicious file of zeros.
        if self.size > MAX_HOLE and status.st_blocks * 512 < self.size / 16:
            os.close(self._fd)
            raise InputError(
                f"{self}: says {self.size} bytes and holds {status.st_blocks * 512} of them on disk; fetch it again"
            )

    def read(self, offset: int, count: int) -> bytearray:
        """Read exactly `count` bytes from `offset`."""
        self._check(offset, count)
        return self._filled(bytearray(count), offset)

    def fill(self, buffer: np.ndarray, offset: int) -> None:
        """Fill an array of bytes from `offset`."""
        self._check(offset, buffer.size)
        self._filled(buffer, offset)

    def _check(self, offset: int, count: int) -> None:
        if offset < 0 or count < 0 or offset + count > self.size:
            raise InputError(f"{self}: is cut off: {count} bytes at {offset} are wanted, the file has {self.size}")

    def _filled(self, buffer, offset: int):
        view, done = memoryview(buffer), 0
        while done < len(view):
            try:
                got = os.preadv(self._fd, [view[done:]], offset + done)
            except OSError as error:
                raise InputError(f"cannot read {self}: {error.strerror}") from error
            if not got:
                raise InputError(f"{self}: became shorter while it was read")
            done += got
        return buffer

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __str__(self):
        return repr(str(self.path))


class Entry:
    """A named tensor.

    Attributes:
        name: its key.
        dtype: "float32", "bfloat16", ...
        shape: its shape.
    """

    def __init__(self, name: str, dtype: str, shape: tuple[int, ...]):
        self.name, self.dtype, self.shape = name, dtype, tuple(shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * NUMPY[self.dtype].itemsize

    def read(self, start: int, stop: int) -> np.ndarray:
        """Elements start to stop of the flattened tensor, (stop - start,); 0 <= start < stop <= size."""
        raise NotImplementedError

    def slices(self, nbytes: int = SLICE) -> Iterator[np.ndarray]:
        """The flattened tensor in consecutive pieces of at most `nbytes`; `.tobytes()` gives a piece's raw bytes."""
        self.check()
        step = max(1, nbytes // NUMPY[self.dtype].itemsize)
        for start in range(0, self.size, step):
            yield self.read(start, min(start + step, self.size))

    def check(self) -> None:
        """Compare the file's checksum if it has one. InputError: the file is damaged."""

    def numpy(self) -> np.ndarray:
        """The whole tensor in memory."""
        array = np.empty(self.size, NUMPY[self.dtype])
        done = 0
        for piece in self.slices():
            array[done : done + piece.size] = piece
            done += piece.size
        return array.reshape(self.shape)

    def sha256(self) -> str:
        """SHA-256 of the raw bytes, row-major and little-endian."""
        digest = hashlib.sha256()
        for piece in self.slices():
            digest.update(piece.view(np.uint8))
        return digest.hexdigest()

    def part(self, axis: int, index: int, count: int) -> "Entry":
        """Part `index` of `count` equal parts along an axis: 0, or 1 of a matrix."""
        return Part(self, axis, index, count)

    def renamed(self, name: str) -> "Entry":
        return self if name == self.name else Renamed(self, name)


class Renamed(Entry):
    """The same tensor under another name."""

    def __init__(self, entry: Entry, name: str):
        super().__init__(name, entry.dtype, entry.shape)
        self._entry = entry

    def read(self, start, stop):
        return self._entry.read(start, stop)

    def slices(self, nbytes=SLICE):
        return self._entry.slices(nbytes)

    def part(self, axis, index, count):
        return self._entry.part(axis, index, count).renamed(self.name)

    def check(self):
        self._entry.check()


class ArrayEntry(Entry):
    """A tensor in memory."""

    def __init__(self, name: str, array: np.ndarray):
        super().__init__(name, name_of(array.dtype), array.shape)
        self._flat = np.ascontiguousarray(array, NUMPY[self.dtype]).reshape(-1)  # swaps the bytes of a big-endian array

    def read(self, start, stop):
        return self._flat[start:stop]


class Storage:
    """Bytes of a file that one or several tensors are views of.

    Args:
        pieces: (offset in the file, length) of consecutive parts.
        crc: CRC-32 of all the bytes, or None.
    """

    def __init__(self, file: File, pieces: list[tuple[int, int]], crc: int | None = None):
        self.file, self.pieces, self.crc = file, pieces, crc
        self.nbytes = sum(length for _, length in pieces)

    def read(self, offset: int, count: int) -> np.ndarray:
        """`count` bytes from `offset`, (count,) uint8."""
        if not 0 <= offset <= offset + count <= self.nbytes:
            raise InputError(f"{self.file}: {count} bytes at {offset} of a storage of {self.nbytes}")
        buffer, begin = np.empty(count, np.uint8), 0  # np.empty: zeroing a large slice, as bytearray does, takes time
        for position, length in self.pieces:
            low, high = max(offset, begin), min(offset + count, begin + length)
            if low < high:
                self.file.fill(buffer[low - offset : high - offset], position + low - begin)
            begin += length
        return buffer

    def check(self) -> None:
        """Read everything once and compare the checksum; a second call does nothing."""
        if self.crc is not None:
            crc = 0
            for start in range(0, self.nbytes, SLICE):
                crc = zlib.crc32(self.read(start, min(SLICE, self.nbytes - start)), crc)
            self.compare(crc)

    def compare(self, crc: int) -> None:
        if crc != self.crc:
            raise InputError(
                f"{self.file}: is damaged: checksum {crc:08x}, the archive says {self.crc:08x}; fetch it again"
            )
        self.crc = None  # checked


class StorageEntry(Entry):
    """A view of a storage: contiguous, transposed, gapped or expanded.

    Args:
        offset: of the first element, in elements.
        strides: in elements, one per dimension; None for contiguous.

    Raises:
        InputError: the view reaches beyond its storage.
    """

    def __init__(self, name, dtype, shape, storage: Storage, offset: int = 0, strides: tuple[int, ...] | None = None):
        super().__init__(name, dtype, shape)
        self.storage, self.offset = storage, offset
        self._type = NUMPY[dtype]
        if math.prod(max(n, 1) for n in self.shape) * self._type.itemsize >= 2**63:
            raise InputError(f"{storage.file}: tensor {shown(name)}: no tensor has the shape {self.shape}")
        contiguous = row_major(self.shape)
        strides = contiguous if strides is None else tuple(strides)
        last = offset + sum((n - 1) * s for n, s in zip(self.shape, strides)) if self.size else offset
        if (
            offset < 0
            or min(strides, default=0) < 0
            or (self.size and (last + 1) * self._type.itemsize > storage.nbytes)
        ):
            raise InputError(
                f"{storage.file}: tensor {shown(name)} of shape {self.shape}, {dtype} reaches beyond its "
                f"{storage.nbytes} bytes"
            )
        moving = [(n, s, c) for n, s, c in zip(self.shape, strides, contiguous) if n > 1]
        self._contiguous = all(s == c for _, s, c in moving)
        self._shape, self._strides = tuple(n for n, _, _ in moving), tuple(s for _, s, _ in moving)

    def read(self, start, stop):
        if self._contiguous:
            width = self._type.itemsize
            return self.storage.read((self.offset + start) * width, (stop - start) * width).view(self._type)
        return self._gather(start, stop)

    def slices(self, nbytes=SLICE):
        whole = self._contiguous and self.nbytes == self.storage.nbytes
        if self.storage.crc is None or not whole:
            yield from super().slices(nbytes)
            return
        crc, step = 0, max(1, nbytes // self._type.itemsize)  # computed while reading, so that the file is read once
        for start in range(0, self.size, step):
            piece = self.read(start, min(start + step, self.size))
            crc = zlib.crc32(piece.view(np.uint8), crc)
            yield piece
        self.storage.compare(crc)

    def check(self):
        self.storage.check()

    def _gather(self, start: int, stop: int, axis: int = 0, offset: int | None = None) -> np.ndarray:
        """Elements of a non-contiguous view: read the rows of `axis` around the range, then trim."""
        offset = self.offset if offset is None else offset
        shape, strides = self._shape[axis:], self._strides[axis:]
        row = math.prod(shape[1:])
        first, last = start // row, -(-stop // row)
        if last - first == 1 and row > 1:
            return self._gather(start - first * row, stop - first * row, axis + 1, offset + first * strides[0])
        if row > stop - start:  # long rows: the range crosses one border between rows
            border = (first + 1) * row
            return np.concatenate([self._gather(start, border, axis, offset), self._gather(border, stop, axis, offset)])
        out = np.empty((last - first, *shape[1:]), self._type)
        self._pick(out, strides, offset + first * strides[0])
        return out.reshape(-1)[start - first * row : stop - first * row]

    def _pick(self, out: np.ndarray, strides: tuple[int, ...], offset: int) -> None:
        """Fill `out` with the block that begins at `offset`, from one region of the file or recursively by halves."""
        reach = [(n - 1) * s for n, s in zip(out.shape, strides)]
        width = self._type.itemsize
        if (sum(reach) + 1) * width <= REGION:
            region = self.storage.read(offset * width, (sum(reach) + 1) * width)
            # as_strided does not support float8.
            out[...] = np.ndarray(out.shape, self._type, region, strides=[s * width for s in strides])
            return
        axis = int(np.argmax(reach))
        half = out.shape[axis] // 2
        low, high = np.split(out, [half], axis)
        self._pick(low, strides, offset)
        self._pick(high, strides, offset + half * strides[axis])


class Joined(Entry):
    """The concatenation of parts along an axis: 0, or 1 of a matrix."""

    def __init__(self, name: str, parts: list[Entry], axis: int):
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        super().__init__(name, parts[0].dtype, tuple(shape))
        self._parts, self._axis = parts, axis

    def check(self):
        for part in self._parts:
            part.check()

    def part(self, axis, index, count):
        own, rest = divmod(len(self._parts), count)
        if axis != self._axis or rest or len({part.shape for part in self._parts}) > 1:
            return super().part(axis, index, count)
        parts = self._parts[index * own : (index + 1) * own]  # the others' files are not read
        return Joined(self.name, parts, axis)

    def read(self, start, stop):
        if self._axis == 0:
            begin, pieces = 0, []
            for part in self._parts:
                low, high = max(start, begin), min(stop, begin + part.size)
                if low < high:
                    pieces.append(part.read(low - begin, high - begin))
                begin += part.size
            return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        first, last = start // self.shape[1], -(-stop // self.shape[1])
        rows = [
            part.read(first * width, last * width).reshape(last - first, width)
            for part in self._parts
            if (width := part.shape[1])
        ]
        begin = first * self.shape[1]
        return np.concatenate(rows, axis=1).reshape(-1)[start - begin : stop - begin]


class Part(Entry):
    """Part `index` of `count` equal parts along an axis: 0, or 1 of a matrix."""

    def __init__(self, entry: Entry, axis: int, index: int, count: int):
        shape = list(entry.shape)
        if shape[axis] % count:
            raise InputError(
                f"tensor {shown(entry.name)} of shape {entry.shape}: axis {axis} must divide by {count} ranks"
            )
        shape[axis] //= count
        super().__init__(entry.name, entry.dtype, tuple(shape))
        self._entry, self._axis, self._index = entry, axis, index

    def check(self):
        self._entry.check()

    def read(self, start, stop):
        if self._axis == 0:
            begin = self._index * self.size
            return self._entry.read(begin + start, begin + stop)
        width, whole = self.shape[1], self._entry.shape[1]
        first, last, left = start // width, -(-stop // width), self._index * width
        if width * NUMPY[self.dtype].itemsize >= PAGE:
            rows = np.empty((last - first, width), NUMPY[self.dtype])
            for row in range(first, last):
                rows[row - first] = self._entry.read(row * whole + left, row * whole + left + width)
        else:
            rows = self._entry.read(first * whole, last * whole).reshape(-1, whole)[:, left : left + width]
        return rows.reshape(-1)[start - first * width : stop - first * width]


class Cast(Entry):
    """A tensor cast to another floating-point type.

    Attributes:
        overflowed: finite elements that became infinite, so far.
        changed: finite elements that were rounded, so far.
    """

    def __init__(self, entry: Entry, dtype: str):
        super().__init__(entry.name, dtype, entry.shape)
        self._entry, self.overflowed, self.changed = entry, 0, 0

    def check(self):
        self._entry.check()

    def read(self, start, stop):
        return self._convert(self._entry.read(start, stop))

    def slices(self, nbytes=SLICE):
        return map(self._convert, self._entry.slices(nbytes))  # the source's slices compare its checksum

    def _convert(self, piece: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):
            out = piece.astype(NUMPY[self.dtype])
            wide = np.float64 if "float64" in (self.dtype, self._entry.dtype) else np.float32  # holds both exactly
            before, after = piece.astype(wide), out.astype(wide)
        finite = np.isfinite(before)
        overflowed = finite & ~np.isfinite(after)
        self.overflowed += int(overflowed.sum())
        self.changed += int((finite & ~overflowed & (before != after)).sum())
        return out


def ahead(pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Iterate over the pieces; a thread reads the next one while the caller works on the current one."""
    pieces = iter(pieces)
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, pieces, None)
        while (piece := coming.result()) is not None:
            coming = thread.submit(next, pieces, None)
            yield piece


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of a contiguous tensor."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))
