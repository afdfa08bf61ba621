"""Checkpoints that the reader must refuse: BAD maps a name to (function that writes one, pattern of the error)."""

import json
import struct
import warnings
import zipfile

import numpy as np
import safetensors.numpy
import torch
from crafted import (
    FLOATS,
    GOOD,
    MAGIC,
    archive,
    call,
    field,
    legacy,
    named,
    number,
    program,
    row,
    safe,
    state,
    storage,
    tensor,
    text,
    tuple_of,
    value,
    varint,
)

BAD = {}


def bad(match):
    """Register a function folder -> path of a file or folder; `match`: a pattern of the error."""

    def register(make):
        BAD[make.__name__] = make, match
        return make

    return register


def bad_files(suffix, make, cases):
    """Register one file per case: name -> (contents or arguments of `make`, pattern)."""
    for name, (arguments, match) in cases.items():

        def write(folder, name=name, arguments=arguments):
            path = folder / f"{name}{suffix}"
            path.write_bytes(make(*arguments) if isinstance(arguments, tuple) else make(arguments))
            return path

        assert name not in BAD
        BAD[name] = write, match


# The torch reader: what a pickle may say

bad_files(
    ".pt",
    lambda body: archive(program(body)),
    {
        "extension_registry": (b"\x82\x01", "uses EXT1"),
        "duplicating": (b"}2", "uses DUP"),
        "unknown_opcode": (b"\xff", "is damaged"),
        "memo_never_filled": (b"h\x05", "is damaged"),
        "memo_giant_index": (b"j\xff\xff\xff\xff", "is damaged"),
        "no_stop": (b"}" * 3 + b"X\xff\xff\xff\xff", "is damaged"),
        "two_values": (b"}}", "leaves 2 values"),
        "empty_stack": (b"0", "is damaged"),
        "mark_without_end": (b"(}", "is damaged|no state dict"),
        "string_longer_than_file": (b"\x8d" + b"\xff" * 7 + b"\x3f", "is damaged"),
        "negative_length": (b"\x8b\xff\xff\xff\xff", "is damaged"),
        "giant_integer": (b"\x8b" + struct.pack("<i", 1000) + b"\x7f" * 1000, "a number of 7999 bits"),
        "items_for_a_list": (b"]" + text("w") + tensor() + b"s", "list where a dict belongs"),
        "a_key_twice": (state(("w", tensor()), ("w", tensor())), "'w' stands there twice"),
        "a_key_twice_in_pairs": (
            call(named("collections.OrderedDict"), b"](" + 2 * (text("w") + tensor() + b"\x86") + b"e"),
            "'w' stands there twice",
        ),
        "odd_items": (b"}(" + text("w") + b"u", "key without a value"),
        "root_list": (b"](" + tensor() + b"e", "holds a list, not a state dict"),
        "root_tensor": (tensor(), "holds a tensor, not a state dict"),
        "root_namespace": (named("argparse.Namespace") + b")\x81", "holds a argparse.Namespace"),
        "nothing": (b"}", "no state dict found"),
        "no_tensors": (state(("epoch", number(3))), "no state dict found; its keys are 'epoch'"),
        "name_moves_the_cursor": (state(("\x1b[2Jw", tensor())), "no tensor is called"),
        "name_of_two_lines": (state(("w\nmindsora: all is well", tensor())), "no tensor is called"),
        "name_half_a_surrogate": (state(("\ud800", tensor())), "no tensor is called"),
        "name_endless": (state(("w" * 5000, tensor())), "at most 1000"),
        "global_endless": (named("os." + "x" * 100_000), "which has no place"),
        "pickled_class": (
            state(("w", tensor()), ("model", named("torch.nn.modules.linear.Linear"))),
            "Save a plain state_dict",
        ),
        "call_of_a_storage": (call(named("torch.FloatStorage"), number(3)), "calls 'torch.FloatStorage'"),
        "call_of_a_value": (call(text("posix.system"), text("true")), "is damaged"),
        "object_of_a_tensor_class": (named("torch.Tensor") + b")\x81", "makes an object of 'torch.Tensor'"),
        "subclass_of_a_subclass": (
            call(*2 * [named("torch._tensor._rebuild_from_type_v2")], b"N", tuple_of(b"NNNN"), b"N"),
            "not rebuilt from a tensor",
        ),
        "attributes_of_a_tensor": (state(("w", tensor() + b"}b")), "attributes for a TensorRef"),
        "absurd_shape": (state(("w", tensor((2**62, 2**62), (2**62, 1)))), "no tensor has the shape"),
        "absurd_empty_shape": (state(("w", tensor((2**62, 2**62, 0), (0, 0, 0)))), "no tensor has the shape"),
        "absurd_stride": (state(("w", tensor((2, 3), (2**62, 1)))), "reaches beyond"),
        "absurd_offset": (state(("w", tensor(offset=2**62))), "reaches beyond"),
        "offset_by_one": (state(("w", tensor(offset=1))), "reaches beyond"),
        "offset_before_the_start": (state(("w", tensor(offset=-1))), "not negative"),
        "stride_backwards": (state(("w", tensor((2, 3), (3, -1)))), "not negative"),
        "shape_beyond_int64": (state(("w", tensor((2**64, 3), (3, 1)))), "not negative"),
        "shape_without_strides": (state(("w", tensor((2, 3), (1,)))), "tuples of one length"),
        "dimensions_without_end": (state(("w", tensor((1,) * 33, (1,) * 33))), "at most 32"),
        "six_floats_for_terabytes": (state(("w", tensor((2**40,), (0,)))), "are believed"),
        "stored_negated": (state(("w", tensor(more=state(("neg", b"\x88"))))), "resolve_neg"),
        "complex_numbers": (
            state(("w", tensor(of=storage(kind="torch.ComplexFloatStorage")))),
            "'torch.ComplexFloatStorage' are not",
        ),
        "storage_of_no_kind": (state(("w", tensor(of=storage(kind="torch.Tensor")))), "is damaged"),
        "storage_of_another_size": (state(("w", tensor(of=storage(size=5)))), "24 bytes, 20 are described"),
        "storage_of_absurd_size": (state(("w", tensor(of=storage(size=2**62)))), "are described"),
        "storage_of_negative_size": (state(("w", tensor(of=storage(size=-6)))), "no storage"),
        "storage_not_there": (state(("w", tensor(of=storage("1")))), "storage '1' is missing"),
        "storage_outside": (state(("w", tensor(of=storage("../../data.pkl")))), "is missing"),
        "storage_twice": (
            state(("v", tensor()), ("w", tensor(of=storage(kind="torch.IntStorage")))),
            "described twice",
        ),
        "storage_in_a_storage": (
            state(("w", tensor(of=storage(view=tuple_of(text("1"), number(0), number(6)))))),
            "views of storages",
        ),
        "persistent_text": (text("storage") + b"Q", "is damaged"),
    },
)

# Zip archives


@bad("'archive/data/0' is compressed")
def zip_compressed_storage(folder):
    with zipfile.ZipFile(path := folder / "x.pt", "w") as file:
        file.writestr("archive/data.pkl", GOOD)
        file.writestr("archive/data/0", FLOATS, zipfile.ZIP_DEFLATED)
    return path


def patched(data, at, new):
    return data[:at] + new + data[at + len(new) :]


def directory(data, name):
    """Where the central directory describes a member."""
    return data.rindex(name.encode()) - 46


def directory_patched(name, field, new):
    data = archive()
    return patched(data, directory(data, name) + field, new)


bad_files(
    ".pt",
    archive,
    {
        "zip_in_a_zip": ((GOOD, (("inner.pt", archive()), ("data/0", FLOATS)), b"little", 0, "a/b/"), "this archive 0"),
        "zip_for_a_pickle": ((archive(),), "uses PERSID|is damaged"),
        "zip_compressed": ((GOOD, (("data/0", FLOATS),), b"little", zipfile.ZIP_DEFLATED), "is compressed"),
        "zip_member_climbs": (
            (
                GOOD,
                (("data/0", FLOATS), ("../../evil", b"")),
            ),
            "leaves its folder",
        ),
        "zip_member_at_the_root": (
            (
                GOOD,
                (("data/0", FLOATS), ("/etc/evil", b"")),
            ),
            "leaves its folder",
        ),
        "zip_member_backslash": (
            (
                GOOD,
                (("data/0", FLOATS), ("..\\evil", b"")),
            ),
            "leaves its folder",
        ),
        "zip_two_programs": (
            (
                GOOD,
                (("data/0", FLOATS), ("!/data.pkl", GOOD)),
            ),
            "this archive 2",
        ),
        "zip_torchscript": (
            (
                GOOD,
                (("data/0", FLOATS), ("constants.pkl", program(b")"))),
            ),
            "TorchScript",
        ),
        "zip_big_endian": ((GOOD, (("data/0", FLOATS),), b"big"), "byte order b'big'"),
        "zip_storage_cut": ((GOOD, (("data/0", FLOATS[:-1]),)), "23 bytes, 24 are described"),
        "zip_storage_doubled": ((GOOD, (("data/0", 2 * FLOATS),)), "48 bytes, 24 are described"),
    },
)
bad_files(
    ".pt",
    directory_patched,
    {
        "zip_encrypted": (("archive/data/0", 8, b"\1"), "is compressed or encrypted"),
        "zip_pickle_checksum": (("archive/data.pkl", 16, b"\1\2\3\4"), "is damaged: checksum"),
        "zip_storage_checksum": (("archive/data/0", 16, b"\1\2\3\4"), "is damaged: checksum"),
        "zip_member_elsewhere": (("archive/data/0", 42, b"\5"), "does not lie where|shares bytes"),
        "zip_member_beyond": (("archive/data/0", 42, b"\0\0\0\x70"), "cut off"),
        "zip_member_too_long": (("archive/data/0", 20, 2 * b"\0\0\0\x70"), "reaches beyond"),
        "zip_from_the_future": (("archive/data/0", 6, b"\xff"), "no whole zip"),
    },
)
bad_files(
    ".pt",
    lambda at, new: patched(archive(), len(archive()) - 22 + at, new),
    {
        "zip_directory_absurd": ((12, b"\xff\xff\xff\x7f"), "no whole zip"),
        "zip_directory_elsewhere": ((16, b"\xff\xff\xff\x7f"), "cut off|shares bytes"),
    },
)
bad_files(
    ".pt",
    bytes,
    {
        "zip_empty": (b"PK\5\6" + bytes(18), "this archive 0"),
        "zip_head_alone": (b"PK\3\4", "no whole zip"),
        "zip_behind_a_zip64_locator": (
            archive()[:-22] + b"PK\6\7" + struct.pack("<IQI", 0, 2**63, 1) + archive()[-22:],
            "no whole zip",
        ),
    },
)


@bad("two files of one name")
def zip_name_twice(folder):
    path = folder / "x.pt"
    data = archive(GOOD, (("data/0", FLOATS), ("data/1", FLOATS)))
    path.write_bytes(data.replace(b"archive/data/1", b"archive/data/0"))
    return path


@bad("TorchScript")
def torchscript(folder):
    with warnings.catch_warnings(action="ignore"):  # torch recommends export instead
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), folder / "x.pt")
    return folder / "x.pt"


# Legacy files

bad_files(
    ".pth",
    lambda arguments: legacy(**arguments),
    {
        "legacy_no_torch_file": ({"magic": 1}, "no torch file"),
        "legacy_protocol": ({"protocol": 1002}, "protocol 1001"),
        "legacy_big_endian": ({"little": b"\x89"}, "big-endian"),
        "legacy_fewer_elements": ({"storages": ((5, FLOATS[:20]),)}, "5 elements, 6 are described"),
        "legacy_absurd_size": (
            {"storages": ((2**62, FLOATS),), "data": program(state(("w", tensor(of=storage(size=2**62)))))},
            "cut off",
        ),
        "legacy_no_keys": ({"keys": (), "storages": ()}, "'0' is missing"),
        "legacy_unknown_key": ({"keys": ("0", "1")}, "does not fit the tensors"),
        "legacy_key_twice": ({"keys": ("0", "0")}, "does not fit the tensors"),
        "legacy_more_follows": ({"storages": ((6, FLOATS + b"!"),)}, "1 bytes follow"),
        "legacy_cut": ({"storages": ((6, FLOATS[:-1]),)}, "cut off"),
        "legacy_no_storages": ({"storages": ()}, "cut off"),
    },
)
bad_files(
    ".pth",
    bytes,
    {
        "pickle_head_alone": (b"\x80", "neither a whole"),
        "pickle_of_a_dict": (program(b"}"), "no torch file"),
        "legacy_magic_alone": (program(number(MAGIC)), "is damaged"),
    },
)

# safetensors


ROW = json.dumps(row()).encode()
bad_files(
    ".safetensors",
    safe,
    {
        "header_beyond_the_file": (({"w": row()}, b"", 4096), "a header of 4096 bytes"),
        "header_absurd": (({"w": row()}, bytes(24), 2**63), "neither a whole"),
        "header_of_nothing": ((b"", bytes(24)), "neither a whole"),
        "header_cut": (({"w": row()}, bytes(24), 40), "header is damaged"),
        "header_list": ((b'[{"w":1}]', b""), "neither a whole"),
        "header_nested": ((b'{"w":' * 100_000, b""), "header is damaged"),
        "header_nan": ((b'{"w":' + ROW.replace(b"[2, 3]", b"[NaN]") + b"}",), "NaN is no JSON value"),
        "header_key_twice": ((b'{"w":' + ROW + b',"w":' + ROW + b"}",), "stands there twice"),
        "header_field_twice": ((b'{"w":' + ROW.replace(b"{", b'{"dtype":"F32",') + b"}",), "stands there twice"),
        "header_utf_16": (('{"w":' + ROW.decode() + "}").encode("utf-16-le"), "header is damaged"),
        "header_digits_without_end": ((b'{"w":' + ROW.replace(b"24", b"9" * 5000) + b"}",), "header is damaged"),
        "metadata_of_numbers": (({"__metadata__": {"a": 1}, "w": row()},), "strings to strings"),
        "row_list": (({"w": [1]},), "must have dtype, shape and data_offsets"),
        "row_more": (({"w": row(mode="x")},), "nothing else"),
        "row_dtype": (({"w": row(dtype="F31")},), "dtype 'F31' is not supported; known: F64"),
        "row_complex": (({"w": row(dtype="C64", shape=(3,))},), "dtype 'C64'"),
        "row_dtype_list": (({"w": row(dtype=["F32"] * 1000)},), "is not supported"),
        "row_negative": (({"w": row(shape=(-2, -3))},), "whole numbers"),
        "row_fraction": (({"w": row(shape=(2.0, 3))},), "whole numbers"),
        "row_truth": (({"w": row(shape=(True, 6))},), "whole numbers"),
        "row_absurd": (({"w": row(shape=(2**62, 2**62))},), "cannot fill"),
        "row_absurd_and_empty": (({"w": row(0, 0, (2**62, 2**62, 0))}, b""), "no tensor has the shape"),
        "row_wrong_size": (({"w": row(shape=(2, 4))},), "cannot fill"),
        "row_backwards": (({"w": row(24, 0)},), "not possible"),
        "row_33_dimensions": (({"w": row(shape=(1,) * 32 + (6,))},), "33 dimensions"),
        "ranges_overlap": (({"v": row(), "w": row(12, 36)}, bytes(36)), "'w' at bytes 12 to 36 overlaps"),
        "ranges_the_same": (({"v": row(), "w": row()},), "overlaps"),
        "ranges_with_a_hole": (({"v": row(), "w": row(28, 52)}, bytes(52)), "leaves a hole"),
        "ranges_beyond": (({"v": row(), "w": row(24, 48)}, bytes(47)), "cut off or too long"),
        "bytes_left_over": (({"w": row()}, bytes(25)), "cut off or too long"),
        "no_rows": (({"__metadata__": {"format": "pt"}}, b""), "holds no tensors"),
        "row_name_of_two_lines": (({"w\r\n": row()},), "no tensor is called"),
        "row_name_half_a_surrogate": ((b'{"\\ud800":' + ROW + b"}",), "no tensor is called"),
    },
)

# MindSpore


bad_files(
    ".ckpt",
    bytes,
    {
        "value_field_number": (value(second=0x1A), "no MindSpore checkpoint"),
        "value_without_tensor": (value() + field(0x0A, field(0x0A, b"v")), "no MindSpore checkpoint"),
        "value_without_type": (
            value() + field(0x0A, field(0x0A, b"v") + field(0x12, b"\x08\2" + field(0x1A, bytes(8)))),
            "no MindSpore",
        ),
        "value_without_content": (
            value() + field(0x0A, field(0x0A, b"v") + field(0x12, field(0x12, b"Float32"))),
            "no MindSpore",
        ),
        "value_twice": (value() + value(b"v") + value(), "'w' stands there twice"),
        "value_whole_twice": (value() + value(), "cannot fill 48 bytes"),
        "value_in_unlike_pieces": (value() + value(dims=b"\x08\3\x08\2"), "'w' stands there twice"),
        "value_of_no_name": (value() + value(b""), "no MindSpore checkpoint"),
        "value_name_no_text": (value(b"\xff\xfe"), "no MindSpore checkpoint"),
        "value_name_endless": (value(b"w" * 5000), "no MindSpore checkpoint"),
        "value_name_moves_the_cursor": (value(b"\x1b[2J"), "no tensor is called"),
        "value_wrong_size": (value(content=bytes(20)), "cannot fill 20 bytes"),
        "value_negative": (value(dims=b"\x08" + varint(2**64 - 6)), "dimensions .* are not possible"),
        "value_33_dimensions": (value(dims=b"\x08\1" * 32 + b"\x08\6"), "are not possible"),
        "value_packed_beyond": (value(dims=b"\x0a\2\xff\xff"), "no MindSpore checkpoint"),
        "value_type": (value(kind=b"Float31"), "dtype 'Float31'"),
        "value_complex": (value(kind=b"Complex64", dims=b"\x08\3"), "dtype 'Complex64'"),
        "value_overlong_number": (b"\x0a" + b"\xff" * 11 + value(), "neither a whole"),
        "value_overlong_inside": (
            value() + b"\x0a\x1e\x0a\1v\x12" + b"\x80" * 11 + bytes(16),
            "no MindSpore checkpoint",
        ),
        "value_beyond_the_file": (value() + b"\x0a" + varint(2**60) + value(b"v")[2:], "no MindSpore checkpoint"),
        "value_beyond_itself": (value().replace(b"\x1a\x18", b"\x1a\x19") + bytes(8), "no MindSpore checkpoint"),
        "value_and_rubbish": (value() + b"rubbish", "no MindSpore checkpoint"),
        "encrypted_mindspore": (struct.pack("<I", 0x7F3A5ED8) + bytes(60), "neither a whole"),
    },
)

# Neither format

bad_files(
    ".bin",
    bytes,
    {
        "empty_file": (b"", "neither a whole"),
        "web_page": (b"<!DOCTYPE html><html>404</html>", "neither a whole"),
        "lfs_pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 17\n", "neither a whole"),
        "gzip": (b"\x1f\x8b" + bytes(30), "neither a whole"),
        "zeros": (bytes(4096), "neither a whole"),
    },
)

# Folders


def shards(folder, index, **files):
    """Shards a.safetensors and b.safetensors, and an index: a dict, or its text."""
    files = files or {"a": {"v": np.zeros(3)}, "b": {"w": np.zeros(3)}}
    for name, arrays in files.items():
        safetensors.numpy.save_file(arrays, folder / f"{name}.safetensors")
    path = folder / "model.safetensors.index.json"
    path.write_text(index if isinstance(index, str) else json.dumps({"weight_map": index}))
    return path


for _name, (_index, _match) in {
    "shard_missing": ({"v": "a.safetensors", "w": "c.safetensors"}, "c.safetensors' does not exist"),
    "shard_climbs": ({"v": "../a.safetensors"}, "shards lie beside their index"),
    "shard_at_the_root": ({"v": "/etc/passwd"}, "shards lie beside their index"),
    "shard_is_the_folder_above": ({"v": ".."}, "shards lie beside their index"),
    "shard_of_no_name": ({"v": ""}, "shards lie beside their index"),
    "shard_of_endless_name": ({"v": "a" * 300}, "shards lie beside their index"),
    "shard_name_with_a_zero": ({"v": "a\0b"}, "does not exist"),
    "shard_is_the_index": ({"v": "model.safetensors.index.json"}, "neither a whole"),
    "shard_number": ({"v": 1}, "no weight_map"),
    "index_of_nothing": ({}, "no weight_map"),
    "index_list": ("[]", "must hold a JSON object"),
    "index_without_map": ("{}", "no weight_map"),
    "index_map_list": ('{"weight_map": ["a.safetensors"]}', "no weight_map"),
    "index_key_twice": ('{"weight_map": {"v": "a.safetensors", "v": "b.safetensors"}}', "stands there twice"),
    "index_no_json": ("{", "not JSON"),
    "index_nan": ('{"weight_map": NaN}', "not JSON"),
    "index_nested": ("[" * 100_000, "not JSON"),
    "index_absurd": (" " * (2**24 + 1), "is longer than"),
    "index_lists_more": ({"v": "a.safetensors", "w": "b.safetensors", "x": "a.safetensors"}, "no shard holds: 'x'"),
    "index_lists_two_lines": (
        {"v": "a.safetensors", "w": "b.safetensors", "x\ny": "a.safetensors"},
        r"no shard holds: 'x\\ny'",
    ),
}.items():
    BAD[_name] = lambda folder, index=_index: shards(folder, index), _match


@bad("'v' stands in two shards")
def shards_overlap(folder):
    v, w = {"v": np.zeros(3)}, {"w": np.zeros(3)}
    return shards(folder, {"v": "a.safetensors", "w": "b.safetensors"}, a=v, b=v | w)


@bad("holds 2 indices")
def shards_two_indices(folder):
    (shards(folder, {"v": "a.safetensors"}).parent / "other.safetensors.index.json").write_text("{}")
    return folder


@bad("must hold the same state dict")
def shards_unlike(folder):
    torch.save({"v": torch.zeros(3)}, folder / "a.bin")
    torch.save({"ema_model": {"w": torch.zeros(3)}}, folder / "b.bin")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"v": "a.bin", "w": "b.bin"}}))
    return folder


@bad("one weight file or one index; found a.safetensors, b.safetensors")
def shards_without_index(folder):
    shards(folder, {}).unlink()
    return folder


@bad("found none")
def folder_of_nothing(folder):
    return folder


SPLIT = "transformer_blocks.0.0.ff.net.2.weight"  # along axis 1


def ranks(folder, tracker="5", where="iter_0000005", **states):
    """A MindSpeed-MM folder of two tensor-parallel ranks, or of those given: folder name -> state dict."""
    states = states or {f"mp_rank_{rank:02d}": {SPLIT: torch.zeros(4, 2), "norm": torch.zeros(2)} for rank in range(2)}
    word = tracker if isinstance(tracker, bytes) else tracker.encode()
    (folder / "latest_checkpointed_iteration.txt").write_bytes(word)
    for name, weights in states.items():
        (folder / where / name).mkdir(parents=True)
        if weights is not None:
            torch.save({"model": weights}, folder / where / name / "model_optim_rng.pt")
    return folder


_one, _two, _scalar, _cube = ({SPLIT: torch.zeros(shape)} for shape in ((4, 2), (3, 2), (), (2, 2, 2)))
for _name, (_arguments, _match) in {
    "tracker_climbs": ({"tracker": "../iter_0000005"}, "must say 'release' or a number"),
    "tracker_empty": ({"tracker": ""}, "must say 'release' or a number"),
    "tracker_negative": ({"tracker": "-5"}, "must say 'release' or a number"),
    "tracker_foreign_digits": ({"tracker": "٥"}, "must say 'release' or a number"),
    "tracker_endless": ({"tracker": "5" * 100_000}, "must say 'release' or a number"),
    "tracker_no_text": ({"tracker": b"\xff\xfe\x00"}, "must say 'release' or a number"),
    "tracker_of_another_iteration": ({"tracker": "6"}, "holds no mp_rank"),
    "tracker_release": ({"tracker": "release"}, "holds no mp_rank"),
    "rank_missing": ({"mp_rank_00": _one, "mp_rank_02": _one}, r"missing \(TP 3, PP 1\): mp_rank_01"),
    "rank_without_file": ({"mp_rank_00": _one, "mp_rank_01": None}, "missing .* mp_rank_01"),
    "rank_of_a_stage_missing": (
        {"mp_rank_00_000": _one, "mp_rank_00_001": _one, "mp_rank_01_000": _one},
        "mp_rank_01_001",
    ),
    "rank_far_away": ({"mp_rank_999_999": _one}, "rank files are missing"),
    "rank_twice": ({"mp_rank_00": _one, "mp_rank_000": _one}, "are the same rank"),
    "ranks_of_unlike_shapes": ({"mp_rank_00": _one, "mp_rank_01": _two}, "do not fit together"),
    "ranks_of_unlike_dtypes": ({"mp_rank_00": _one, "mp_rank_01": {SPLIT: _one[SPLIT].half()}}, "do not fit together"),
    "ranks_of_scalars": ({"mp_rank_00": _scalar, "mp_rank_01": _scalar}, "do not fit together"),
    "ranks_of_cubes": ({"mp_rank_00": _cube, "mp_rank_01": _cube}, "do not fit together"),
    "rank_lacks_a_tensor": ({"mp_rank_00": _one, "mp_rank_01": {"norm": torch.zeros(2)}}, "some ranks lack"),
    "rank_wrapped_otherwise": (
        {"mp_rank_00": _one, "mp_rank_01": {"module." + SPLIT: torch.zeros(4, 2)}},
        "must hold the same state dict",
    ),
    "stage_twice": (
        {
            "mp_rank_00_000": {"transformer_blocks.01.0.x": torch.zeros(2)},
            "mp_rank_00_001": {"transformer_blocks.01.0.x": torch.zeros(2)},
        },
        "stands in two pipeline stages",
    ),
}.items():
    BAD[_name] = lambda folder, arguments=_arguments: ranks(folder, **arguments), _match


# Archives with more than one run of members: another program would read other contents than this one


@bad("shares bytes with another member")
def zip_members_that_share_bytes(folder):
    """Two directory entries point to one member's bytes; a zip bomb has thousands."""
    whole = archive(members=(("data/0", FLOATS), ("data/1", FLOATS)))
    start = whole.rindex(b"PK\1\2" + whole[whole.index(b"PK\1\2") + 4 :][:2])
    first, last = (whole.index(b"archive/data/" + digit) - 30 for digit in (b"0", b"1"))
    at = whole.index(struct.pack("<I", last), start)
    path = folder / "shared.pt"
    path.write_bytes(whole[:at] + struct.pack("<I", first) + whole[at + 4 :])
    return path


@bad("neither a whole safetensors, torch nor MindSpore file")
def zip_behind_another_file(folder):
    path = folder / "prefixed.pt"
    path.write_bytes(b"#!/bin/sh\necho harmless\n" + archive())
    return path


@bad("bytes stand before the archive")
def zip_behind_another_zip(folder):
    path = folder / "joined.pt"
    path.write_bytes(archive() + archive())
    return path


@bad("bytes follow the archive's directory|is no whole zip archive")
def zip_with_a_tail(folder):
    path = folder / "tail.pt"
    path.write_bytes(archive() + b"tail")
    return path


@bad("-0 is no JSON value")
def safetensors_minus_zero(folder):
    header = b'{"w":{"dtype":"F32","shape":[2,3],"data_offsets":[-0,24]}}'
    path = folder / "minus.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + FLOATS)
    return path


@bad("says 1099511627776 bytes and holds")
def a_terabyte_of_hole(folder):
    header = b'{"w":{"dtype":"U8","shape":[1099511627000],"data_offsets":[0,1099511627000]}}'
    path = folder / "hole.safetensors"
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(2**40)
    return path


@bad("is remembered after")
def memo_indices_that_skip(folder):
    path = folder / "memo.pt"
    path.write_bytes(archive(program(b"}r" + struct.pack("<I", 2**20))))
    return path
