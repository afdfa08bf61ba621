"""The losses of denoisers: golden numbers, with a stand-in denoiser that checks what it is given."""

import json

import mindspore as ms
import numpy as np
import pytest
from golden_file import FOLDER
from mindspore import Tensor, nn

from mindsora.sampling import FlowMatchScheduler, VPredictionScheduler
from mindsora.train.methods.denoising import FlowMatchingLoss, InpaintingLoss, VPredictionLoss
from mindsora.train.objectives import FlowMatching, VPrediction

LOSSES = json.loads((FOLDER / "train_losses.json").read_text())
ROUNDING = 2e-6  # relative; float32 sums in another order


class Recorder(nn.Cell):
    """A denoiser that keeps what it is given and returns a fixed prediction."""

    def __init__(self, prediction):
        super().__init__()
        self.prediction = prediction

    def construct(self, *given):
        self.given = given
        return self.prediction


def tensor(values, shape):
    return Tensor(np.array(values, np.float32).reshape(shape))


@pytest.mark.parametrize("case", LOSSES["v15_loss"])
def test_flow_matching_is_upstreams(case):
    shape = case["shape"]
    x0, noise, prediction = (tensor(case[key], shape) for key in ("x0", "noise", "pred"))
    mask, sigma = tensor(case["mask"], (shape[0], *shape[2:])), tensor(case["sigma"], shape[0])
    text, text_mask, pooled = Tensor(np.ones((2, 1, 3, 4), np.float32)), Tensor(np.ones((2, 1, 3))), tensor([1, 2], 2)
    denoiser = Recorder(prediction)
    loss, _ = FlowMatchingLoss(denoiser, FlowMatching(FlowMatchScheduler()))(
        x0, noise, sigma, text, text_mask, pooled, mask
    )
    np.testing.assert_allclose(loss.asnumpy(), case["loss"], rtol=ROUNDING)
    x, time, *rest = denoiser.given
    np.testing.assert_allclose(x.asnumpy().reshape(-1), case["x_t"], rtol=ROUNDING, atol=1e-7)
    np.testing.assert_allclose(time.asnumpy(), 1000 * np.array(case["sigma"], np.float32), rtol=ROUNDING)
    assert all(a is b for a, b in zip(rest, (text, pooled, mask, text_mask), strict=True))


@pytest.mark.parametrize("case", LOSSES["v13"])
@pytest.mark.parametrize("frames", [False, True])
def test_v_prediction_is_upstreams(case, frames):
    """The stand-in predicts 0, so the loss of a sample is its weight times the golden v squared."""
    steps, shape = case["timesteps"], (len(case["timesteps"]), 1, 1, 1, 1)
    x0, noise = Tensor(np.full(shape, case["x0"], np.float32)), Tensor(np.full(shape, case["noise"], np.float32))
    scheduler = VPredictionScheduler(rescale_betas_zero_snr=case["zero_snr"], snr_gamma=case["gamma"])
    denoiser = Recorder(ms.ops.zeros(shape))
    given = (Tensor(np.full((len(steps), 5, 1, 1, 1), 0.5, np.float32)),) if frames else ()
    loss, _ = (InpaintingLoss if frames else VPredictionLoss)(denoiser, VPrediction(scheduler))(
        x0, noise, Tensor(np.array(steps, np.float32)), None, None, *given
    )
    expected = np.mean(np.array(case["weight"]) * np.square(case["velocity"]))
    np.testing.assert_allclose(loss.asnumpy(), expected, rtol=2e-5)  # alpha-bar near 1 is rounded in float32
    x = denoiser.given[0].asnumpy()
    np.testing.assert_allclose(x[:, 0].reshape(-1), case["x_t"], rtol=ROUNDING, atol=1e-7)
    assert x.shape[1] == (6 if frames else 1) and (x[:, 1:] == 0.5).all()
