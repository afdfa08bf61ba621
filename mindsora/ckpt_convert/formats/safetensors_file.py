"""safetensors: a JSON header of names, dtypes, shapes and byte ranges, then the bytes.

Format: the `safetensors` project's README. This module parses the header itself, because slices must come from plain
reads: the library maps the file, and mapped pages count as the process's memory.
"""

import json
import math
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np

from mindsora.ckpt_convert.dtypes import NUMPY, SAFETENSORS, named
from mindsora.ckpt_convert.entry import Entry, File, Storage, StorageEntry
from mindsora.config import parse_json
from mindsora.errors import InputError, shown

MAX_HEADER = 8 * 2**20  # bytes; bounds memory. The released v1.5 denoiser has 0.2 MB


def looks_like(head: bytes) -> bool:
    return len(head) > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER


def read(file: File) -> tuple[dict[str, Entry], dict[str, str]]:
    """Read the tensors and the metadata of a file. InputError: it is truncated, or its header contradicts itself."""
    length = int.from_bytes(file.read(0, 8), "little")
    if length > min(MAX_HEADER, file.size - 8):
        raise InputError(f"{file}: a header of {length} bytes; the file has {file.size}, the limit is {MAX_HEADER}")
    try:
        header = parse_json(file.read(8, length))
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{file}: the safetensors header is damaged ({shown(error, quote=False)}); fetch it again"
        ) from error
    if not isinstance(header, dict):
        raise InputError(f"{file}: the safetensors header is not a JSON object; fetch it again")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or any(not isinstance(value, str) for value in metadata.values()):
        raise InputError(f"{file}: __metadata__ must map strings to strings")
    start, ranges = 8 + length, []
    entries: dict[str, Entry] = {}
    for name, row in header.items():
        dtype, shape, low, high = _row(file, name, row)
        if high - low != math.prod(shape) * NUMPY[dtype].itemsize:
            raise InputError(
                f"{file}: tensor {shown(name)} of shape {shape}, {dtype} cannot fill bytes {low} to {high}"
            )
        entries[name] = StorageEntry(name, dtype, shape, Storage(file, [(start + low, high - low)]))
        ranges.append((low, high, name))
    end = 0
    for low, high, name in sorted(ranges):
        if low != end:
            what = "overlaps another tensor" if low < end else "leaves a hole before it"
            raise InputError(f"{file}: tensor {shown(name)} at bytes {low} to {high} {what}")
        end = high
    if start + end != file.size:
        raise InputError(f"{file}: is cut off or too long: {file.size} bytes, the header describes {start + end}")
    return entries, metadata


def _row(file: File, name: str, row) -> tuple[str, tuple[int, ...], int, int]:
    if not isinstance(row, dict) or row.keys() != {"dtype", "shape", "data_offsets"}:
        raise InputError(f"{file}: tensor {shown(name)} must have dtype, shape and data_offsets, nothing else")
    shape, offsets = row["shape"], row["data_offsets"]
    for values in (shape, offsets):
        if not isinstance(values, list) or any(type(n) is not int or n < 0 for n in values):
            raise InputError(f"{file}: tensor {shown(name)}: shape and data_offsets must be lists of whole numbers")
    if len(offsets) != 2 or offsets[0] > offsets[1] or len(shape) > 32:
        raise InputError(
            f"{file}: tensor {shown(name)}: data_offsets {offsets[:4]}, {len(shape)} dimensions are not possible"
        )
    return named(SAFETENSORS, row["dtype"], f"{file}: tensor {shown(name)}"), tuple(shape), *offsets


def write(out: BinaryIO, entries: Iterable[Entry], metadata: dict[str, str]) -> Iterable[int]:
    """Write a file; yield the number of bytes after every slice."""
    # Widest types first, like the library, so that every tensor begins at a multiple of its element size.
    entries = sorted(entries, key=lambda entry: (-NUMPY[entry.dtype].itemsize, entry.name))
    header: dict[str, dict] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for entry in entries:
        offsets = [offset, offset + entry.nbytes]
        header[entry.name] = {"dtype": SAFETENSORS[entry.dtype], "shape": list(entry.shape), "data_offsets": offsets}
        offset += entry.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    out.write(len(text).to_bytes(8, "little") + text)
    for entry in entries:
        for piece in entry.slices():
            out.write(piece.view(np.uint8))
            yield piece.nbytes
