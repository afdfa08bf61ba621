"""Stand-ins for the CANN libraries that MindSpore's Ascend back end is linked with or opens by name.

MindSpore's wheel for Linux holds its whole Ascend back end; what it lacks are Huawei's libraries. One library with
every function they would export, each returning 0 ("success" in CANN), lets it load. Under MS_SIMULATION_LEVEL=1,
MindSpore's dry run, graphs then compile, kernels are selected and memory is planned by the code that does so on an Atlas.

Mangled names, the layout of libstdc++'s map and the list of libraries belong to MindSpore 2.10 on x86-64.
"""

import glob
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from functools import cache
from importlib.metadata import version
from pathlib import Path

VERSION = "2.10."
# All names lead to one library: a file opened under several names is loaded once, so a symbol is there whichever of
# them CANN keeps it in.
LIBRARIES = (
    "acl_op_compiler", "acl_tdt_channel", "ascend_hal", "ascendcl", "c_sec", "ge_runner", "graph", "hccl",
    "mf_hybm_core", "mf_smem", "msprofiler", "nnopbase", "opapi", "platform", "profapi", "runtime", "shmem",
)  # fmt: skip
BACK_END = (
    "plugin/libmindspore_ascend.so.2",
    "plugin/libmindspore_ops_ascend.so",
    "plugin/ascend/libmindspore_ascend_res_manager.so",
    "plugin/ascend/libd_collective.so",
)
RUNTIME = ("libc.so.6", "libm.so.6", "libstdc++.so.6", "libgcc_s.so.1", "libgomp.so.1", "libpthread.so.0", "libdl.so.2")

# Functions looked up by dlsym leave no undefined symbol behind, only a string; most of them look like this.
LOOKED_UP = re.compile(rb"(?<![A-Za-z0-9_])acl[A-Za-z]*[A-Z][A-Za-z0-9]+(?![A-Za-z0-9_])")
ALSO_LOOKED_UP = (
    "AddTensorAddrToCachedList", "CanUsePTACache", "InitHugeMemThreadLocal", "InitPTACacheThreadLocal",
    "PTAGetExecCache", "ReleaseHugeMem", "SetPTAHashKey", "UnInitHugeMemThreadLocal", "aclSetInputTensorAddr",
    "aclSetOutputTensorAddr", "aclSetDynamicInputTensorAddr", "aclSetDynamicOutputTensorAddr",
)  # fmt: skip

WRITTEN_OUT = {
    # The chip decides which kernels exist, and becomes a std::string, which a null pointer cannot.
    "aclrtGetSocName": 'const char *aclrtGetSocName(void) { return "Ascend910B2"; }',
    # Static initialisers insert error texts into this std::map with code that was inlined from CANN's headers, so it
    # must be a valid empty one. In libstdc++: comparison, header (colour, parent, leftmost, rightmost), size; leftmost
    # and rightmost of an empty map are the header itself.
    "_ZN2ge13StatusFactory8InstanceEv": """void *_ZN2ge13StatusFactory8InstanceEv(void) {
    static void *map[512];
    if (!map[3]) map[3] = map[4] = &map[1];
    return map;
}""",
}
# A primitive without an aclnn kernel becomes an AclKernelMod, which asks CANN's operator compiler also where the
# simulation skips every launch, and throws at empty answers. Its methods are exported and called through the PLT and
# the vtable: a preloaded library replaces them. Resize keeps the base class's part, which computes the sizes of the
# outputs that memory is planned with; Python loads MindSpore's libraries with RTLD_LOCAL, hence dlopen.
_KERNEL_MOD, _TENSORS = "_ZN9mindspore6kernel12AclKernelMod", "ERKSt6vectorIPNS0_12KernelTensorESaIS4_EES8_"
REPLACED = f"""#include <dlfcn.h>
#include <stdlib.h>
int {_KERNEL_MOD}4Init{_TENSORS}(void) {{ return 1; }}
int {_KERNEL_MOD}6Launch{_TENSORS}S8_Pv(void) {{ return 1; }}
int {_KERNEL_MOD}30IsNeedUpdateOutputShapeAndSizeEv(void) {{ return 0; }}
int {_KERNEL_MOD}6Resize{_TENSORS}(void *self, const void *inputs, const void *outputs) {{
    static int (*resize)(void *, const void *, const void *);
    if (!resize) *(void **)&resize = dlsym(dlopen("libmindspore_hardware_abstract.so", RTLD_LAZY),
                                           "_ZN9mindspore6kernel9KernelMod6Resize{_TENSORS}");
    if (!resize) abort();
    return resize(self, inputs, outputs);
}}
"""


class DoesNotFit(RuntimeError):
    """Why MindSpore's Ascend back end cannot be loaded here."""


@cache
def mindspore_libraries() -> Path:
    """The folder of MindSpore's libraries, without importing it."""
    return Path(importlib.util.find_spec("mindspore").submodule_search_locations[0], "lib")


def toolkit() -> Path:
    """A folder with the layout of a CANN installation, made at the first call and kept in the user's cache.

    Raises:
        DoesNotFit: another MindSpore, a wheel without the Ascend back end, or no gcc or nm.
    """
    found, root = version("mindspore"), mindspore_libraries()
    if not found.startswith(VERSION):
        raise DoesNotFit(f"MindSpore {found}; the stand-ins fit {VERSION}x alone")
    if absent := [name for name in BACK_END if not (root / name).exists()]:
        raise DoesNotFit(f"this MindSpore {found} comes without its Ascend back end: no {absent[0]}")
    if missing := [tool for tool in ("gcc", "nm") if shutil.which(tool) is None]:
        raise DoesNotFit(f"no {missing[0]}")
    key = hashlib.sha256(Path(__file__).read_bytes() + f"{found} {root}".encode()).hexdigest()[:16]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "mindsora", "ascend_sim", key)
    if not home.exists():
        home.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=home.parent))
        _build(root, work)
        try:
            work.rename(home)  # whole or not at all, also where several processes build
        except OSError:
            shutil.rmtree(work)
    return home / "latest"  # MindSpore looks for this part in the path of the library that has aclrtMalloc


def _build(root: Path, home: Path) -> None:
    wanted = _missing(root)
    if unknown := WRITTEN_OUT.keys() - wanted:
        raise DoesNotFit(f"MindSpore {version('mindspore')} does not ask for {', '.join(sorted(unknown))}")
    lib, headers = home / "latest" / "lib64", home / "latest" / "include" / "acl"
    lib.mkdir(parents=True)
    headers.mkdir(parents=True)
    # ops.Custom compiles a call of each operator of ours, which includes this.
    (headers / "acl_base.h").write_text("#pragma once\n#include <cstdint>\ntypedef int aclDataType;\n")
    # A mangled C++ name is a C identifier. Callers of functions that return nothing or an object ignore the 0.
    plain = [f"long {name}(void) {{ return 0; }}" for name in sorted(wanted - WRITTEN_OUT.keys())]
    source = lib / "stand_in.c"
    source.write_text("\n".join([REPLACED, *WRITTEN_OUT.values(), *plain]) + "\n")
    # The wheel brings a real libshmem.so that wants more of CANN; with this soname it counts as loaded.
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O1", "-w", "-Wl,-soname,libshmem.so", "-o", lib / "stand_in.so", source, "-ldl"],
        check=True,
    )
    for name in LIBRARIES:
        (lib / f"lib{name}.so").symlink_to("stand_in.so")


def _missing(root: Path) -> set[str]:
    """What the back end asks for that neither MindSpore nor the system has."""
    back_end = [root / name for name in BACK_END]
    system = [
        subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in RUNTIME
    ]
    present = [*back_end, *root.glob("*.so*"), root / "plugin/libmindspore_ops_cpu.so"]
    present += [path for path in system + glob.glob("/lib*/ld-linux-*.so.*") if os.path.isabs(path)]
    wanted = set(ALSO_LOOKED_UP)
    for path in back_end:
        looked_up = {name.decode() for name in LOOKED_UP.findall(path.read_bytes())}
        wanted |= looked_up | {f"{name}GetWorkspaceSize" for name in looked_up if name.startswith("aclnn")}
        wanted |= _symbols(path, undefined=True)
    return {name for name in wanted if not re.match("_?Py", name)}.difference(*(_symbols(path) for path in present))


def _symbols(path, undefined: bool = False) -> set[str]:
    """Names that a library defines, or that it needs (weak ones left out)."""
    which = "--undefined-only" if undefined else "--defined-only"
    lines = subprocess.run(["nm", "-D", which, path], capture_output=True, text=True, check=True).stdout.splitlines()
    rows = [line.split() for line in lines]
    return {row[-1].split("@")[0] for row in rows if not undefined or row[-2] == "U"}


def environment() -> dict[str, str]:
    """Variables under which a new process finds the stand-ins, in addition to this process's own."""
    home, root = toolkit(), mindspore_libraries()
    path = [home / "lib64", root, root / "plugin", root / "plugin/ascend", os.environ.get("LD_LIBRARY_PATH")]
    return os.environ | {
        "MS_SIMULATION_LEVEL": "1",  # compile and plan, launch nothing; at 0 it would stop before kernels are built
        "RANK_SIZE": "1",
        "RANK_ID": "0",  # the simulation wants a rank
        "LD_LIBRARY_PATH": ":".join(str(part) for part in path if part),
        "LD_PRELOAD": str(home / "lib64/stand_in.so"),  # before MindSpore's own methods, see REPLACED
        "ASCEND_HOME_PATH": str(home),
        "ASCEND_TOOLKIT_HOME": str(home),
        "ASCEND_OPP_PATH": str(home / "opp"),
        "GLOG_v": "4",
    }
