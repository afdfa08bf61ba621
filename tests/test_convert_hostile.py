"""Hostile files: the reader refuses each with one line, runs nothing, leaves nothing, in bounded memory and time."""

import json
import pickle
import random
import re
import resource
import subprocess
import sys
from contextlib import suppress

import ml_dtypes
import numpy as np
import pytest
import torch
from bad_checkpoints import BAD, SPLIT, ranks
from checkpoint_bombs import bombs
from crafted import archive, call, gadgets, legacy, named, namespace, number, program, state, tensor, text
from safetensors.numpy import save_file

from mindsora.ckpt_convert import convert, load, open_checkpoint
from mindsora.ckpt_convert.recognise import build_cell
from mindsora.cli import main
from mindsora.errors import InputError

CONTAINERS = {"zip": archive, "legacy": legacy, "bare": bytes}


def contents(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def read(path):
    """Name -> dtype, shape and hash of every tensor: all bytes are read."""
    with open_checkpoint(path) as checkpoint:
        return {name: (entry.dtype, entry.shape, entry.sha256()) for name, entry in checkpoint.items()}


def refused(act, *arguments, **options):
    """The message of an InputError: one printable line, short enough to read."""
    with pytest.raises(InputError) as caught:
        act(*arguments, **options)
    message = str(caught.value)
    assert message.isprintable() and len(message) < 1000, message
    return message


def conversion_refused(path, **options):
    """The source is unchanged, and the target does not exist, neither as a file nor as *.partial."""
    place = path.parent.with_name(path.parent.name + "_out")
    place.mkdir(exist_ok=True)
    before = contents(path.parent)
    message = refused(convert, path, place / "x.safetensors", **options)
    refused(convert, path, place / "folder", **options)
    assert list(place.iterdir()) == [] and contents(path.parent) == before
    return message


@pytest.mark.parametrize("name", BAD)
def test_a_bad_checkpoint_is_refused(name, tmp_path):
    make, match = BAD[name]
    folder = tmp_path / "in"
    folder.mkdir()
    path = make(folder)
    assert re.search(match, refused(read, path))
    conversion_refused(path)


# Programs in pickles


@pytest.fixture
def canary(tmp_path):
    return tmp_path / "canary"


@pytest.mark.parametrize("name", gadgets("canary"))
def test_a_gadget_runs_elsewhere_and_not_here(name, canary, tmp_path):
    harmful = gadgets(canary)[name]
    (tmp_path / "in").mkdir()
    for kind, wrap in CONTAINERS.items():
        path = tmp_path / "in" / f"{kind}.pt"
        path.write_bytes(wrap(harmful))
        assert re.search(r"which has no place|uses (INST|OBJ|NEWOBJ_EX)|makes an object", refused(read, path))
        conversion_refused(path)
        assert main(["inspect", str(path)]) == 2
        assert not canary.exists()
    with suppress(Exception):  # only the gadget's command matters
        pickle.loads(harmful)
    assert canary.exists()  # so the gadget works


def test_a_gadget_beside_tensors(canary, tmp_path):
    path = tmp_path / "x.pt"
    path.write_bytes(archive(program(state(("w", tensor()), ("x", call(named("os.system"), text(f"touch {canary}")))))))
    assert "'os.system'" in refused(read, path) and not canary.exists()


def test_a_bookkeeping_class_is_never_called(tmp_path):
    path = tmp_path / "x.pt"
    path.write_bytes(
        archive(
            program(
                state(
                    ("w", tensor()),
                    ("args", call(named("megatron.os.system"), text("exit 1"))),
                    ("path", call(named("pathlib.PosixPath"), text("a" * 100_000))),
                    ("bytes", call(named("_codecs.encode"), text("a"), text("no such codec"))),
                    ("space", namespace(("__setstate__", named("numpy.dtype"))) + text("x") + b"b"),
                )
            )
        )
    )
    assert list(read(path)) == ["w"]
    path.write_bytes(archive(program(b"}(" + text("w") + tensor() + b"K\1" + tensor() + b"u")))
    assert list(read(path)) == ["w"]  # a tensor under a number has no name


class Whole(torch.nn.Module):
    pass


def unsupported():
    w = torch.arange(12.0).reshape(3, 4)
    yield "a whole module", Whole(), "test_convert_hostile.Whole', which has no place"
    for dtype in (torch.complex64, torch.complex128, torch.uint16, torch.float8_e8m0fnu):
        yield str(dtype), {"w": w.to(dtype)}, "tensors of kind .* are not supported; known: float64"
    yield "sparse", {"w": w.to_sparse()}, "_rebuild_sparse_tensor"
    yield "meta", {"w": w.to("meta")}, "_rebuild_meta_tensor_no_storage"
    yield "negated", {"w": torch.view_as_complex(torch.ones(2, 2)).conj().imag}, "resolve_neg"


@pytest.mark.parametrize("modern", [True, False])
@pytest.mark.parametrize("case", list(unsupported()), ids=lambda case: case[0])
@pytest.mark.filterwarnings("ignore")
def test_what_torch_writes_and_is_no_plain_tensor_is_refused_by_name(case, modern, tmp_path):
    _, value, match = case
    torch.save(value, tmp_path / "x.pt", _use_new_zipfile_serialization=modern)
    assert re.search(match, refused(read, tmp_path / "x.pt"))


# Damaged copies of a valid checkpoint


CONFIG = {"vocab_size": 16, "d_model": 8, "d_kv": 4, "d_ff": 12, "num_heads": 2, "num_layers": 1}
BLOCK = "encoder.block.0.layer."
SHAPES = {
    "shared.weight": (16, 8),
    BLOCK + "0.SelfAttention.relative_attention_bias.weight": (32, 2),
    **{f"{BLOCK}0.SelfAttention.{name}.weight": (8, 8) for name in "qkvo"},
    BLOCK + "0.layer_norm.weight": (8,),
    BLOCK + "1.layer_norm.weight": (8,),
    "encoder.final_layer_norm.weight": (8,),
    BLOCK + "1.DenseReluDense.wi_0.weight": (12, 8),
    BLOCK + "1.DenseReluDense.wi_1.weight": (12, 8),
    BLOCK + "1.DenseReluDense.wo.weight": (8, 12),
}
FORMATS = ("x.safetensors", "x.pt", "legacy.pt", "x.ckpt")


def weights():
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape, np.float32) for name, shape in SHAPES.items()}


def write(path, arrays):
    """One of FORMATS."""
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if path.suffix == ".safetensors":
        save_file(arrays, path)
    elif path.suffix == ".pt":
        torch.save(tensors, path, _use_new_zipfile_serialization=path.stem == "x")
    else:
        save_file(arrays, source := path.with_name("source.safetensors"))
        convert(source, path, to="mindspore")
        source.unlink()
    return path


@pytest.fixture(scope="module", params=FORMATS)
def valid(request, tmp_path_factory):
    """Contents of a file that converts, and its tensors."""
    path = write(tmp_path_factory.mktemp("valid") / request.param, weights())
    assert convert(path, path.with_name("y.safetensors")).model == "T5Encoder"
    return path.name, path.read_bytes(), read(path)


def test_a_file_that_was_cut_off_is_refused(valid, tmp_path):
    name, data, _ = valid
    draw = random.Random(name)
    offsets = [draw.randrange(len(data)) for _ in range(20)] + [draw.randrange(len(data) // 4) for _ in range(5)]
    (tmp_path / "in").mkdir()
    for offset in (0, 1, 8, *offsets, len(data) - 1):
        (tmp_path / "in" / name).write_bytes(data[:offset])
        conversion_refused(tmp_path / "in" / name)


def test_a_bit_that_flipped_is_noticed(valid, tmp_path):
    name, data, tensors = valid
    draw = random.Random(name)
    if name == "legacy.pt":  # no checksum, and a stride can take another possible value: test_convert_fuzz flips there
        spots = [draw.randrange(30) for _ in range(20)]
    elif name == "x.pt":  # checksums: anywhere
        spots = [draw.randrange(len(data)) for _ in range(300)]
    elif name == "x.safetensors":  # the header; nothing guards the numbers themselves
        spots = [draw.randrange(8 + int.from_bytes(data[:8], "little")) for _ in range(150)]
    else:
        at = [match.end() for match in re.finditer(b"Float32", data)]
        spots = [position - draw.randrange(40) for position in at for _ in range(8)]
    (path := tmp_path / "in" / name).parent.mkdir()
    noticed = 0
    for spot in spots:
        path.write_bytes(data[:spot] + bytes([data[spot] ^ 1 << draw.randrange(8)]) + data[spot + 1 :])
        try:
            unharmed = read(path) == tensors  # a flip in a date or in padding
        except InputError:
            unharmed = False
        if not unharmed:
            noticed += 1
            if noticed <= 12:  # building a model is slow
                conversion_refused(path)
            else:
                damage_is_visible(path, tensors)
    assert noticed > len(spots) // 4


def damage_is_visible(path, tensors):
    """The file is refused, or its names and shapes no longer fit the model and a conversion lists them."""
    try:
        found = read(path)
    except InputError:
        return
    assert {name: row[:2] for name, row in found.items()} != {name: row[:2] for name, row in tensors.items()}


Q, WO = BLOCK + "0.SelfAttention.q.weight", BLOCK + "1.DenseReluDense.wo.weight"
NORM, TABLE = BLOCK + "0.layer_norm.weight", BLOCK + "0.SelfAttention.relative_attention_bias.weight"
MISFITS = {
    "missing": (lambda w: w.pop(BLOCK + "0.SelfAttention.k.weight"), r"missing \['encoder.block.0.*k.weight'\]"),
    "unexpected": (lambda w: w.update({BLOCK + "2.weight": w[Q]}), r"unexpected \['encoder.block.0.layer.2.weight'\]"),
    "wrong shape": (lambda w: w.update({NORM: w[Q]}), r"norm.weight: \(8, 8\), expected \(8,\)"),
    "transposed": (lambda w: w.update({WO: w[WO].T}), r"wo.weight: \(12, 8\), expected \(8, 12\)"),
    "one more dimension": (lambda w: w.update({"shared.weight": w["shared.weight"][None]}), "make no configuration"),
    "a scalar": (lambda w: w.update({"shared.weight": w["shared.weight"][0, 0]}), "make no configuration"),
    "empty": (lambda w: w.update({"shared.weight": w["shared.weight"][:0]}), "holds nothing"),
    "a block too far": (lambda w: w.update({Q.replace("block.0", "block.7"): w[Q]}), "unexpected .*block.7"),
    "two names": (lambda w: w.update({"encoder.embed_tokens.weight": w["shared.weight"] + 1}), "have different values"),
    "buckets": (lambda w: w.update({TABLE: w[TABLE][:5]}), "buckets must divide by 4"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_weights_that_fit_no_model(name, tmp_path):
    change, match = MISFITS[name]
    change(arrays := weights())
    (path := tmp_path / "in" / "x.safetensors").parent.mkdir()
    save_file({key: np.ascontiguousarray(value) for key, value in arrays.items()}, path)
    assert re.search(match, conversion_refused(path))


@pytest.mark.parametrize(
    "text, match",
    [
        ("{", "not JSON"),
        ('{"layer_norm_epsilon": NaN}', "not JSON"),
        ('{"d_model": 8, "d_model": 8}', "twice"),
        ("[1]", "a JSON object"),
        ('{"num_heads": 3}', "the weights say 2"),
        ('{"num_layers": "one"}', "the weights say 1"),
        ('{"window": 3}', "unknown key 'window'"),
        ('{"relative_attention_max_distance": "far"}', "'far' must be of type int"),
        ('{"relative_attention_max_distance": 1' + 30 * "0" + "}", "from 1 to 16777216; nearest legal: 16777216"),
        ('{"relative_attention_max_distance": 1e30}', r"1e\+30 must be of type int"),
    ],
)
def test_a_bad_config_beside_good_weights(text, match, tmp_path):
    (tmp_path / "in").mkdir()
    save_file(weights(), tmp_path / "in" / "x.safetensors")
    (tmp_path / "in" / "config.json").write_text(text)
    assert re.search(match, conversion_refused(tmp_path / "in" / "x.safetensors"))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16", "float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers(dtype, value, tmp_path):
    tensors = {name: torch.from_numpy(array).to(getattr(torch, dtype)) for name, array in weights().items()}
    # float8_e4m3fn has no infinity, and torch converts one to its largest number
    tensors[Q][7, 7] = np.nan if dtype == "float8_e4m3fn" else value
    (path := tmp_path / "in" / "x.pt").parent.mkdir()
    torch.save(tensors, path)
    assert f"tensor {Q!r} holds infinite values or NaN; --allow-nonfinite" in conversion_refused(path)
    expected = read(path)
    convert(path, tmp_path / "y.safetensors", allow_nonfinite=True)
    assert read(tmp_path / "y.safetensors") == expected


# Contradictions between ranks are found when they are merged; these faults, when the model is fitted


def test_ranks_of_no_model(tmp_path):
    (tmp_path / "in").mkdir()
    path = ranks(tmp_path / "in", mp_rank_00={SPLIT: torch.zeros(4, 2)}, mp_rank_01={SPLIT: torch.ones(4, 2)})
    assert read(path)[SPLIT][1] == (4, 4)
    before = contents(path)
    assert "holds no known model" in refused(convert, path, tmp_path / "x.pt")
    assert contents(path) == before and not list(tmp_path.glob("x.pt*"))


def test_a_disk_that_fills_up_leaves_nothing(tmp_path):
    source = write(tmp_path / "x.safetensors", weights())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for target in ("y.pt", "y.ckpt", "folder"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
        try:
            message = refused(convert, source, tmp_path / target)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "cannot write" in message and list(tmp_path.iterdir()) == [source]


def test_a_path_that_is_too_long(tmp_path):
    assert "cannot read" in refused(read, tmp_path / ("x" * 300))


@pytest.mark.parametrize("target, words", [("x" * 300, "File name too long"), ("a\0b", "null byte")])
def test_a_target_that_no_file_can_have(tmp_path, monkeypatch, target, words):
    monkeypatch.chdir(tmp_path)
    source = write(tmp_path / "x.safetensors", weights())
    assert words in refused(convert, source, target)
    assert list(tmp_path.iterdir()) == [source]


def test_an_empty_folder_may_be_the_target(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    source = write(tmp_path / "x.safetensors", weights())
    monkeypatch.chdir(tmp_path / "empty")
    convert(source, ".")
    assert sorted(path.name for path in (tmp_path / "empty").iterdir()) == ["config.json", "model.safetensors"]


# Filling a Cell


def filled():
    cell = build_cell("T5Encoder", CONFIG)
    return load(cell, {name: np.full(shape, 2.0, np.float32) for name, shape in SHAPES.items()})


def test_a_damaged_archive_leaves_the_cell_as_it_was(tmp_path):
    data = write(tmp_path / "x.pt", weights()).read_bytes()
    last = data.rindex(weights()[list(SHAPES)[-1]].tobytes())
    (tmp_path / "x.pt").write_bytes(data[:last] + bytes([data[last] ^ 1]) + data[last + 1 :])
    cell = filled()
    assert "is damaged: checksum" in refused(load, cell, tmp_path / "x.pt")
    assert all((parameter.asnumpy() == 2).all() for parameter in cell.get_parameters())


@pytest.mark.parametrize("dtype", [ml_dtypes.float8_e4m3fn, np.int8])
def test_numbers_without_their_scales_fill_no_cell(dtype):
    cell = filled()
    message = refused(load, cell, weights() | {Q: weights()[Q].astype(dtype)})
    assert f"tensor {Q!r} is {np.dtype(dtype).name}" in message
    assert all((parameter.asnumpy() == 2).all() for parameter in cell.get_parameters())


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "int8"])
def test_numbers_without_their_scales_are_converted_with_a_warning(tmp_path, dtype):
    arrays = {name: torch.from_numpy(array) for name, array in weights().items()}
    arrays[Q] = arrays[Q].to(getattr(torch, dtype))
    torch.save(arrays, tmp_path / "x.pt")
    (warning,) = convert(tmp_path / "x.pt", tmp_path / "y.pt").warnings
    assert warning == f"1 tensors are no weights without their scales, and no Cell takes them: {Q!r} ({dtype})"


# Memory and time


CHILD = """
import json, re, resource, sys
from pathlib import Path
from mindsora.ckpt_convert.inspection import describe
from mindsora.ckpt_convert.checkpoint import open_checkpoint
from mindsora.ckpt_convert.recognise import recognise
from mindsora.errors import InputError
resource.setrlimit(resource.RLIMIT_AS, (1_500_000_000,) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (120,) * 2)  # a tenth is usual; what hangs, hangs for hours
for path in sys.argv[1:]:
    message = None
    try:
        with open_checkpoint(path) as checkpoint:
            describe(checkpoint)
            recognise(checkpoint)
    except InputError as error:
        message = str(error)
    # not ru_maxrss, which begins with the parent's
    peak = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]
    print(json.dumps([path, message, int(peak) // 1024]), flush=True)
"""


@pytest.mark.full
def test_bombs_take_bounded_memory_and_time(tmp_path):
    expected = {}
    for name, (data, match) in bombs().items():
        (tmp_path / name).write_bytes(data)
        expected[str(tmp_path / name)] = match
    done = subprocess.run([sys.executable, "-c", CHILD, *expected], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-2000:]
    for line, (path, match) in zip(done.stdout.splitlines(), expected.items(), strict=True):
        found, message, peak = json.loads(line)  # peak: MB of this run and all before it
        assert found == path and message is not None and re.search(match, message), line
        assert message.isprintable() and len(message) < 1000
        assert peak < 400, line  # 270 here


def test_the_command_line_says_it_in_one_line(tmp_path, capsys):
    for name in ("global_endless", "header_nested", "row_name_of_two_lines", "zip_member_climbs", "tracker_climbs"):
        (tmp_path / name).mkdir()
        path = BAD[name][0](tmp_path / name)
        for command, *more in (["inspect", "--hash"], ["verify", str(path)], ["convert", str(tmp_path / "y.pt")]):
            assert main([command, str(path), *more]) == 2
            captured = capsys.readouterr()
            assert captured.out == "" and captured.err.count("\n") == 1 and captured.err.startswith("mindsora: error: ")
    assert not list(tmp_path.glob("y.pt*"))


def test_numbers_with_one_hash_take_no_time(tmp_path):
    """As dict keys, each would be compared with all earlier ones: hours for a 3 MB file. They are left out."""
    prime = 2**61 - 1  # hash(n) is n modulo this prime
    keys = b"".join(number(prime * k) + b"N" for k in range(1, 100_001))
    path = tmp_path / "keys.pt"
    path.write_bytes(archive(program(b"}(" + text("w") + tensor() + b"u(" + keys + b"u")))
    assert list(read(path)) == ["w"]
