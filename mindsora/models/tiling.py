"""Spatial tiles: an autoencoder processes one part of a frame at a time, and overlapping results are blended.

The tile bounds the memory, whatever the frame's size. Tiling is not exact: a tile's convolutions are padded at its
border, and its attention and group norms see nothing outside. `benchmarks/tiling.py` measures the error.

Upstream tiles CausalVAE with sizes that contradict each other (latents cropped, pictures too large). Here one size in
pixels serves encoding and decoding, every tile of a clip has that size (so that one compiled graph runs all of them),
and the weights of all tiles over a pixel sum to one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from mindspore import Tensor, ops

from mindsora.shapes import SPATIAL_STRIDE, Tiling


@dataclass(frozen=True)
class Axis:
    """Tiles along one axis: each has `size` latents, and evenly spaced they cover `length` latents."""

    starts: tuple[int, ...]
    size: int
    length: int

    @classmethod
    def cover(cls, length: int, size: int, overlap: int) -> "Axis":
        if size >= length:
            return cls((0,), length, length)
        steps = math.ceil((length - size) / (size - overlap))
        return cls(tuple(i * (length - size) // steps for i in range(steps + 1)), size, length)

    def weights(self, unit: int) -> np.ndarray:
        """Weight of each tile at each sample (tiles, length * unit): linear across an overlap; columns sum to one."""
        n = self.size * unit
        height = np.minimum(np.arange(n), np.arange(n)[::-1]) + 0.5  # distance to the tile's nearer edge
        shares = np.zeros((len(self.starts), self.length * unit))
        for share, start in zip(shares, self.starts):
            share[start * unit : start * unit + n] = height
        return (shares / shares.sum(0)).astype(np.float32)

    def join(self, tiles: Sequence[Tensor], axis: int) -> Tensor:
        """Blend the tiles' results. A sample that only one tile covers equals that tile's, bit for bit."""
        unit = tiles[0].shape[axis] // self.size
        weights = self.weights(unit)
        edges = sorted({edge * unit for start in self.starts for edge in (start, start + self.size)})
        strips = []
        for begin, end in zip(edges, edges[1:]):
            there = [i for i, s in enumerate(self.starts) if s * unit <= begin and end <= (s + self.size) * unit]
            parts = [tiles[i].narrow(axis, begin - self.starts[i] * unit, end - begin) for i in there]
            if len(there) > 1:
                shape = [1] * len(parts[0].shape)
                shape[axis] = end - begin
                parts = [p * Tensor(weights[i, begin:end].reshape(shape), p.dtype) for i, p in zip(there, parts)]
            strips.append(sum(parts[1:], parts[0]))
        return ops.concat(strips, axis)


class Grid:
    """The tiles of a frame of `height` x `width` latents. Without tiling it has one tile, the whole frame."""

    def __init__(self, height: int, width: int, tile: Tiling | None):
        size, overlap = max(height, width), 0
        if tile:
            size, overlap = tile.size // SPATIAL_STRIDE, tile.overlap // SPATIAL_STRIDE
        self.rows, self.columns = (Axis.cover(length, size, overlap) for length in (height, width))

    def cut(self, x: Tensor) -> list[Tensor]:
        """Cut a clip (B, C, T, H, W) of pixels or latents into its tiles, row by row."""
        unit = x.shape[3] // self.rows.length
        bands = [x.narrow(3, start * unit, self.rows.size * unit) for start in self.rows.starts]
        return [b.narrow(4, start * unit, self.columns.size * unit) for b in bands for start in self.columns.starts]

    def join(self, tiles: Sequence[Tensor]) -> Tensor:
        """Blend tiles of pixels or latents, in the order of `cut`, into the clip."""
        n = len(self.columns.starts)
        return self.rows.join([self.columns.join(tiles[i : i + n], 4) for i in range(0, len(tiles), n)], 3)
