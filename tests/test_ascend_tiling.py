"""Tiling of the AscendC kernels as plain C++, and the operators' host files on a stand-in for CANN's API."""

import json
import re
import subprocess

import pytest
from ascendc_host import twin

KERNEL_FILES = sorted(path.stem for path in (twin.KERNELS / "op_kernel").glob("*.cpp"))
BF16 = 4  # in the stand-in


def output_of(program):
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_plans():
    """Every token is covered once, core loads are even, buffers fit the part, the workspace is the design's."""
    *violations, count = output_of(twin.tool("check_plans", (twin.HOST / "check_plans.cpp", *twin.MACHINE)))
    assert not violations, "\n".join(violations[:20])
    assert int(count.split()[0]) > 5000


def test_buffers_are_what_the_kernels_take():
    """The tiling functions check against the numbers that the kernels allocate."""
    from test_ascend_kernels import Attention

    case = Attention("group 2, device tiles", "float16")
    forward, used = case.forward()
    _, grad = case.backward(forward)
    for counters in (used, grad):
        assert counters["planned"] == {space: counters["used"][space] for space in counters["planned"]}


@pytest.fixture(scope="module")
def hosts():
    sources = [twin.HOST / "check_host.cpp", *sorted((twin.KERNELS / "op_host").glob("*.cpp"))]
    lines = output_of(twin.tool("check_host", sources, f"-I{twin.HOST / 'cann'}"))
    return [json.loads(line) for line in lines]


def _stem(host):
    return re.sub(r"(?<!^)(?=[A-Z])", "_", host["name"]).lower()


def test_host_files_register_and_answer(hosts):
    assert sorted({_stem(host) for host in hosts}) == KERNEL_FILES
    for host in hosts:
        assert host["good"] and host["inputs"] == host["given"] and host["parts"] == 2, host
        assert host["contiguous"] == 1
        # MindSpore's eager path: 12 arguments; inputs are ordered as strings, input10 before input2
        assert host["inputs"] + len(host["outputs"]) <= 12 and host["inputs"] <= 10
        source = (twin.KERNELS / "op_kernel" / f"{_stem(host)}.cpp").read_text()
        headers = (twin.KERNELS / "op_kernel" / name for name in re.findall(r'#include "(\w+\.h)"', source))
        waits = any("SyncAll()" in text for text in (source, *(path.read_text() for path in headers)))
        assert host["schedule"] == int(waits), "cores that wait for each other start together"
        assert host["workspace"] >= 16 * 2**20  # the library's own
    shapes = {}
    for host in hosts:
        shapes.setdefault(host["name"], []).append((host["outputs"], host["types"]))
    video, text, half = [2, 70, 3, 64], [2, 5, 3, 64], BF16
    assert shapes == {
        "SkiparsePermute": [([[2, 4, 20, 3, 64]], [half]), ([[2, 70, 3, 64]], [half])],
        "AdaNormModulate": [([[2, 70, 192]] * 2, [half] * 2), ([[1], [2, 70, 192]], [half] * 2)],
        "QkNormRope": [([[2, 4, 25, 3, 64]], [half]), ([[2, 4, 20, 3, 64]], [half])],
        "SkiparseAttention": [
            ([video, text, [2, 3, 4, 25], [4, 2, 5, 3, 64]], [half, half, 0, half]),
            ([video, [1], [2, 3, 4, 20], [1]], [half, half, 0, half]),
        ],
        "SkiparseAttentionGrad": [([video] * 3 + [[3, *text]], [half] * 4), ([video] * 3 + [[1]], [half] * 4)],
    }


@pytest.mark.parametrize("source", sorted((twin.KERNELS / "op_host").glob("*.cpp")), ids=lambda path: path.stem)
def test_host_files_are_cpp11(source):
    """CANN's project skeletons compile them as C++11."""
    twin.compiles(source, f"-I{twin.HOST / 'cann'}", "-std=c++11")


def test_kernel_entries_take_what_the_operators_declare(hosts):
    """The entry's parameters are the inputs, the outputs, the workspace and the tiling data, in this order."""
    for host in hosts:
        stem = _stem(host)
        source = (twin.KERNELS / "op_kernel" / f"{stem}.cpp").read_text()
        entry = re.search(rf'extern "C" __global__ __aicore__ void {stem}\((.*?)\)', source, re.S).group(1)
        parameters = re.findall(r"GM_ADDR (\w+)", entry)
        assert len(parameters) == host["inputs"] + len(host["outputs"]) + 2 and parameters[-2:] == [
            "workspace",
            "tiling",
        ]


def test_kernels_use_nothing_but_the_api():
    """Sources use one toolkit header, no raw instructions and no core macros, so they run on host and device."""
    for path in (twin.KERNELS / "op_kernel").iterdir():
        text = path.read_text()
        includes = set(re.findall(r"#include [<\"](.*?)[>\"]", text)) - {p.name for p in path.parent.iterdir()}
        assert includes <= {"kernel_operator.h", "cstdint"}, path
        assert not re.search(r"#if(def)?\b.*(DAV|CCE|ASCENDC_CPU|NPU_ARCH)|using namespace", text), path
