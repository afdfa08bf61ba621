"""Which rank does what: dp x cfg x cp x tp ranks, and the group that a rank has along each of these axes."""

from dataclasses import astuple, dataclass, fields
from math import prod
from typing import NamedTuple

from mindspore import communication
from mindspore.communication.management import GlobalComm

from mindsora import runtime
from mindsora.errors import InputError, shown
from mindsora.parallel.collectives import ALONE, Group

_ORDER = ("dp", "cfg", "cp", "tp")  # the slowest first: ranks of one tp group are neighbours


@dataclass(frozen=True)
class Layout:
    """Ranks along each axis.

    Attributes:
        dp: data parallel; each takes other samples.
        cp: context parallel; each takes a part of a sample's tokens.
        tp: tensor parallel; each takes a part of every layer's width.
        cfg: the two halves of classifier-free guidance, in sampling; 1 or 2.
    """

    dp: int = 1
    cp: int = 1
    tp: int = 1
    cfg: int = 1

    def __post_init__(self):
        for axis in fields(self):
            count = getattr(self, axis.name)
            if type(count) is not int or count < 1:
                raise InputError(f"parallel: {axis.name} = {shown(count, quote=False)}: must be a whole number from 1")
        if self.cfg > 2:
            raise InputError(f"parallel: cfg = {self.cfg}: guidance has two halves; use 2 or 1")

    @classmethod
    def parse(cls, text: str) -> "Layout":
        """Read `dp=2,cp=2`; an axis that is not named has one rank. InputError: an unknown axis or no number."""
        counts = {}
        for part in filter(None, text.split(",")):
            name, _, count = part.strip().partition("=")
            if name not in _ORDER or name in counts or not count.isascii() or not count.isdecimal():
                rule = f"write axis=ranks with each of {', '.join(_ORDER)} at most once, such as dp=2,cp=2"
                raise InputError(f"parallel {shown(text)}: {shown(part)}: {rule}")
            counts[name] = int(count[:9])
        return cls(**counts)

    @property
    def size(self) -> int:
        """Ranks in all."""
        return prod(astuple(self))

    def __str__(self) -> str:
        return ",".join(f"{axis}={getattr(self, axis)}" for axis in _ORDER if getattr(self, axis) > 1) or "dp=1"

    def ranks(self, axes: tuple[str, ...], rank: int) -> tuple[int, ...]:
        """The ranks that differ from `rank` along these axes alone, itself among them, in rising order."""
        strides, stride = {}, 1
        for axis in reversed(_ORDER):
            strides[axis], stride = stride, stride * getattr(self, axis)
        places = {axis: rank // strides[axis] % getattr(self, axis) for axis in axes}
        ranks = [rank - sum(places[axis] * strides[axis] for axis in axes)]
        for axis in sorted(axes, key=_ORDER.index):
            ranks = [first + place * strides[axis] for first in ranks for place in range(getattr(self, axis))]
        return tuple(ranks)


class Mesh(NamedTuple):
    """The groups of this process.

    Attributes:
        dp, cp, tp, cfg: along one axis.
        clip: along cfg, cp and tp: ranks that make a clip together.
        replicas: along dp and cp: ranks whose weights are equal; optimizer shards spread over them.
        world: all ranks.
    """

    layout: Layout
    dp: Group = ALONE
    cp: Group = ALONE
    tp: Group = ALONE
    cfg: Group = ALONE
    clip: Group = ALONE
    replicas: Group = ALONE
    world: Group = ALONE


def single() -> Mesh:
    """One process: every group has this rank alone."""
    return Mesh(Layout())


def mesh_of(layout: Layout) -> Mesh:
    """Join the other processes and build the groups. Call it once, after the device is set.

    Raises:
        InputError: msrun has started another number of processes.
    """
    world = runtime.world()
    if layout.size != world:
        fits = f"dp={world // (layout.size // layout.dp)}" if world % (layout.size // layout.dp) == 0 else f"dp={world}"
        raise InputError(
            f"parallel {layout}: {layout.size} ranks, but msrun started {world}; start {layout.size}, or use {fits}"
        )
    if world == 1:
        return single()
    if not GlobalComm.INITED:
        communication.init()
    rank = runtime.rank()
    axes = {
        "dp": ("dp",),
        "cp": ("cp",),
        "tp": ("tp",),
        "cfg": ("cfg",),
        "clip": ("cfg", "cp", "tp"),
        "replicas": ("dp", "cp"),
        "world": _ORDER,
    }
    return Mesh(layout, **{name: _group(layout.ranks(along, rank), rank) for name, along in axes.items()})


_built: set[str] = set()


def _group(ranks: tuple[int, ...], rank: int) -> Group:
    name = "ranks_" + "_".join(map(str, ranks)) if len(ranks) > 1 else ""
    if name and name not in _built:
        communication.create_group(name, list(ranks))
        _built.add(name)
    return Group(name, ranks, ranks.index(rank))
