"""Both nano trainings in miniature, up to a folder the pipeline loads; graph against PyNative on the real losses."""

import shutil
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindsora.ckpt_convert import save
from mindsora.config import read_json
from mindsora.data.latents import Latents, prepare_latents
from mindsora.data.toy.source import ProceduralClips
from mindsora.errors import InputError
from mindsora.files import write_json
from mindsora.models import WFVAE
from mindsora.pipelines.text_to_video import TextToVideoPipeline
from mindsora.sampling import FlowMatchScheduler
from mindsora.text.tokenizers import CLIPTokenizer, T5Tokenizer
from mindsora.train import train
from mindsora.train.methods import autoencoder, flow_matching
from mindsora.train.model_folder import WEIGHTS
from mindsora.train.objectives import FlowMatching
from mindsora.train.optimizer import TrainStep
from mindsora.train.recipe import load_recipe

ROOT = Path(__file__).parents[1]
TOKENIZERS = ROOT / "mindsora" / "weights" / "nano"
SHORT = ["run.steps=2", "run.log_every=1", "data.frames=9", "data.size=32", "data.clips=4", "data.batch=2"]
TINY_VAE = [
    "model.base_channels=4",
    "model.latent_dim=4",
    "model.encoder_energy_flow_hidden_size=4",
    "model.decoder_energy_flow_hidden_size=4",
    "model.connect_res_layer_num=0",
    "data.crop_frames=9",
    "data.crop_size=16",
]
TINY_DENOISER = [
    "transformer.num_layers=[2,2,2]",
    "transformer.sparse_n=[1,2,1]",
    "transformer.num_heads=2",
    "transformer.head_dim=16",
    "transformer.timestep_embed_dim=16",
    "text_encoder.d_model=16",
    "text_encoder.d_kv=8",
    "text_encoder.d_ff=16",
    "text_encoder.num_heads=2",
    "text_encoder.num_layers=1",
    "text_encoder_2.hidden_size=16",
    "text_encoder_2.intermediate_size=16",
    "text_encoder_2.num_hidden_layers=1",
    "text_encoder_2.num_attention_heads=2",
    "text_encoder_2.projection_dim=16",
]


def recipe(name, tmp_path, *more):
    tiny = {"vae": TINY_VAE, "denoiser": TINY_DENOISER}[name]
    paths = [f"run.out={tmp_path / name}", f"run.export={tmp_path / 'model' / ('vae' if name == 'vae' else '')}"]
    return load_recipe(ROOT / "recipes" / "nano" / f"{name}.yaml", [*SHORT, *tiny, *paths, *more])


def clips(spec) -> ProceduralClips:
    return ProceduralClips(spec.data.clips, spec.data.frames, spec.data.size)


def tokenizers():
    return (
        T5Tokenizer.from_folder(TOKENIZERS / "tokenizer", 32),
        CLIPTokenizer.from_folder(TOKENIZERS / "tokenizer_2", 32),
    )


def vae_task(tmp_path):
    spec = recipe("vae", tmp_path)
    vae = WFVAE.from_upstream(spec.model).set_train()
    return autoencoder.VAELoss(vae, spec.loss), autoencoder.batches(spec.data, 0, clips(spec), vae.config)


def denoiser_task(tmp_path):
    spec = recipe("denoiser", tmp_path)
    config = WFVAE.from_upstream(recipe("vae", tmp_path).model).config
    objective = FlowMatching(FlowMatchScheduler.from_upstream(spec.scheduler))
    shape, channel = (spec.data.clips, 4, 2, 4, 4), np.ones((4, 1, 1, 1), np.float32)
    rng = np.random.default_rng(0)
    latents = Latents(rng.normal(size=shape).astype(np.float32), np.zeros(shape, np.float32), 0 * channel, channel)
    configs = flow_matching.complete_configs(spec, config, *tokenizers())
    loss = flow_matching.FlowMatchingLoss(configs, objective).set_train()
    return loss, flow_matching.batches(spec.data, 0, clips(spec), latents, objective, tokenizers())


# The last block has no text queries, since nothing reads its text output.
NO_GRADIENT = {
    vae_task: set(),
    denoiser_task: {
        f"transformer.transformer_blocks.2.1.attn1.{name}"
        for name in ("add_q_proj.weight", "add_q_proj.bias", "norm_added_q.weight")
    },
}


@pytest.mark.full
@pytest.mark.parametrize("task", [vae_task, denoiser_task])
def test_gradients_under_jit_equal_pynative(task, tmp_path):
    spec = recipe("vae", tmp_path)
    states = []
    for wrap in (lambda cell: cell, ms.jit):
        np.random.seed(0)
        ms.set_seed(0)
        loss, batch = task(tmp_path)
        rng = np.random.RandomState(0)
        for p in loss.get_parameters():  # away from zero-initialised gates and biases
            p.set_data(Tensor((rng.normal(0, 0.1, p.shape) + (p.ndim == 1)).astype(np.float32)))
        step = TrainStep(loss, spec.optimizer)
        run = wrap(step)
        # Rate 0: the first moments after three calls then hold the gradients alone, no drift of the weights.
        metrics = [run(Tensor(0.0, ms.float32), *map(Tensor, batch(i))).asnumpy() for i in range(3)]
        moments = {w.name: m.asnumpy() for w, m in zip(step.adamw.weights, step.adamw.moment1)}
        states.append((moments, np.stack(metrics)))
    (plain, plain_metrics), (graph, graph_metrics) = states
    np.testing.assert_allclose(graph_metrics, plain_metrics, rtol=2e-4)
    assert {name for name, gradient in graph.items() if not gradient.any()} == NO_GRADIENT[task]
    for name, gradient in plain.items():
        # float32 sums in another order, so relative to the tensor's largest entry
        np.testing.assert_allclose(
            graph[name], gradient, rtol=0, atol=max(2e-4 * np.abs(gradient).max(), 1e-6), err_msg=name
        )


def test_an_autoencoder_is_widened_and_narrowed_channel_by_channel(tmp_path):
    narrow, wide = (WFVAE.from_upstream(recipe("vae", tmp_path, f"model.latent_dim={n}").model) for n in (4, 6))
    rng = np.random.default_rng(0)
    for p in narrow.get_parameters():
        p.set_data(Tensor((rng.normal(0, 0.1, p.shape) + (p.ndim == 1)).astype(np.float32)))
    (tmp_path / "narrow").mkdir()
    write_json(tmp_path / "narrow" / "config.json", narrow.config.to_upstream())
    save(narrow, tmp_path / "narrow" / WEIGHTS["vae"])
    autoencoder.start_from(wide, tmp_path / "narrow")
    x = Tensor(rng.uniform(-1, 1, (1, 3, 9, 16, 16)).astype(np.float32))
    (mean, logvar), (mean6, logvar6) = (np.split(vae.encode_moments(x).asnumpy(), 2, 1) for vae in (narrow, wide))
    np.testing.assert_allclose(mean6[:, :4], mean, rtol=0, atol=1e-5)  # the new channels change the sums' order
    np.testing.assert_allclose(logvar6[:, :4], logvar, rtol=0, atol=1e-5)
    assert np.abs(mean6[:, 4:]).max() > 0  # the decoder can learn from them
    before, after = (vae.decode(vae.encode(x).mode()).asnumpy() for vae in (narrow, wide))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5)
    # An autoencoder may lose channels too: the first ones stay equal, and the decoder sees zero in the others.
    small = WFVAE.from_upstream(recipe("vae", tmp_path, "model.latent_dim=2").model)
    autoencoder.start_from(small, tmp_path / "narrow")
    mean2, logvar2 = np.split(small.encode_moments(x).asnumpy(), 2, 1)
    np.testing.assert_allclose(mean2, mean[:, :2], rtol=0, atol=1e-5)
    np.testing.assert_allclose(logvar2, logvar[:, :2], rtol=0, atol=1e-5)
    padded = np.concatenate((mean2, np.zeros_like(mean2)), 1)
    decoded, expected = small.decode(Tensor(mean2)).asnumpy(), narrow.decode(Tensor(padded)).asnumpy()
    np.testing.assert_allclose(decoded, expected, rtol=0, atol=1e-5)
    other = WFVAE.from_upstream(recipe("vae", tmp_path, "model.latent_dim=6", "model.base_channels=8").model)
    with pytest.raises(InputError, match="only latent_dim may differ"):
        autoencoder.start_from(other, tmp_path / "narrow")


def test_trained_folder_is_a_pipeline(tmp_path, capsys, monkeypatch):
    """In PyNative: two steps cost less than compiling them. (Graphs of a training: test_train_resume.py.)"""
    monkeypatch.setattr("mindsora.train.HELD_OUT_CLIPS", 2)
    monkeypatch.setattr(ms, "jit", lambda function: function)
    model = tmp_path / "model"
    train(recipe("vae", tmp_path))
    assert "held-out PSNR" in capsys.readouterr().out
    for name in ("tokenizer", "tokenizer_2"):
        shutil.copytree(TOKENIZERS / name, model / name)
    train(recipe("denoiser", tmp_path))
    config = read_json(model / "vae" / "config.json")
    assert len(config["scale"]) == len(config["shift"]) == 4

    # With the written shift and scale the samples are centred, and their widest channel has unit variance.
    file, source = tmp_path / "denoiser" / "latents.safetensors", clips(recipe("denoiser", tmp_path))
    latents = prepare_latents(model / "vae", file, source)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((50, *latents.mean.shape), np.float32)
    draws = np.stack([latents.draw(np.arange(4), n) for n in noise])
    np.testing.assert_allclose(draws.mean((0, 1, 3, 4, 5)), 0, atol=0.1)  # 6400 draws per channel
    np.testing.assert_allclose(draws.std((0, 1, 3, 4, 5)).max(), 1, atol=0.1)
    assert len(set(config["scale"])) == 1

    pipe = TextToVideoPipeline.from_pretrained(model, jit="off")
    pipe.set_progress_bar_config(disable=True)
    (frames,) = pipe("a red circle moving left", num_inference_steps=1, guidance_scale=1.0)
    assert frames.shape == (1, 9, 32, 32, 3) and np.isfinite(frames).all()

    # Latents of another autoencoder, or of other clips, are refused; so is a width that does not fit.
    for state in (tmp_path / "denoiser").glob("state*"):  # its check would refuse the other clips first
        state.unlink()
    with pytest.raises(InputError, match="another clips"):
        train(recipe("denoiser", tmp_path, "data.clips=5"))
    with pytest.raises(InputError, match="transformer.in_channels = 8: the other parts need 4"):
        train(recipe("denoiser", tmp_path, "transformer.in_channels=8"))
