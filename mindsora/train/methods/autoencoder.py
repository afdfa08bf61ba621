"""WF-VAE: L1, MSE, KL and the wavelet loss on random windows of clips.

Upstream adds LPIPS and an adversarial loss, and sums over pixels instead of averaging, which explains its weights
(arXiv 2411.17459, section 3.4, and the released trainer).
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindsora.ckpt_convert import load
from mindsora.config import read_json
from mindsora.data.order import EpochOrder
from mindsora.data.source import Source, as_pixels
from mindsora.errors import InputError
from mindsora.models.wfvae import WFVAE, WFVAEConfig
from mindsora.parallel.layout import Mesh
from mindsora.shapes import SPATIAL_STRIDE
from mindsora.train.data_parallel import step_of
from mindsora.train.loop import Task, numbered
from mindsora.train.model_folder import WEIGHTS, export_model
from mindsora.train.recipe import AdversarialRecipe, VAEData, VAELossConfig, VAERecipe

PARTS = ("l1", "mse", "kl", "wavelet", "psnr")


class VAELoss(nn.Cell):
    """Map video and posterior noise to the loss and its parts. Channels last, as inside the model."""

    def __init__(self, vae: WFVAE, weights: VAELossConfig):
        super().__init__(auto_prefix=False)
        self.vae = vae
        self.weights = weights

    def construct(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """x: (B, T, H, W, 3) in [-1, 1]; noise: (B, t, h, w, L) normal draws -> loss (), PARTS (5,)."""
        encoded = self.vae.encoder(x)
        w2, w3 = encoded[2]
        mean, logvar = ops.chunk(encoded[0], 2, -1)
        logvar = ops.clamp(logvar, -30.0, 20.0)
        decoded = self.vae.decoder(mean + ops.exp(0.5 * logvar) * noise)
        w2_hat, w3_hat = decoded[2]
        error = x - decoded[0]
        l1, mse = ops.abs(error).mean(), (error * error).mean()
        kl = 0.5 * (mean * mean + ops.exp(logvar) - 1 - logvar).mean()
        wavelet = ops.abs(w2 - w2_hat).mean() + ops.abs(w3 - w3_hat).mean()
        weights = self.weights
        loss = weights.l1 * l1 + weights.mse * mse + weights.kl * kl + weights.wavelet * wavelet
        psnr = (10 / math.log(10)) * ops.log(4 / (mse + 1e-10))  # the peak is 2: pixels lie in [-1, 1]
        return loss, ops.stack((l1, mse, kl, wavelet, psnr))


def batches(
    data: VAEData, seed: int, clips: Source, config: WFVAEConfig
) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    """Return the function from a step's number to (windows of clips, noise)."""
    if (data.crop_frames - 1) % config.temporal_stride or data.crop_size % SPATIAL_STRIDE:
        raise InputError(
            f"data.crop_frames {data.crop_frames}, data.crop_size {data.crop_size}: frames must be 1 more than a multiple "
            f"of {config.temporal_stride}, size a multiple of {SPATIAL_STRIDE}"
        )
    side = data.crop_size // SPATIAL_STRIDE
    latent = (data.batch, (data.crop_frames - 1) // config.temporal_stride + 1, side, side, config.latent_dim)
    order = EpochOrder(seed, len(clips), data.batch)

    def batch(step: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng((seed, step))
        windows = []
        for index in order(step):
            video = clips.video(int(index))
            t = rng.integers(data.frames - data.crop_frames + 1)
            y, x = rng.integers(data.size - data.crop_size + 1, size=2)
            windows.append(video[t : t + data.crop_frames, y : y + data.crop_size, x : x + data.crop_size])
        return as_pixels(np.stack(windows)), rng.standard_normal(latent, np.float32)

    return batch


def prepare(recipe: VAERecipe, clips: Source, held_out: Source, mesh: Mesh) -> Task:
    """Prepare the training that writes the averaged weights to `run.export` and evaluates them on held-out clips."""
    vae = new_autoencoder(recipe)
    bias, latents = vae.encoder.conv_out.conv.bias, vae.config.latent_dim  # (2L,): means, then log-variances
    values = np.where(np.arange(2 * latents) < latents, bias.asnumpy(), recipe.log_variance_bias)
    bias.set_data(Tensor(values.astype(np.float32)))
    if recipe.run.init is not None:
        start_from(vae, Path(recipe.run.init))
    batch = batches(recipe.data, recipe.run.seed, clips, vae.config)

    def export(weights: dict[str, np.ndarray]) -> None:
        folder = Path(recipe.run.export)
        trained = export_model(WFVAE, vae.config.to_upstream(), weights, folder, WEIGHTS["vae"])
        psnr = mean_psnr(trained, (as_pixels(held_out.video(i)) for i in range(len(held_out))))
        print(f"{folder}: held-out PSNR {psnr:.2f} dB, mean over {len(held_out)} clips", flush=True)

    step = step_of(VAELoss(vae, recipe.loss), recipe.optimizer, PARTS, mesh, recipe.parallel.zero)
    return Task(step, lambda: numbered(batch), export)


def new_autoencoder(recipe: VAERecipe | AdversarialRecipe) -> WFVAE:
    """The recipe's WF-VAE with random weights, a function of its seed."""
    ms.set_seed(recipe.run.seed)
    return WFVAE.from_upstream(recipe.model).set_train()


def start_from(vae: WFVAE, folder: Path) -> None:
    """Copy the weights of an exported autoencoder, which may have another number of latent channels.

    The channels that both models have keep their weights. New channels keep the initialisation of `vae` in the encoder
    and start at zero in the decoder, so that the reconstruction does not change and gradients reach them.
    """
    config = WFVAEConfig.from_upstream(read_json(folder / "config.json"))
    ours, theirs = vae.config.latent_dim, config.latent_dim
    standardisation = {"scale": vae.config.scale, "shift": vae.config.shift}  # of another training's latents
    if replace(config, latent_dim=ours, **standardisation) != vae.config:
        raise InputError(
            f"run.init = {str(folder)!r} holds another model than the recipe's; only latent_dim may differ"
        )
    source = load(WFVAE(config), folder)
    n = min(ours, theirs)
    for parameter, given in zip(vae.get_parameters(), source.get_parameters()):
        value = given.asnumpy()
        if value.shape != parameter.shape:
            new = parameter.asnumpy()
            if parameter.name.startswith("encoder."):  # its moments
                new[:n], new[ours : ours + n] = value[:n], value[theirs : theirs + n]
            else:  # the decoder's input channels
                new[...] = 0
                new[:, :n] = value[:, :n]
            value = new
        parameter.set_data(Tensor(value))


def mean_psnr(vae: WFVAE, clips: Iterable[np.ndarray]) -> float:
    """Mean over whole clips (T, H, W, 3) in [-1, 1] of the PSNR of mode reconstructions, clamped to [-1, 1]."""
    values = []
    for x in clips:
        y = vae.decode(vae.encode(Tensor(x.transpose(3, 0, 1, 2)[None])).mode()).asnumpy()[0].transpose(1, 2, 3, 0)
        values.append(10 * math.log10(4 / max(float(np.mean((x - y.clip(-1, 1)) ** 2)), 1e-10)))
    return float(np.mean(values))
