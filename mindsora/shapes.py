"""Which clip sizes a model can make, in one place. (No MindSpore here: sizes are checked before anything loads.)"""

from dataclasses import dataclass
from numbers import Integral

from mindsora.errors import InputError

SPATIAL_STRIDE = 8  # pixels per latent, in height and in width, of every autoencoder here
MAX_TILE = 4096  # pixels; larger than any frame
PNDM_STEPS = 4  # at least: three of Runge-Kutta, then those of the multistep rule
MAX_STEPS = 1000  # the models were trained on 1000 noise levels; more steps than levels add nothing


@dataclass(frozen=True)
class ShapeRules:
    """Sizes a video autoencoder and a denoiser accept together.

    Attributes:
        vae_stride: pixels per latent along (time, height, width); the first frame is a latent of its own, so a clip
            has 1 + k * vae_stride[0] frames.
        patch_size: latents per token along height and along width.
        max_frames, max_height, max_width: largest size the weights are meant for.
        max_pixels: of a frame, height * width; None: no further limit.
    """

    vae_stride: tuple[int, int, int]
    patch_size: int
    max_frames: int
    max_height: int
    max_width: int
    max_pixels: int | None = None

    def __post_init__(self):
        if len(self.vae_stride) != 3 or min(*self.vae_stride, self.patch_size) < 1:
            raise InputError(f"three strides and a patch size of at least 1: {self.vae_stride}, {self.patch_size}")

    def check(self, num_frames: int, height: int, width: int) -> None:
        """Raise InputError for a size that is not legal, naming the rule and the nearest legal values."""
        _check("num_frames", num_frames, 1, self.vae_stride[0], self.max_frames)
        _check("height", height, 0, self.vae_stride[1] * self.patch_size, self.max_height)
        _check("width", width, 0, self.vae_stride[2] * self.patch_size, self.max_width)
        if self.max_pixels is not None and height * width > self.max_pixels:
            nearest = self.shrunk(height, width)
            raise InputError(
                f"height x width = {height} x {width}: must be at most {self.max_pixels} pixels, the largest frame that "
                f"the weights were trained on; nearest legal: {nearest[0]} x {nearest[1]}"
            )

    def shrunk(
        self, height: int, width: int, max_pixels: int | None = None, stride: int | None = None
    ) -> tuple[int, int]:
        """Height and width of a legal frame of nearly this aspect ratio that is no larger.

        Upstream's rule for pictures: both sides are scaled alike, then cut to multiples of the stride.

        Args:
            max_pixels: limit for the frame; None: the model's own.
            stride: pixels; None: the model's own.

        Raises:
            InputError: a side is shorter than the stride.
        """
        pixels = max_pixels or self.max_pixels or self.max_height * self.max_width
        scale = min(1.0, (pixels / (height * width)) ** 0.5, self.max_height / height, self.max_width / width)
        rows, columns = (stride or self.vae_stride[axis] * self.patch_size for axis in (1, 2))
        legal = int(height * scale) // rows * rows, int(width * scale) // columns * columns
        if not min(legal):
            raise InputError(
                f"height x width = {height} x {width}: makes no frame of multiples of {rows} x {columns} within "
                f"{pixels} pixels; crop it"
            )
        return legal

    def latent(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Latent frames, rows and columns of a legal clip."""
        stride_t, stride_h, stride_w = self.vae_stride
        return (num_frames - 1) // stride_t + 1, height // stride_h, width // stride_w

    def tokens(self, num_frames: int, height: int, width: int) -> int:
        """Visual tokens the denoiser sees for a legal clip."""
        t, h, w = self.latent(num_frames, height, width)
        return t * (h // self.patch_size) * (w // self.patch_size)

    def describe(self) -> str:
        """The rules in one line."""
        t, h, w = self.vae_stride[0], self.vae_stride[1] * self.patch_size, self.vae_stride[2] * self.patch_size
        return (
            f"frames 1 + {t}k up to {self.max_frames}; "
            f"height a multiple of {h} up to {self.max_height}; width a multiple of {w} up to {self.max_width}"
            + (f"; up to {self.max_pixels} pixels" if self.max_pixels is not None else "")
        )


@dataclass(frozen=True)
class Tiling:
    """Square tiles in which an autoencoder works through a frame (see mindsora.models.tiling). All in pixels.

    Attributes:
        size: side of a tile, a multiple of 8.
        overlap: minimum overlap of neighbours, a multiple of 8 below `size`; None: a quarter.
    """

    size: int = 256
    overlap: int | None = None

    def __post_init__(self):
        _check("tile size", self.size, 0, SPATIAL_STRIDE, MAX_TILE)
        if self.overlap is None:
            object.__setattr__(self, "overlap", self.size // 4 // SPATIAL_STRIDE * SPATIAL_STRIDE)
        elif self.overlap is False or self.overlap != 0:
            _check("tile overlap", self.overlap, 0, SPATIAL_STRIDE, self.size - SPATIAL_STRIDE)


def chunks(latents: int, size: int = 2) -> list[tuple[int, int, int]]:
    """How WF-VAE's decoder cuts a clip along time: (start, end, seen) for every chunk, counted in latent frames.

    A chunk gives the frames of latents start to end and also sees those up to `seen`: one of look-ahead, except at the
    clip's end. All chunks after the first see size + 1, so two compiled graphs serve a clip whatever its length; the
    first takes what is left, 2 to size + 1 and one of look-ahead. A clip of up to size + 2 is one chunk.
    """
    if latents <= size + 2:
        return [(0, latents, latents)]
    first = (latents - 3) % size + 2
    starts = [0, *range(first, latents - size, size)]
    ends = [*starts[1:], latents]
    return [(start, end, min(end + 1, latents)) for start, end in zip(starts, ends)]


def check_steps(num_inference_steps: int, even: bool = False, least: int = 1) -> None:
    """Raise InputError unless `least` <= steps <= 1000 (and even, which the linear-quadratic schedule needs)."""
    _check("num_inference_steps", num_inference_steps, 0, 2 if even else 1, MAX_STEPS)
    if num_inference_steps < least:
        raise InputError(f"num_inference_steps = {num_inference_steps}: PNDM needs {least}; nearest legal: {least}")


def _check(name: str, value: int, first: int, stride: int, largest: int) -> None:
    """`value` must be first + k * stride, positive and at most `largest`."""
    rule = f"{first} + {stride}k" if first else f"a multiple of {stride}"
    rule = f"{name} must be {rule}, " if stride > 1 else f"{name} must be a whole number, "
    smallest = first or stride
    rule += f"from {smallest} to {largest}"
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InputError(f"{name} = {value!r}: {rule}")
    last = first + (largest - first) // stride * stride  # `largest` itself may not be legal
    below = first + (value - first) // stride * stride
    if value == below and smallest <= value <= last:
        return
    nearest = sorted({min(max(legal, smallest), last) for legal in (below, below + stride)})
    if value < smallest or value > last:
        nearest = [min(max(value, smallest), last)]
    raise InputError(f"{name} = {value}: {rule}; nearest legal: {' or '.join(map(str, nearest))}")
