"""What the planner knows about devices. Peaks come from cores x 4096 x 2 x clock of the vendor's platform files."""

from dataclasses import dataclass

from mindsora.machine import cores

GIB = 2**30

# Assumed, not measured: the share of the peak that whole models reach, and float32's peak against half precision's.
SHARE = 0.4
FLOAT32 = 0.25
LINK = 100e9  # bytes/s between the cards of a machine


@dataclass(frozen=True)
class Device:
    """One card, or the processor of this machine.

    Attributes:
        kind: "Ascend" or "CPU".
        half, single: FLOP/s that a model reaches in half precision and in float32 (float16 on CPU computes so too).
        bandwidth: bytes/s of memory.
        memory: bytes of a card; None: this machine's.
        process: bytes that Python, MindSpore and the libraries take of `memory` before anything is loaded.
        link: bytes/s that a card sends to the others of its machine.
        start, graph: seconds to import everything, and to compile a graph.
    """

    kind: str
    half: float
    single: float
    bandwidth: float
    memory: float | None
    link: float
    process: float = 0.0
    start: float = 0.0
    graph: float = 0.0


def _card(teraflops: float, gib: int) -> Device:
    peak = teraflops * 1e12 * SHARE
    return Device("Ascend", peak, peak * FLOAT32, 1.6e12, gib * GIB, LINK)


DEVICES = {
    # Matrix products of the middle sizes reach about 50 GFLOP/s a core; memory and times as of MindSpore 2.10 here.
    "cpu": Device("CPU", 50e9 * cores(), 50e9 * cores(), 10e9, None, 1e9, process=411 * 2**20, start=5.0, graph=3.0),
    "910b1": _card(363.7, 64),
    "910b2": _card(353.9, 64),
    "910b3": _card(294.9, 64),
    "910b4": _card(245.8, 32),
    "910_93": _card(353.9, 64),  # A3, one of a card's two dies
}
