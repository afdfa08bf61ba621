"""What a dumped graph (MindSpore's IR in text, after kernel selection) says."""

import re
from collections import Counter
from pathlib import Path

SELECTED = "hwopt_d_end_opt_acl_graph_after_kernel_select*.ir"
CALL = re.compile(r"\s+%(\d+)\(.*?\) = (?:PrimFunc_|Prim_)?(\w+)\((.*?)\)(?: |$)")
# What takes no kernel: bookkeeping of the graph, and views of the same bytes.
NO_KERNEL = {
    "Depend", "Load", "MakeTuple", "TupleGetItem", "UpdateState", "Return", "return", "Reshape", "ExpandDims", "Squeeze",
    "Flatten",
}  # fmt: skip


def nodes(path: Path) -> list[tuple[str, str, list[str], str]]:
    """(number, primitive, operands, types) of every call, in order. Operands are "%3", "%para7_w" or constants."""
    lines = path.read_text(errors="replace").splitlines()
    found = []
    for i, line in enumerate(lines):
        if not (call := CALL.match(line)):
            continue
        types = next((text for text in lines[i + 1 : i + 4] if text.strip().startswith(": (")), "")
        dtypes = ",".join(re.findall(r"Tensor\[(\w+)\]", types.split("->")[0]))
        found.append((call[1], call[2], re.findall(r"%[\w.]+", call[3]), dtypes))
    return found


def primitives(folder: Path) -> dict[str, int]:
    """How often each primitive that takes a kernel is called, over all graphs of a folder."""
    count = Counter()
    for path in folder.rglob(SELECTED):
        count.update(name for _, name, _, _ in nodes(path) if name not in NO_KERNEL)
    return dict(count)


def count(folder: Path) -> int:
    """How many graphs were compiled."""
    return len(list(folder.rglob(SELECTED)))


def read_back(folder: Path) -> int:
    """How many values the schedules of a folder's graphs copy from the device to the host."""
    schedules = folder.rglob("final_actor_set*.ir")
    return sum(path.read_text(errors="replace").count("device context: Ascend_0 -> CPU_0") for path in schedules)


def repeated_parameters(folder: Path) -> list[str]:
    """Primitives that repeat what follows from weights alone: such a tensor is made early and lives long."""
    found = []
    for path in folder.rglob(SELECTED):
        text = path.read_text(errors="replace")
        weights = set(re.findall(r"^(%para\d+_\S*?):.*is_parameter", text, re.M))
        fixed = set()
        for number, name, operands, _ in nodes(path):
            if operands and all(operand in fixed or operand in weights for operand in operands):
                fixed.add(f"%{number}")
                if name in ("BroadcastTo", "Tile"):
                    found.append(f"{name}({', '.join(operands)})")
    return found
