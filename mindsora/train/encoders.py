"""The frozen parts of a model folder: autoencoder, text encoders, tokenisers. They run outside the training's graph.

Shapes: B clips, T x H x W pixels, c channels of t x h x w latents, L text tokens of width D, pooled text of width P.
"""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindsora import ckpt_convert, zoo
from mindsora.ckpt_convert.checkpoint import weight_files
from mindsora.files import file_sha256
from mindsora.nn.precision import set_precision
from mindsora.pipelines.components import build, cell_specs, component_dtypes
from mindsora.pipelines.video_pipeline import TextEncoders
from mindsora.text.tokenizers import CLIPTokenizer, T5Tokenizer

HALF = ms.float16  # of all features, so that a training from a cache sees what a training without one sees


class Encoders:
    """Encode clips and texts with the parts of a model folder.

    Args:
        name_or_dir: a model folder, or a model in the box; its transformer is not read.

    Attributes:
        index: the folder's model_index.json.
        configs: component -> config of its Cell.

    Raises:
        InputError: no such folder, or a part of it is missing or damaged.
    """

    def __init__(self, name_or_dir: str):
        self.folder = zoo.find(name_or_dir)
        self.index = zoo.ModelIndex.read(self.folder)
        self._specs = {name: spec for name, spec in cell_specs(self.index).items() if name != "transformer"}
        dtypes = component_dtypes(None, ms.get_current_device().device_target, tuple(self._specs))
        cells = {name: self._load(name, dtypes[name]) for name in self._specs}
        self.configs = {name: cell.config for name, cell in cells.items()}
        lengths = self.index.max_text_lengths
        self._tokenizer = T5Tokenizer.from_folder(self.folder / "tokenizer", lengths[0])
        self._tokenizer_2 = None
        if self.index.tokenizer_2 is not None:
            self._tokenizer_2 = CLIPTokenizer.from_folder(self.folder / "tokenizer_2", lengths[1])
        self._normalise = cells["vae"].normalise_latents
        self._moments = ms.jit(cells["vae"].encode_moments)
        self._text = ms.jit(TextEncoders(cells["text_encoder"], cells.get("text_encoder_2")))

    def _load(self, name: str, dtype) -> nn.Cell:
        cell = set_precision(build(self.folder / name, self._specs[name]), dtype).set_train(False)
        return ckpt_convert.load(cell, self.folder / name)

    def checksums(self) -> dict[str, str]:
        """SHA-256 of every file that decides a feature: weights, configurations and tokenisers, by its place."""
        files = [file for name in self._specs for file in weight_files(self.folder / name)]
        files += [self.folder / name / "config.json" for name in self._specs]
        for name in ("tokenizer", "tokenizer_2"):
            files += sorted((self.folder / name).glob("*"))
        return {file.relative_to(self.folder).as_posix(): file_sha256(file) for file in files}

    def tokens(self, captions: list[str]) -> tuple[np.ndarray, ...]:
        """Ids and mask (B, L), and CLIP's ids where the model has it; over an encoder's limit captions are cut."""
        more = () if self._tokenizer_2 is None else (self._tokenizer_2(captions)[0],)  # CLIP gets no mask
        return (*self._tokenizer(captions), *more)

    def texts(self, ids: Tensor, mask: Tensor, *ids_2: Tensor) -> tuple[Tensor, ...]:
        """Encode `tokens`: states (B, L, D), 0 for padding, and pooled text (B, P) where the model has it; float16."""
        states, *pooled = self._text(ids, mask, *ids_2)
        return (states * mask.expand_dims(-1).astype(states.dtype)).astype(HALF), *(one.astype(HALF) for one in pooled)

    def moments(self, pixels: Tensor) -> Tensor:
        """(B, 3, T, H, W) in [-1, 1] -> mean, then clamped log-variance, (B, 2c, t, h, w) float16."""
        mean, logvar = self._moments(pixels).chunk(2, 1)
        return ops.concat((mean, logvar.clip(-30.0, 20.0)), 1).astype(HALF)

    def sample(self, moments: Tensor, noise: Tensor) -> Tensor:
        """Latents as the denoiser sees them, float32: moments (B, 2c, t, h, w), noise (B, c, t, h, w)."""
        mean, logvar = moments.astype(ms.float32).chunk(2, 1)
        return self._normalise(mean + ops.exp(0.5 * logvar) * noise)

    def mode(self, moments: Tensor) -> Tensor:
        """The latents in the middle of the posterior, as the denoiser sees them, float32."""
        return self._normalise(moments.astype(ms.float32).chunk(2, 1)[0])
