"""Write checkpoints by hand, opcode by opcode and header by header, without running any of their code."""

import io
import json
import struct
import zipfile

import numpy as np

# Pickles


def text(value):
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def number(value):
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def tuple_of(*items):
    return b"(" + b"".join(items) + b"t"


def named(path):
    module, _, name = path.rpartition(".")
    return f"c{module}\n{name}\n".encode()


def call(function, *arguments):
    return function + tuple_of(*arguments) + b"R"


def storage(key="0", size=6, kind="torch.FloatStorage", view=b""):
    return tuple_of(text("storage"), named(kind), text(key), text("cpu"), number(size), view) + b"Q"


WHOLE = storage()


def tensor(shape=(2, 3), strides=(3, 1), offset=0, of=WHOLE, more=b""):
    sizes = (tuple_of(*map(number, values)) for values in (shape, strides))
    return call(
        named("torch._utils._rebuild_tensor_v2"),
        of,
        number(offset),
        *sizes,
        b"\x89",
        call(named("collections.OrderedDict")),
        more,
    )


def state(*pairs):
    return b"}(" + b"".join(text(key) + value for key, value in pairs) + b"u"


def namespace(*pairs):
    return named("argparse.Namespace") + b")\x81" + state(*pairs) + b"b"


def program(body):
    return b"\x80\x02" + body + b"."


GOOD = program(state(("w", tensor())))
FLOATS = np.arange(6, dtype=np.float32).tobytes()


def archive(data=GOOD, members=(("data/0", FLOATS),), byteorder=b"little", compression=0, root="archive/"):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as file:
        for name, content in (("data.pkl", data), ("byteorder", byteorder), *members):
            file.writestr(name if name.startswith(("/", "!")) else root + name, content)
    return out.getvalue()


MAGIC = 0x1950A86A20F9469CFC6C


def legacy(data=GOOD, keys=("0",), storages=((6, FLOATS),), magic=MAGIC, protocol=1001, little=b"\x88"):
    head = (number(magic), number(protocol), state(("little_endian", little)))
    tail = program(b"](" + b"".join(map(text, keys)) + b"e")
    content = b"".join(size.to_bytes(8, "little") + numbers for size, numbers in storages)
    return b"".join(map(program, head)) + data + tail + content


# safetensors


def safe(header, data=bytes(24), length=None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + data


def row(low=0, high=24, shape=(2, 3), dtype="F32", **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [low, high], **more}


# MindSpore


def varint(value):
    low, high = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(high) if high else bytes([low])


def field(key, content):
    return bytes([key]) + varint(len(content)) + content


def value(tag=b"w", dims=b"\x08\2\x08\3", kind=b"Float32", content=bytes(24), second=0x12):
    return field(0x0A, field(0x0A, tag) + field(second, dims + field(0x12, kind) + field(0x1A, content)))


# Programs that run a command when `pickle` loads them (the tests make sure that they do)


def gadgets(canary):
    shell, code = f"touch {canary}", f"open({str(canary)!r}, 'w').close()"
    system, command = named("posix.system"), text(shell)
    inner = program(call(system, command))
    os_module = call(named("importlib.import_module"), text("os"))
    protocol_4 = b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94"
    bodies = {
        "os_system": call(system, command),
        "eval": call(named("builtins.eval"), text(code)),
        "exec": call(named("builtins.exec"), text(code)),
        "subprocess": call(named("subprocess.check_call"), b"](" + text("touch") + text(str(canary)) + b"e"),
        "getattr": call(call(named("builtins.getattr"), os_module, text("system")), command),
        "old_builtins": call(named("__builtin__.eval"), text(code)),
        "partial_newobj": named("functools.partial") + tuple_of(system, command) + b"\x81)R",
        "partial_newobj_ex": named("functools.partial") + tuple_of(system) + b"}\x92" + tuple_of(command) + b"R",
        "inst": b"(" + command + b"iposix\nsystem\n",
        "obj": b"(" + system + command + b"o",
        "setstate": namespace(("__setstate__", system)) + command + b"b",
        "nested_pickle": call(named("_pickle.loads"), b"B" + struct.pack("<I", len(inner)) + inner),
        "run_code": call(named("runpy._run_code"), text(code), b"}"),
        "timeit": call(named("timeit.timeit"), text("pass"), text(code)),
        "numpy_runstring": call(named("numpy.testing._private.utils.runstring"), text(code), b"}"),
        "tensor_subclass": call(
            named("torch._tensor._rebuild_from_type_v2"), system, named("torch.Tensor"), tuple_of(command), b"}"
        ),
        "in_bookkeeping": state(("args", namespace(("x", call(system, command))))),
        "as_a_key": b"}" + call(system, command) + b"Ns",
    }
    pickles = {name: program(body) for name, body in bodies.items()}
    pickles["stack_global"] = protocol_4 + b"\x93" + command + b"\x85R."
    pickles["stack_global_from_memo"] = protocol_4 + b"00h\x00h\x01\x93" + command + b"\x85R."
    pickles["stack_global_dotted"] = b"\x80\x04\x8c\x08argparse\x8c\x0a_os.system\x93" + command + b"\x85R."
    return pickles
