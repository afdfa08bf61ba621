"""Recomputation and the dtype of the weights in a training: which Cells they reach, and that gradients stay equal."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from mindsora.errors import InputError
from mindsora.models import SUV, OpenSoraT2V, T5Encoder
from mindsora.train.memory import blocks_of, recompute, train_in
from mindsora.train.optimizer import TrainStep
from mindsora.train.recipe import OptimizerConfig

OPEN_SORA = {
    "num_layers": 4,
    "attention_head_dim": 24,
    "num_attention_heads": 2,
    "in_channels": 4,
    "out_channels": 4,
    "cross_attention_dim": 48,
    "caption_channels": 16,
    "sparse_n": 2,
}
SUV_CONFIG = {
    "num_layers": [2, 2, 2],
    "sparse_n": [1, 2, 1],
    "num_heads": 2,
    "head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "timestep_embed_dim": 16,
    "caption_channels": 16,
    "pooled_projection_dim": 16,
}


class Loss(nn.Cell):
    def __init__(self, model: nn.Cell):
        super().__init__()
        self.model = model

    def construct(self, x, timestep, text):
        error = self.model(x, timestep, text).astype(ms.float32) - 1
        loss = (error * error).mean()
        return loss, loss.reshape(1)


def gradients(blocks: int, feed_forward: int) -> dict[str, np.ndarray]:
    """Moments after a compiled step at rate 0, which hold the gradients."""
    ms.set_seed(0)  # of the initial weights
    rng = np.random.default_rng(0)
    model = OpenSoraT2V.from_upstream(OPEN_SORA)
    for p in model.get_parameters():
        p.set_data(Tensor((p.asnumpy() + 0.1 * rng.standard_normal(p.shape)).astype(np.float32)))
    recompute(model, blocks, feed_forward)
    step = TrainStep(Loss(model).set_train(), OptimizerConfig(lr=1e-3, clip_decay=None))
    x, text = (Tensor(rng.standard_normal(shape).astype(np.float32)) for shape in ((1, 4, 2, 8, 8), (1, 1, 5, 16)))
    ms.jit(step)(Tensor(0.0, ms.float32), x, Tensor(np.array([300.0], np.float32)), text)
    return {w.name: m.asnumpy() for w, m in zip(step.adamw.weights, step.adamw.moment1)}


@pytest.mark.full
def test_recomputed_blocks_and_feed_forward_layers_give_equal_gradients():
    """How much memory this saves is measured by benchmarks/training.py."""
    kept = gradients(0, 0)
    assert all(gradient.any() for gradient in kept.values())
    for mode in ((3, 0), (0, 4)):
        for name, gradient in gradients(*mode).items():
            # The same operations; a graph of other shape may add in another order.
            np.testing.assert_allclose(gradient, kept[name], rtol=1e-5, atol=1e-6 * np.abs(kept[name]).max())


def recomputed(cell: nn.Cell) -> list[str]:
    return [name for name, part in cell.cells_and_names() if getattr(part, "_recompute_cell", None) is not None]


def test_recomputation_reaches_the_first_blocks_through_all_stages():
    suv = SUV.from_upstream(SUV_CONFIG)
    assert len(blocks_of(suv)) == 6
    recompute(suv, 3, 0)
    assert recomputed(suv) == [f"transformer_blocks.{at}" for at in ("0.0", "0.1", "1.0")]
    suv = SUV.from_upstream(SUV_CONFIG)
    recompute(suv, 0, 1)
    assert recomputed(suv) == ["transformer_blocks.0.0.ff", "transformer_blocks.0.0.ff_enc"]
    with pytest.raises(InputError, match="run.recompute = 7: the model has 6 blocks; give 6 for all"):
        recompute(suv, 7, 0)


def test_weights_that_float16_breaks_stay_float32_inside_another_cell():
    class Both(nn.Cell):
        def __init__(self):
            super().__init__()
            self.text_encoder = T5Encoder.from_upstream(
                {"vocab_size": 9, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_heads": 2, "num_layers": 1}
            )

    both = Both()
    train_in(both.text_encoder, "float16")
    kept = [p.name for p in both.get_parameters() if p.dtype == ms.float32]
    assert kept == ["text_encoder.blocks.0.feed_forward.wo.weight"]
