"""torch's files: the current zip archive, and the sequence of pickles and raw storages before torch 1.6.

zip:     NAME/data.pkl (the object; storages by persistent id), NAME/data/KEY (raw bytes, stored), NAME/byteorder, ...
legacy:  pickles of a magic number, a protocol number, facts about the host, the object and the storages' keys, then
         for every key 8 bytes of element count and the raw bytes
"""

import io
import struct
import zipfile
from collections.abc import Iterable
from typing import Any, BinaryIO

import numpy as np

from mindsora.ckpt_convert.dtypes import NUMPY, TORCH_STORAGE
from mindsora.ckpt_convert.entry import Entry, File, Storage, StorageEntry, row_major
from mindsora.ckpt_convert.formats.torch_pickle import Machine, StorageRef, TensorRef
from mindsora.errors import InputError, shown

MAX_PICKLE = 64 * 2**20  # bytes; the released v1.5 denoiser's has 0.3 MB
MAX_DIRECTORY = 8 * 2**20  # bytes of a zip's directory, some 80,000 storages
MAX_REPEAT = 16  # tied and expanded tensors together may have this many times the stored bytes, ...
SMALL = 64 * 2**20  # ... or this many bytes, so that a few kilobytes cannot expand to terabytes
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
_ALIGNMENT = 64
_LOCAL_HEADER = 30  # bytes before a member's name


def looks_like_zip(head: bytes) -> bool:
    return head[:4] in (b"PK\x03\x04", b"PK\x05\x06")


def looks_like_legacy(head: bytes) -> bool:
    return head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5")  # a pickle of that protocol


def read_zip(file: File) -> "Tree":
    """Read the object in a zip archive, with entries in place of its tensors."""
    try:
        with zipfile.ZipFile(_Window(file)) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, struct.error, NotImplementedError) as error:
        raise InputError(f"{file}: is no whole zip archive ({error}); fetch it again") from error
    _check_layout(file, infos)
    members = {info.filename: info for info in infos}
    if len(members) != len(infos):
        raise InputError(f"{file}: the archive holds two files of one name")
    for name in members:
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise InputError(f"{file}: the archive holds {shown(name)}, a name that leaves its folder")
    pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise InputError(f"{file}: a torch file holds one */data.pkl, this archive {len(pickles)}")
    root = pickles[0].removesuffix("data.pkl")
    if root + "constants.pkl" in members:
        raise InputError(f"{file}: is a TorchScript program; save its state_dict() instead")
    if root + "byteorder" in members:
        order = _stored(file, members[root + "byteorder"])
        word = bytes(order.read(0, min(6, order.nbytes)))
        if word != b"little":
            raise InputError(
                f"{file}: has byte order {shown(word, quote=False)}; only files of little-endian machines are supported"
            )
    program = _stored(file, members[pickles[0]])
    if program.nbytes > MAX_PICKLE:
        raise InputError(f"{file}: a pickle of {program.nbytes} bytes; the limit is {MAX_PICKLE}")
    program.check()
    machine = Machine(str(file))
    tree = machine.run(io.BytesIO(bytes(program.read(0, program.nbytes))))
    storages = {}
    for key, ref in machine.storages.items():
        name = f"{root}data/{key}"
        if name not in members:
            raise InputError(f"{file}: storage {shown(key)} is missing; fetch it again")
        storages[key] = _stored(file, members[name])
        if storages[key].nbytes != _nbytes(ref):
            raise InputError(
                f"{file}: storage {shown(key)} has {storages[key].nbytes} bytes, {_nbytes(ref)} are described"
            )
    return Tree(file, tree, storages)


def _check_layout(file: File, infos: list[zipfile.ZipInfo]) -> None:
    """Raise InputError unless the archive is one sequence of members, each with its own bytes, and a directory.

    Members that share bytes let a small file expand to a large one. Bytes before the first member or after the directory
    may form another file, and programs differ in which of the two they read.
    """
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset < end:
            raise InputError(f"{file}: {shown(info.filename)} shares bytes with another member of the archive; refused")
        if not end and info.header_offset:
            raise InputError(f"{file}: {info.header_offset} bytes stand before the archive; cut them off")
        end = info.header_offset + _LOCAL_HEADER + info.compress_size
    if bytes(file.read(file.size - 22, 4)) != b"PK\5\6":
        raise InputError(f"{file}: bytes follow the archive's directory; cut them off")


def _nbytes(ref: StorageRef) -> int:
    return ref.size * NUMPY[ref.dtype or "uint8"].itemsize


class _Window(io.RawIOBase):
    """The file interface that zipfile needs, with a limit on the size of one read."""

    def __init__(self, file: File):
        self._file, self._position = file, 0

    def seekable(self):
        return True

    def readable(self):
        return True

    def tell(self):
        return self._position

    def seek(self, offset, whence=io.SEEK_SET):
        position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        if position < 0:
            raise OSError("before the beginning")
        self._position = position
        return position

    def read(self, count=-1):
        left = max(0, self._file.size - self._position)
        count = left if count is None or count < 0 else min(count, left)
        if count > MAX_DIRECTORY:
            raise ValueError(f"a directory of {count} bytes; the limit is {MAX_DIRECTORY}")
        data = bytes(self._file.read(self._position, count))
        self._position += count
        return data


def _stored(file: File, info: zipfile.ZipInfo) -> Storage:
    """Locate a member's bytes, which must be uncompressed: torch never compresses."""
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 0x1:
        raise InputError(f"{file}: {shown(info.filename)} is compressed or encrypted; torch files never are")
    local = file.read(info.header_offset, 30)  # the local header's name and extra field may differ in length
    if local[:4] != b"PK\x03\x04":
        raise InputError(f"{file}: {shown(info.filename)} does not lie where the directory says; fetch it again")
    names, extra = struct.unpack("<HH", local[26:30])
    start = info.header_offset + 30 + names + extra
    if start + info.file_size > file.size:
        raise InputError(f"{file}: {shown(info.filename)} reaches beyond the file; fetch it again")
    return Storage(file, [(start, info.file_size)], info.CRC or None)  # 0: the file was saved without checksums


def read_legacy(file: File) -> "Tree":
    """Read the object of a legacy file, with entries in place of its tensors."""
    stream = io.BytesIO(bytes(file.read(0, min(MAX_PICKLE, file.size))))
    if Machine(str(file)).run(stream) != LEGACY_MAGIC:
        raise InputError(f"{file}: is a pickle, but no torch file; refused")
    machines = [Machine(str(file)) for _ in range(4)]
    protocol, host, tree, keys = (machine.run(stream) for machine in machines)
    if protocol != LEGACY_PROTOCOL or not isinstance(host, dict) or type(keys) is not list:
        raise InputError(f"{file}: is no legacy torch file of protocol {LEGACY_PROTOCOL}")
    if host.get("little_endian") is not True:
        raise InputError(f"{file}: was written on a big-endian machine; only little-endian ones are supported")
    refs, position, storages = machines[2].storages, stream.tell(), {}
    for key in keys:
        if not isinstance(key, str) or key not in refs or key in storages:
            raise InputError(f"{file}: the list of storages does not fit the tensors; fetch the file again")
        size = int.from_bytes(file.read(position, 8), "little")
        if size != refs[key].size:
            raise InputError(f"{file}: storage {shown(key)} has {size} elements, {refs[key].size} are described")
        nbytes = _nbytes(refs[key])
        if position + 8 + nbytes > file.size:
            raise InputError(f"{file}: is cut off in storage {shown(key)}; fetch it again")
        storages[key] = Storage(file, [(position + 8, nbytes)])
        position += 8 + nbytes
    if missing := refs.keys() - storages.keys():
        raise InputError(f"{file}: storage {shown(sorted(missing)[0])} is missing; fetch it again")
    if position != file.size:
        raise InputError(f"{file}: {file.size - position} bytes follow the last storage; fetch it again")
    return Tree(file, tree, storages)


class Tree:
    """The object of a torch file.

    Attributes:
        root: nested dicts, lists and values, with TensorRefs.
    """

    def __init__(self, file: File, root: Any, storages: dict[str, Storage]):
        self.root, self._file, self._storages = root, file, storages

    def entries(self, state: dict) -> dict[str, Entry]:
        """The tensors of one flat dict of the tree, by key. Skips all other values."""
        entries: dict[str, Entry] = {}
        for name, ref in state.items():
            if isinstance(ref, TensorRef):
                storage = self._storages[ref.storage.key]
                entries[name] = StorageEntry(name, ref.dtype, ref.shape, storage, ref.offset, ref.strides)
        stored, nbytes = (sum(it.nbytes for it in kind.values()) for kind in (self._storages, entries))
        if nbytes > max(MAX_REPEAT * stored, SMALL):
            raise InputError(
                f"{self._file}: tensors of {nbytes} bytes are views of {stored} stored ones; at most "
                f"{MAX_REPEAT} times as many, or {SMALL}, are believed"
            )
        return entries


def write(out: BinaryIO, entries: Iterable[Entry], ties: dict[str, str], wrap: dict | None = None) -> Iterable[int]:
    """Write a zip archive that `torch.load(weights_only=True)` accepts; yield the number of bytes after every slice.

    Args:
        ties: name -> the entry's name whose storage it shares.
        wrap: plain values of an outer dict, which holds the state dict under the key "model". None: no outer dict.
    """
    entries = sorted(entries, key=lambda entry: entry.name)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        _add(archive, out, "archive/data.pkl", _program(entries, ties, wrap))
        _add(archive, out, "archive/byteorder", b"little")
        for key, entry in enumerate(entries):
            with archive.open(_member(out, f"archive/data/{key}", entry.nbytes), "w", force_zip64=True) as member:
                for piece in entry.slices():
                    member.write(piece.view(np.uint8))
                    yield piece.nbytes
        _add(archive, out, "archive/version", b"3\n")


def _add(archive: zipfile.ZipFile, out: BinaryIO, name: str, data: bytes) -> None:
    with archive.open(_member(out, name, len(data)), "w", force_zip64=True) as member:
        member.write(data)


def _member(out: BinaryIO, name: str, size: int) -> zipfile.ZipInfo:
    """Add a member whose bytes begin at a multiple of 64, like torch (a mapped tensor needs this)."""
    info = zipfile.ZipInfo(name)  # fixed date of 1980, so that the same weights give the same file
    info.file_size = size
    zip64 = 20  # bytes of the extra field that force_zip64 adds
    start = out.tell() + 30 + len(name) + zip64 + 4
    fill = -start % _ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", fill) + b"Z" * fill
    return info


def _program(entries: list[Entry], ties: dict[str, str], wrap: dict | None) -> bytes:
    """The pickle of {name: tensor}, protocol 2."""
    keys = {entry.name: (str(key), entry) for key, entry in enumerate(entries)}
    out = bytearray(b"\x80\x02")
    if wrap is not None:
        out += b"}("
        for name, value in wrap.items():
            out += _string(name) + _plain(value)
        out += _string("model")
    out += b"}("
    for name, source in [(name, name) for name in keys] + list(ties.items()):
        key, entry = keys[source]
        out += _string(name) + _tensor(key, entry)
    out += b"u"
    if wrap is not None:
        out += b"u"
    return bytes(out + b".")


def _tensor(key: str, entry: Entry) -> bytes:
    raw = entry.dtype not in TORCH_STORAGE
    rebuild = b"ctorch._utils\n_rebuild_tensor_" + (b"v3\n" if raw else b"v2\n")
    kind = b"ctorch.storage\nUntypedStorage\n" if raw else f"ctorch\n{TORCH_STORAGE[entry.dtype]}\n".encode()
    size = entry.nbytes if raw else entry.size
    storage = b"(" + _string("storage") + kind + _string(key) + _string("cpu") + _integer(size) + b"tQ"
    view = (
        _integer(0)
        + _integers(entry.shape)
        + _integers(row_major(entry.shape))
        + b"\x89"
        + b"ccollections\nOrderedDict\n)R"
    )
    dtype = f"ctorch\n{entry.dtype}\n".encode() if raw else b""
    return rebuild + b"(" + storage + view + dtype + b"tR"


def _integers(values) -> bytes:
    return b"(" + b"".join(map(_integer, values)) + b"t"


def _integer(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def _string(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _plain(value: int | float | str) -> bytes:
    if isinstance(value, str):
        return _string(value)
    return _integer(value) if isinstance(value, int) else b"G" + struct.pack(">d", value)
