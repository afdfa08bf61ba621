"""Which primitives have an aclnn kernel in MindSpore, asked of its Ascend library in a simulated process."""

import ctypes
import os
from functools import cache

from ascend_sim.stand_ins import mindspore_libraries


@cache
def _registered():
    libc = ctypes.CDLL(None)
    libc.dlopen.restype, libc.dlopen.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_int]
    libc.dlsym.restype, libc.dlsym.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p]
    # Not ctypes.CDLL, which adds RTLD_NOW: every function would have to exist.
    library = str(mindspore_libraries() / "plugin/libmindspore_ascend.so.2").encode()
    handle = libc.dlopen(library, os.RTLD_LAZY | os.RTLD_GLOBAL)
    return ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p)(
        libc.dlsym(handle, b"_ZN9mindspore6kernel19IsRegisteredAclnnOpERKSs")
    )


def kernel(primitive: str) -> str:
    """How a primitive is computed.

    "aclnn": a kernel of CANN's library. "aclop": CANN's operator compiler, which compiles it at its first use. "view": not
    at all, its output is another view of the same bytes. "host": by the processor. "custom": an operator of ours.
    """
    if primitive in ("RealMakeTuple", "TensorToTuple"):
        return "host"
    if primitive == "Custom":
        return "custom"
    if primitive.endswith("View"):
        return "view"
    # MindSpore is built with the old C++ ABI: a std::string is a pointer to its characters, in front of which stand
    # length, capacity and a reference count, here one that never reaches zero.
    text = primitive.encode()
    head = len(text).to_bytes(8, "little") * 2 + (10**6).to_bytes(8, "little")
    buffer = ctypes.create_string_buffer(head + text)
    string = ctypes.c_void_p(ctypes.addressof(buffer) + len(head))
    return "aclnn" if _registered()(ctypes.byref(string)) else "aclop"
