"""What the video autoencoders have in common: their interface, the posterior, the latents' scale."""

from typing import NamedTuple

from mindspore import Tensor, nn, ops

from mindsora.kernels import forms
from mindsora.models.pretrained import Pretrained
from mindsora.models.tiling import Grid
from mindsora.shapes import SPATIAL_STRIDE, Tiling


class Posterior(NamedTuple):
    """Diagonal normal distribution of latents (B, L, T, H, W)."""

    mean: Tensor
    logvar: Tensor

    @classmethod
    def from_moments(cls, moments: Tensor) -> "Posterior":
        mean, logvar = forms.chunk(moments, 2, 1)
        return cls(mean, logvar.clip(-30.0, 20.0))

    def mode(self) -> Tensor:
        return self.mean

    def std(self) -> Tensor:
        return ops.exp(0.5 * self.logvar)

    def sample(self, noise: Tensor) -> Tensor:
        """Mean + std * noise; noise ~ N(0, 1) of the mean's shape."""
        return self.mean + self.std() * noise

    def kl(self) -> Tensor:
        """KL divergence to N(0, 1), summed over C, T and H as upstream does: (B, W)."""
        return 0.5 * (self.mean**2 + ops.exp(self.logvar) - 1.0 - self.logvar).sum((1, 2, 3))


class VideoAutoencoder(Pretrained, nn.Cell):
    """Pixels (B, 3, T, H, W) in [-1, 1], T = r n + 1, H and W divisible by 8, to latents (B, L, t, H/8, W/8) and back.

    A model adds `config` (latent_dim L, temporal_stride r, scale, shift), `moments(x, chunked)`, `decode_whole(z)` and
    `decode_chunks(z, chunk_latents, ..., tile)`.
    """

    def encode_moments(self, x: Tensor, chunked: bool = False, tile: Tiling | None = None) -> Tensor:
        """(B, 3, T, H, W) -> mean and log-variance (B, 2L, (T-1)/r+1, H/8, W/8), unclamped."""
        frames, stride = x.shape[2], self.config.temporal_stride
        if (frames - 1) % stride or x.shape[3] % SPATIAL_STRIDE or x.shape[4] % SPATIAL_STRIDE:
            raise ValueError("a clip has r n + 1 frames (r = 8 or 4), height and width divisible by 8")
        if tile is None:
            return self.moments(x, chunked)
        grid = Grid(x.shape[3] // SPATIAL_STRIDE, x.shape[4] // SPATIAL_STRIDE, tile)
        return grid.join([self.moments(part, chunked) for part in grid.cut(x)])

    def encode(self, x: Tensor, chunked: bool = False, tile: Tiling | None = None) -> Posterior:
        """Posterior of the latents; the diffusion model receives a normalised sample of it.

        Args:
            chunked: process in chunks along time, with the same result and less memory.
            tile: in spatial tiles, to nearly the same result (see mindsora.models.tiling).
        """
        return Posterior.from_moments(self.encode_moments(x, chunked, tile))

    def decode(self, z: Tensor, chunked: bool = False, chunk_latents: int = 2, tile: Tiling | None = None) -> Tensor:
        """Latents (B, L, t, h, w) -> pixels (B, 3, r(t-1)+1, 8h, 8w), not clamped.

        Args:
            chunked: process in the chunks of `decode_chunks`, with the same result and less memory.
            chunk_latents: see `decode_chunks`.
            tile: in spatial tiles, to nearly the same result (see mindsora.models.tiling).
        """
        if not chunked:
            if tile is None:
                return self.decode_whole(z)
            grid = Grid(z.shape[3], z.shape[4], tile)
            return grid.join([self.decode_whole(part) for part in grid.cut(z)])
        parts = ()
        for pixels in self.decode_chunks(z, chunk_latents, tile=tile):
            parts = parts + (pixels,)
        return ops.concat(parts, 2)

    def normalise_latents(self, z: Tensor) -> Tensor:
        """(z - shift) * scale per channel: what the diffusion model sees."""
        return (z - self._channels(self.config.shift, z)) * self._channels(self.config.scale, z)

    def denormalise_latents(self, z: Tensor) -> Tensor:
        """The inverse of normalise_latents."""
        return z / self._channels(self.config.scale, z) + self._channels(self.config.shift, z)

    def _channels(self, values: tuple[float, ...], z: Tensor) -> Tensor:
        return Tensor(values, z.dtype).reshape(1, -1, 1, 1, 1)
