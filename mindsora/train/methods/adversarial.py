"""WF-VAE as published: L1, LPIPS, KL, the wavelet loss and a discriminator, in turns (arXiv 2411.17459, section 3.4).

Steps of even number update the autoencoder, steps of odd number the discriminator, so each sees half of the batches. The
losses are upstream's sums over pixels, latents and bands; its weights belong to sums.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from mindsora.data.clips import ClipSet, open_clips
from mindsora.data.grouped import GroupedOrder
from mindsora.data.loading import generator, load
from mindsora.errors import InputError
from mindsora.media.lpips import BACKBONE, LPIPS, load_lpips
from mindsora.models.wfvae import WFVAE, WFVAEConfig
from mindsora.shapes import SPATIAL_STRIDE
from mindsora.train.clip import AdaptiveClip
from mindsora.train.discriminator import Discriminator
from mindsora.train.ema import Ema
from mindsora.train.loop import Task
from mindsora.train.methods.autoencoder import mean_psnr, new_autoencoder, start_from
from mindsora.train.model_folder import WEIGHTS, export_model
from mindsora.train.optimizer import AdamW, global_norm
from mindsora.train.recipe import AdversarialLossConfig, AdversarialRecipe, DiscriminatorConfig, OptimizerConfig

JUDGED = ("nll", "l1", "mse", "lpips", "adversarial", "adaptive_weight")  # behind the losses' sum
GENERATOR = ("loss", "kl", "wavelet", "grad_norm", "skipped", *JUDGED)
DISCRIMINATOR = ("d_loss", "d_real", "d_fake", "d_grad_norm", "d_skipped")
EPS, MOST = 1e-4, 1e4  # of the adaptive weight; the WF-VAE repository has 1e-6 and 1e6


class Reconstruction(nn.Cell):
    """Sum per frame of L1, MSE and LPIPS. LPIPS counts at every pixel and colour, as upstream broadcasts it."""

    def __init__(self, l1: float, mse: float, lpips: float, perceptual: nn.Cell | None):
        super().__init__(auto_prefix=False)
        self.l1, self.mse, self.lpips, self.perceptual = l1, mse, lpips, perceptual

    def construct(self, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction and clip (B, T, H, W, 3) -> sum per frame (), means of |x - y|, (x - y)^2 and LPIPS (3,)."""
        pixels = x.shape[2] * x.shape[3] * x.shape[4]
        error = x - y
        l1, mse = ops.abs(error).mean(), (error * error).mean()
        lpips = ops.zeros_like(l1) if self.perceptual is None else self.perceptual(x, y).mean()
        return pixels * (self.l1 * l1 + self.mse * mse + self.lpips * lpips), ops.stack((l1, mse, lpips))


class Adversarial(nn.Cell):
    """The generator's loss: how far the discriminator takes reconstructions (B, T, H, W, 3) for generated."""

    def __init__(self, discriminator: nn.Cell):
        super().__init__(auto_prefix=False)
        self.discriminator = discriminator

    def construct(self, y: Tensor) -> Tensor:
        return -self.discriminator(y).mean()


class Hinge(nn.Cell):
    """The discriminator's loss. It sees clips and reconstructions in separate batches, each with its own statistics."""

    def __init__(self, discriminator: nn.Cell):
        super().__init__(auto_prefix=False)
        self.discriminator = discriminator

    def construct(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Clip and reconstruction (B, T, H, W, 3) -> loss (), mean logits of both (2,)."""
        real, fake = self.discriminator(x), self.discriminator(y)
        loss = 0.5 * (ops.relu(1 - real).mean() + ops.relu(1 + fake).mean())
        return loss, ops.stack((real.mean(), fake.mean()))


class Autoencoding(nn.Cell):
    """A clip through a WF-VAE and back, in two parts: up to the decoder's last convolution, and from there.

    Attributes:
        last_weight: the weight at which the adaptive weight compares gradients.
    """

    def __init__(self, vae: nn.Cell):
        super().__init__(auto_prefix=False)
        self.vae = vae
        self.last_weight = vae.decoder.conv_out.weight

    def construct(self, x: Tensor, noise: Tensor):
        """x (B, T, H, W, 3), noise (B, t, h, w, L) -> features, low-band clip, mean, log-variance, four bands."""
        moments, _, (w2, w3) = self.vae.encoder(x)
        mean, logvar = ops.chunk(moments, 2, -1)
        logvar = ops.clamp(logvar, -30.0, 20.0)
        features, low, _, (w2_hat, w3_hat) = self.vae.decoder.features(mean + ops.exp(0.5 * logvar) * noise)
        return features, low, mean, logvar, (w2, w3, w2_hat, w3_hat)

    def last(self, features: Tensor, low: Tensor) -> Tensor:
        """Reconstruction (B, T, H, W, 3)."""
        return self.vae.decoder.last(features, low, True)


class Reconstructing(nn.Cell):
    """x (B, T, H, W, 3), noise (B, t, h, w, L) -> reconstruction, and the features and low-band clip it comes from."""

    def __init__(self, autoencoding: nn.Cell):
        super().__init__(auto_prefix=False)
        self.autoencoding = autoencoding

    def construct(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features, low, _, _, _ = self.autoencoding(x, noise)
        return self.autoencoding.last(features, low), features, low


class _Last(nn.Cell):
    """The reconstruction's product with a fixed gradient, as a function of the last convolution alone."""

    def __init__(self, autoencoding: nn.Cell):
        super().__init__(auto_prefix=False)
        self.autoencoding = autoencoding

    def construct(self, features: Tensor, low: Tensor, gradient: Tensor) -> Tensor:
        return (self.autoencoding.last(features, low) * gradient).sum()


def adaptive_weight(nll: Tensor, adversarial: Tensor) -> Tensor:
    """Factor of the adversarial loss that makes both gradients at the last weight equally long, ()."""
    return ops.clamp(global_norm((nll,)) / (global_norm((adversarial,)) + EPS), 0.0, MOST)


class Judging(nn.Cell):
    """The losses of a reconstruction, and their gradient by its pixels.

    Args:
        weight: of the adversarial loss, beside the adaptive weight.
    """

    def __init__(self, autoencoding: nn.Cell, reconstruction: nn.Cell, adversarial: nn.Cell, weight: float):
        super().__init__(auto_prefix=False)
        self.reconstruction = ms.value_and_grad(reconstruction, 0, has_aux=True)
        self.adversarial = ms.value_and_grad(adversarial, 0)
        self.at_last = ms.grad(_Last(autoencoding), None, weights=autoencoding.last_weight)
        self.weight = weight

    def construct(self, x: Tensor, y: Tensor, features: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, T, H, W, 3), what Reconstructing returns -> the losses' sum and JUDGED (7,), gradient (B, T, H, W, 3)."""
        (nll, parts), nll_gradient = self.reconstruction(y, x)
        adversarial, adversarial_gradient = self.adversarial(y)
        weight = self.weight * adaptive_weight(
            self.at_last(features, low, nll_gradient), self.at_last(features, low, adversarial_gradient)
        )
        row = ops.concat((ops.stack((nll + weight * adversarial, nll)), parts, ops.stack((adversarial, weight))))
        return row, nll_gradient + weight * adversarial_gradient


class Regularised(nn.Cell):
    """KL and wavelet loss, and a product whose gradient is that of the losses that Judging has.

    The adaptive weight depends on the reconstruction, so the forward pass runs a second time here; the discriminator and
    LPIPS do not.
    """

    def __init__(self, autoencoding: nn.Cell, kl: float, wavelet: float):
        super().__init__(auto_prefix=False)
        self.autoencoding, self.kl, self.wavelet = autoencoding, kl, wavelet

    def construct(self, x: Tensor, noise: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, T, H, W, 3), noise, gradient by the reconstruction -> (), both losses, and their weighted sum (3,)."""
        features, low, mean, logvar, (w2, w3, w2_hat, w3_hat) = self.autoencoding(x, noise)
        y = self.autoencoding.last(features, low)
        kl = 0.5 * (mean * mean + ops.exp(logvar) - 1 - logvar).sum() / x.shape[0]
        wavelet = (ops.abs(w2 - w2_hat).sum() + ops.abs(w3 - w3_hat).sum()) / x.shape[0]
        regularised = self.kl * kl + self.wavelet * wavelet
        return (y * gradient).sum() + regularised, ops.stack((kl, wavelet, regularised))


class GeneratorStep(nn.Cell):
    """One update of the autoencoder and of the moving average of its weights."""

    def __init__(self, regularised: Regularised, config: OptimizerConfig):
        super().__init__(auto_prefix=False)
        weights = ParameterTuple(regularised.trainable_params())
        self.value_and_grad = ms.value_and_grad(regularised, None, weights=weights, has_aux=True)
        self.clip = AdaptiveClip(config.clip_decay)
        self.adamw = AdamW(weights, tuple(config.betas), config.eps, config.weight_decay)
        self.ema = Ema(self.adamw.masters, config.ema, "constant")
        self.row = _row("row", GENERATOR)

    def construct(self, lr: Tensor, x: Tensor, noise: Tensor, judged: Tensor, gradient: Tensor) -> Tensor:
        """lr (), x (B, T, H, W, 3), noise (B, t, h, w, L), what Judging returns -> GENERATOR (11,)."""
        (_, (kl, wavelet, regularised)), gradients = self.value_and_grad(x, noise, gradient)
        norm = global_norm(gradients)
        factor, _, extreme = self.clip(norm)
        n = self.adamw(lr, factor, extreme, gradients)
        self.ema(n, extreme)
        own = ops.stack((judged[0] + regularised, kl, wavelet, norm, self.clip.skipped.astype(ms.float32)))
        return ops.assign(self.row, ops.concat((own, judged[1:])))


class DiscriminatorStep(nn.Cell):
    """One update of the discriminator. Its gradients are clipped at a fixed norm; one that is not finite is skipped."""

    def __init__(self, discriminator: nn.Cell, config: DiscriminatorConfig, optimizer: OptimizerConfig):
        super().__init__(auto_prefix=False)
        weights = ParameterTuple(discriminator.trainable_params())
        self.value_and_grad = ms.value_and_grad(Hinge(discriminator), None, weights=weights, has_aux=True)
        self.clip_norm = config.clip_norm
        self.adamw = AdamW(weights, tuple(optimizer.betas), optimizer.eps, config.weight_decay)
        self.skipped = Parameter(Tensor(0.0, ms.float32), name="skipped", requires_grad=False)
        self.row = _row("row", DISCRIMINATOR)
        for parameter in self.get_parameters():  # in a state, these lie beside the generator's
            parameter.name = f"discriminator.{parameter.name}"

    def construct(self, lr: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """lr (), clip and reconstruction (B, T, H, W, 3) -> DISCRIMINATOR (5,)."""
        (loss, logits), gradients = self.value_and_grad(x, y)
        norm = global_norm(gradients)
        extreme = ops.logical_not(ops.isfinite(norm))
        factor = ops.minimum(self.clip_norm / (norm + 1e-6), ops.ones_like(norm))
        self.adamw(lr, factor, extreme, gradients)
        ops.assign_add(self.skipped, extreme.astype(ms.float32))
        return ops.assign(self.row, ops.concat((ops.stack((loss,)), logits, ops.stack((norm, self.skipped.value())))))


def _row(name: str, metrics: tuple[str, ...]) -> Parameter:
    """The metrics of a network's last update; a part of the state, so that a resumed run logs what an unbroken one does."""
    return Parameter(ops.zeros((len(metrics),), ms.float32), name=name, requires_grad=False)


class AdversarialStep:
    """Autoencoder and discriminator in turns; see `mindsora.train.loop.Step`."""

    metrics = GENERATOR + DISCRIMINATOR
    accumulate = 1

    def __init__(self, vae: nn.Cell, perceptual: nn.Cell | None, recipe: AdversarialRecipe):
        loss, autoencoding = recipe.loss, Autoencoding(vae)
        discriminator = Discriminator(recipe.discriminator.channels)
        reconstruction = Reconstruction(loss.l1, loss.mse, loss.lpips, perceptual)
        self.reconstructing = Reconstructing(autoencoding)
        self.judging = Judging(autoencoding, reconstruction, Adversarial(discriminator), loss.adversarial)
        self.generator = GeneratorStep(Regularised(autoencoding, loss.kl, loss.wavelet), recipe.optimizer)
        self.discriminator = DiscriminatorStep(discriminator, recipe.discriminator, recipe.optimizer)

    def compiled(self, compile: Callable[[nn.Cell], Callable] = ms.jit) -> Callable:
        """Even steps update the autoencoder, odd ones the discriminator; both return the last metrics of both."""
        cells = self.reconstructing, self.judging, self.generator, self.discriminator
        reconstructing, judging, generator, discriminator = map(compile, cells)

        def update(number: int, lr: Tensor, batches: Sequence[tuple[Tensor, ...]]) -> Tensor:
            x, noise = batches[-1]
            y, features, low = reconstructing(x, noise)
            if number % 2:
                discriminator(lr, x, y)
            else:
                generator(lr, x, noise, *judging(x, y, features, low))
            return ops.concat((self.generator.row, self.discriminator.row))

        return update

    def get_parameters(self) -> Iterable[Parameter]:
        """Weights, moments and counters of both networks, the averages, and the last metrics."""
        return [*self.generator.get_parameters(), *self.discriminator.get_parameters()]

    def averages(self) -> dict[str, np.ndarray]:
        """The moving average of every weight of the autoencoder, by name."""
        generator = self.generator
        return {w.name: average.asnumpy() for w, average in zip(generator.adamw.weights, generator.ema.averages)}


def prepare(recipe: AdversarialRecipe) -> Task:
    """Prepare the training on the clips of `data.merge_file`, with a new discriminator.

    Raises:
        InputError: clips that the autoencoder cannot take, files that cannot be read, or a wrong backbone of LPIPS.
    """
    data, loss, seed = recipe.data, recipe.loss, recipe.run.seed
    vae = new_autoencoder(recipe)
    if data.frame_stride != vae.config.temporal_stride:
        raise InputError(
            f"data.frame_stride = {data.frame_stride}: the model's latents have {vae.config.temporal_stride} frames each; "
            f"set it to {vae.config.temporal_stride}"
        )
    if recipe.run.init is not None:
        start_from(vae, Path(recipe.run.init))
    clips = open_clips(data, "v1.3")  # the line whose reports describe this training
    validation = None if recipe.validation is None else _validation(vae, recipe)
    step = AdversarialStep(vae, _perceptual(loss), recipe)

    def export(weights: dict[str, np.ndarray]) -> None:
        export_model(WFVAE, vae.config.to_upstream(), weights, Path(recipe.run.export), WEIGHTS["vae"])

    return Task(
        step,
        lambda: lambda numbers: batches(clips, vae.config, data.workers, seed, numbers),
        export,
        validation and (lambda: validation(step.averages())),
    )


def _perceptual(loss: AdversarialLossConfig) -> LPIPS | None:
    """LPIPS, or None where its term is off, which is then printed."""
    if loss.lpips and loss.lpips_backbone is not None:
        return load_lpips(loss.lpips_backbone)
    why = f"loss.lpips_backbone names no file ({BACKBONE})" if loss.lpips else "loss.lpips is 0"
    print(f"the LPIPS term is off: {why}", flush=True)
    return None


def batches(
    clips: ClipSet, config: WFVAEConfig, workers: int, seed: int, numbers: range
) -> Iterator[tuple[int, tuple[np.ndarray, np.ndarray]]]:
    """Yield (number, (clips (B, T, H, W, 3), noise (B, t, h, w, L))) for a range of batches."""
    order = GroupedOrder(clips.buckets, clips.data.batch, seed=seed)
    for number, batch in load(clips, order, numbers, workers, seed):
        b, t, h, w, _ = batch.video.shape
        latent = (b, (t - 1) // config.temporal_stride + 1, h // SPATIAL_STRIDE, w // SPATIAL_STRIDE, config.latent_dim)
        yield number, (batch.video, np.random.default_rng((seed, number)).standard_normal(latent, np.float32))


def _validation(vae: WFVAE, recipe: AdversarialRecipe) -> Callable[[dict[str, np.ndarray]], dict[str, float]]:
    """PSNR of a fixed sample of every clip of `validation`, of weights by name."""
    held_out = open_clips(replace(recipe.data, merge_file=recipe.validation, min_bucket_batches=0), "v1.3")
    measured = WFVAE(vae.config).set_train(False)

    def validate(weights: dict[str, np.ndarray]) -> dict[str, float]:
        for parameter in measured.get_parameters():
            parameter.set_data(Tensor(weights[parameter.name]))
        return {"psnr": mean_psnr(measured, (held_out.video(i, generator(i)) for i in range(len(held_out))))}

    return validate
