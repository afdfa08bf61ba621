"""Small checkpoints that cost a careless reader endless time or all the memory."""

import struct

from crafted import archive, call, named, number, program, safe, state, storage, tensor, text, tuple_of, value

SHARED = b"h\0"  # what was memoized first
WORK = "more than 1000000 instructions or copies"


def remembered(body):
    """Build a value, memoize it as number 0, forget it."""
    return body + b"q\x000"


def listed(items, count):
    return b"](" + items * count + b"e"


def repeated(shared, function):
    """A long value, and a function called with it again and again."""
    return remembered(shared) + listed(function + SHARED + b"\x85R", 20_000)


def pairs(count):
    return b"](" + b"".join(b"J" + struct.pack("<i", i) + b"N\x86" for i in range(count)) + b"e"


def rows(names):
    """A safetensors file of tensors of one byte."""
    offsets = {name: {"dtype": "U8", "shape": [1, 1], "data_offsets": [i, i + 1]} for i, name in enumerate(names)}
    return safe(offsets, bytes(len(names)))


def zip_of_many(count):
    """An archive whose directory lists one member under many names."""
    data = archive()
    begin = data.index(b"PK\1\2")
    head = b"PK\1\2" + bytes(24) + struct.pack("<HHH", 6, 0, 0) + bytes(12)
    entries = b"".join(head + b"%06d" % i for i in range(count))
    return data[:begin] + entries + data[-22:-10] + struct.pack("<IIH", len(entries), begin, 0)


T5 = (
    "shared.weight",
    *(
        f"encoder.block.0.layer.{name}.weight"
        for name in ("0.SelfAttention.q", "1.DenseReluDense.wi_0", "0.SelfAttention.relative_attention_bias")
    ),
)
SUV = (
    "patch_embed.proj.weight",
    "proj_out.weight",
    "transformer_blocks.0.0.attn1.norm_q.weight",
    "time_text_embed.text_embedder.linear_1.weight",
    "caption_projection.weight",
)


def pickles():
    """Name -> program, and what the refusal says."""
    rebuild = call(named("torch._utils._rebuild_tensor_v2"), storage(), number(0), SHARED, SHARED)
    big = b"\x8b" + struct.pack("<i", 2**22) + b"\x7f" * 2**22
    names = b"".join(text(str(i)) + SHARED for i in range(100_000))
    nested = 300_000
    return {
        "copied dicts": (repeated(pairs(100_000), named("collections.OrderedDict")), WORK),
        "copied lists": (repeated(listed(b"N", 200_000), named("torch.Size")), WORK),
        "copied sets": (repeated(listed(b"N", 200_000), named("__builtin__.set")), WORK),
        "one long shape": (remembered(tuple_of(b"K\1" * 200_000)) + listed(rebuild, 9000), "at most 32"),
        "instructions": (b"N0" * 600_000 + b"}", WORK),
        "marks": (b"(" * 999_990 + b"}", "no state dict"),
        "numbers as keys": (remembered(big) + listed(b"}" + SHARED + b"Ns", 99_000), "a number of"),
        "tuples as keys": (b"N\x85" + b"q\0h\0\x86" * 60 + b"q\x000}h\0Ns", "no state dict"),
        "tuples in tuples": (b")" + b"\x85" * 900_000, "holds a tuple"),
        "dicts in dicts": ((b"}" + text("model")) * nested + b"}" + b"s" * nested, "no state dict"),
        "a list in itself": (b"]q\0h\0a", "holds a list"),
        "a dict in itself": (b"}q\0" + text("state_dict") + SHARED + b"s", "no state dict"),
        "wide text": (b"}" + text("\U0001f600" + "x" * 2**24) + b"Ns", "no state dict"),
        "much text": (listed(text("x" * 1000), 20_000), "holds a list"),
        "storages": (b"](" + b"".join(storage(str(i)) for i in range(20_000)) + b"e", "is missing"),
        "views": (remembered(tensor()) + b"}(" + names + b"u", "no known model"),
        "expanded": (state(*((str(i), tensor((2**20,), (0,))) for i in range(1000))), "are believed"),
    }


def bombs():
    """Name -> contents of a file, and what the refusal says."""
    return {name: (archive(program(body)), match) for name, (body, match) in pickles().items()} | {
        "long pickle": (archive(b"\x80\x02" + b"N0" * 2**25 + b"."), "a pickle of 67108867 bytes"),
        "directory": (zip_of_many(100_000), "shares bytes with another member"),
        "endless directory": (zip_of_many(200_000), "no whole zip"),
        "rows": (rows([f"w{i}" for i in range(80_000)]), "no known model"),
        "header": (safe(b"{" + b" " * 2**24 + b"}", b""), "neither a whole"),
        "values": (b"".join(value(b"w%d" % i, b"", b"Int8", b"\0") for i in range(200_001)), "more than 200000"),
        "pieces": (value(b"w", b"\x08\3", b"Int8", b"\0") * 150_000, "cannot fill 150000"),
        "blocks": (rows([*T5, *(f"encoder.block.{i}." for i in range(50_000))]), "50000 blocks, at most"),
        "stages": (rows([*SUV, *(f"transformer_blocks.{i}.0.x" for i in range(50_000))]), "50000 blocks, at most"),
    }
