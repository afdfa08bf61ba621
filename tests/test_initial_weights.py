"""A stage starts from the stage before: dense to SUV, text to video to inpainting, and nothing missing unawares."""

import numpy as np
import pytest
import tiny_pipeline
from mindspore import Tensor

from mindsora.ckpt_convert import save
from mindsora.errors import InputError
from mindsora.models import SUV, OpenSoraInpaint
from mindsora.train.initial import start_from

SUV_CONFIG = tiny_pipeline.CONFIGS["transformer"][1]
DENSE = SUV_CONFIG | {"skip_connection": False}
SKIPS = ("skip_norm_linear", "skip_norm_linear_enc")
FRAMES = ("embed_masked_video", "embed_mask")


def scattered(cell, seed):
    """All weights are random: modulations that start at zero would hide the blocks, and so the skips."""
    rng = np.random.default_rng(seed)
    for parameter in cell.get_parameters():
        value = rng.normal(0, 0.2, parameter.shape) + ("norm" in parameter.name and parameter.ndim == 1)
        parameter.set_data(Tensor(value.astype(np.float32)))
    return cell


def written(folder, config):
    """A model folder with a scattered denoiser, and the denoiser."""
    cell = scattered(SUV.from_upstream(config), seed=1)
    (folder / "transformer").mkdir(parents=True)
    save(cell, folder / "transformer" / "diffusion_pytorch_model.safetensors")
    tiny_pipeline.write_json(folder / "transformer" / "config.json", config)
    tiny_pipeline.write_json(folder / "model_index.json", tiny_pipeline.INDEX)
    return cell


def velocity(suv):
    rng = np.random.default_rng(0)
    shapes = (2, 4, 2, 6, 6), (2,), (2, 1, 5, 24), (2, 1, 20)
    return suv(*(Tensor(rng.normal(size=shape).astype(np.float32)) for shape in shapes)).asnumpy()


@pytest.mark.parametrize("sparse_n", [[1, 1, 1], [1, 2, 1]])
def test_suv_starts_as_the_dense_model(tmp_path, sparse_n):
    """At equal sparsity SUV computes what the model without skips computes: [I | 0] passes the stream and not the skip."""
    dense = written(tmp_path, DENSE | {"sparse_n": sparse_n})
    suv = SUV.from_upstream(SUV_CONFIG | {"sparse_n": sparse_n})
    start_from(suv, tmp_path, SKIPS)
    # A product with the identity sums one term and zeros, so not even the rounding differs.
    np.testing.assert_array_equal(velocity(suv), velocity(dense))
    scattered(suv.skip_norm_linear[0], seed=2)
    assert np.abs(velocity(suv) - velocity(dense)).max() > 1e-3


def test_sparsity_changes_without_new_weights(tmp_path):
    dense = written(tmp_path, SUV_CONFIG | {"sparse_n": [1, 1, 1]})
    sparse = SUV.from_upstream(SUV_CONFIG | {"sparse_n": [1, 2, 1]})
    start_from(sparse, tmp_path, ())
    for ours, theirs in zip(sparse.get_parameters(), dense.get_parameters(), strict=True):
        np.testing.assert_array_equal(ours.asnumpy(), theirs.asnumpy())


def test_inpainting_starts_as_text_to_video(tmp_path):
    t2v = tiny_pipeline.write_v1_3(tmp_path / "t2v", "t2v")
    inpaint = OpenSoraInpaint.from_upstream(tiny_pipeline.TASKS["i2v"][1])
    start_from(inpaint, t2v, FRAMES)
    values = {parameter.name: parameter.asnumpy() for parameter in inpaint.get_parameters()}
    assert not values["embed_mask.merge.weight"].any() and not values["embed_masked_video.merge.weight"].any()
    np.testing.assert_array_equal(values["embed_masked_video.patches.weight"], values["patch_embed.weight"])


@pytest.mark.parametrize(
    "source, target, new, message",
    [
        (DENSE, SUV_CONFIG, (), "missing, and not in run.new_parameters: skip_norm_linear.0.bias"),
        (DENSE, SUV_CONFIG, SKIPS[:1], "missing, and not in run.new_parameters: skip_norm_linear_enc.0.bias"),
        (DENSE, SUV_CONFIG, (*SKIPS, "proj_out"), "run.new_parameters = 'proj_out': "),
        (DENSE, DENSE, SKIPS, "lacks no parameter of this model"),
        (SUV_CONFIG, DENSE, (), "unexpected: skip_norm_linear.0.bias"),
        (DENSE, DENSE | {"timestep_embed_dim": 48}, (), "of another shape: "),
    ],
)
def test_what_does_not_fit_is_named_and_changes_nothing(tmp_path, source, target, new, message):
    written(tmp_path, source)
    suv = SUV.from_upstream(target)
    before = [parameter.asnumpy() for parameter in suv.get_parameters()]
    with pytest.raises(InputError) as error:
        start_from(suv, tmp_path, new)
    assert message in str(error.value) and "\n" not in str(error.value)
    for parameter, value in zip(suv.get_parameters(), before, strict=True):
        np.testing.assert_array_equal(parameter.asnumpy(), value)
