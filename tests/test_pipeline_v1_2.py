"""v1.2's pipelines on tiny random models: a call is the sampling of the paper's equations around the denoiser."""

import numpy as np
import pytest
import tiny_pipeline
from mindspore import Tensor
from test_image_to_video import LATENTS, SIZE, loaded, picture

from mindsora import ImageToVideoPipeline, TextToVideoPipeline
from mindsora.pipelines.given_frames import given_frames
from mindsora.pipelines.request import Request
from mindsora.text.templates import template_for


def encoded(pipe, prompt):
    """States (2, 1, N, D) and mask (2, N) of the negative and the positive text."""
    positive, negative = template_for("v1.2").apply(prompt)
    ids, mask = pipe.tokenizer([negative, positive])
    return pipe.text_encoder(Tensor(ids), Tensor(mask)).expand_dims(1), Tensor(mask)


def guided(pipe, states, mask, x, t, scale):
    """The predicted noise for x (1, C, T, H, W), float64."""
    rows = Tensor(np.repeat(x, 2, 0).astype(np.float32))
    both = pipe.transformer(rows, Tensor(np.full(2, t, np.float32)), states, None, None, mask).asnumpy()
    negative, positive = both.astype(np.float64)[:, None]
    return negative + scale * (positive - negative)


def test_text_to_video_written_out(tmp_path):
    """Noise prediction and diffusers' `EulerAncestralDiscreteScheduler` with its defaults, as upstream samples v1.2, in
    float64. The sigmas begin at 157, so 1e-3 is five digits."""
    pipe = loaded(tiny_pipeline.write_v1_2(tmp_path / "t2v", "t2v"), TextToVideoPipeline, jit="off")
    states, mask = encoded(pipe, "a red cat")
    abar = np.cumprod(1 - np.linspace(1e-4, 2e-2, 1000))
    table = np.sqrt((1 - abar) / abar)
    steps = np.linspace(999, 0, 3)  # 999, 499.5, 0
    sigmas = np.append(np.interp(steps, np.arange(1000), table), 0)
    rng = np.random.RandomState(9)
    x = rng.standard_normal(LATENTS) * sigmas[0]
    for t, now, after in zip(steps, sigmas, sigmas[1:]):
        noise = guided(pipe, states, mask, x / np.sqrt(now**2 + 1), t, 7.5)
        up = np.sqrt(after**2 * (now**2 - after**2) / now**2)
        x = x + noise * (np.sqrt(after**2 - up**2) - now) + up * rng.standard_normal(LATENTS)
    latents = pipe("a red cat", guidance_scale=7.5, num_inference_steps=3, seed=9, output_type="latent", **SIZE).frames
    np.testing.assert_allclose(latents, x, rtol=0, atol=2e-3)
    assert np.abs(x).max() > 0.5


@pytest.fixture(scope="module")
def i2v(tmp_path_factory):
    folder = tiny_pipeline.write_v1_2(tmp_path_factory.mktemp("models") / "i2v", "i2v")
    return loaded(folder, ImageToVideoPipeline, jit="off")


def test_given_frames_as_the_denoiser_takes_them(i2v):
    """Latents of the video with grey frames where none is given, times 0.18215; entry c * T + t of the mask, whose first
    frame counts four times, is channel c of latent t."""
    pixels = np.zeros((1, 3, 5, 16, 32), np.float32)
    pixels[0, :, 0] = picture().transpose(2, 0, 1) / np.float32(127.5) - 1
    z = i2v.vae.encode(Tensor(pixels)).mode().asnumpy()
    given = given_frames((5, 16, 32), i2v.index.fps, images=[(picture(), 0)])
    request = Request.of(i2v.index, "a red cat", num_inference_steps=4, **SIZE).showing(i2v.index, given)
    frames = i2v.encode_frames(request).asnumpy()
    np.testing.assert_allclose(frames[:, :4], z * 0.18215, rtol=0, atol=1e-5)  # chunks: sums in another order
    mask = np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32).reshape(4, 2)
    np.testing.assert_array_equal(frames[:, 4:], np.broadcast_to(mask[None, :, :, None, None], (1, 4, 2, 2, 4)))


@pytest.mark.full
def test_image_to_video_written_out(i2v):
    """PNDM (arXiv 2202.09778) in five steps: three of pseudo Runge-Kutta with four evaluations, two linear multisteps.
    Only the latents change; the given frames stand beside them unscaled."""
    states, mask = encoded(i2v, "a red cat")
    given = given_frames((5, 16, 32), i2v.index.fps, images=[(picture(), 0)])
    request = Request.of(i2v.index, "a red cat", num_inference_steps=5, guidance_scale=7.5, seed=9, **SIZE)
    request = request.showing(i2v.index, given)
    frames = i2v.encode_frames(request).asnumpy()
    abar = np.cumprod(1 - np.linspace(1e-4, 2e-2, 1000))

    def predicted(x, t):
        return guided(i2v, states, mask, np.concatenate((x, frames), 1), t, 7.5)

    def moved(x, noise, t, s):
        """x at step t, moved to step s by a noise (equation 11); the clip itself is at step 0."""
        a, b = abar[t], abar[s]
        return np.sqrt(b / a) * x - (b - a) / (np.sqrt(a) * (np.sqrt((1 - b) * a) + np.sqrt((1 - a) * b))) * noise

    x, noises = np.random.RandomState(9).standard_normal(LATENTS), []
    for t, s in ((800, 600), (600, 400), (400, 200)):  # leading: whole multiples of 1000 / 5
        middle = (t + s) // 2
        first = predicted(x, t)
        second = predicted(moved(x, first, t, middle), middle)
        third = predicted(moved(x, second, t, middle), middle)
        fourth = predicted(moved(x, third, t, s), s)
        noises.append(first)
        x = moved(x, (first + 2 * second + 2 * third + fourth) / 6, t, s)
    noises.append(predicted(x, 200))
    x = moved(x, (55 * noises[3] - 59 * noises[2] + 37 * noises[1] - 9 * noises[0]) / 24, 200, 0)
    (latents,) = i2v.sample([request])
    np.testing.assert_allclose(latents.asnumpy(), x, rtol=0, atol=1e-3)
    assert np.abs(x).max() > 0.5
