"""LoRA on the denoisers: what is trained, that graphs agree, and the weights of a pipeline with and without updates."""

import json

import mindspore as ms
import numpy as np
import pytest
import tiny_pipeline
from mindspore import Tensor
from safetensors.numpy import load_file
from test_offload import load

from mindsora import ImageToVideoPipeline, ckpt_convert, cli
from mindsora.ckpt_convert.lora import FILE, write_lora
from mindsora.errors import InputError
from mindsora.models import registry
from mindsora.sampling import FlowMatchScheduler, VPredictionScheduler
from mindsora.train.lora import add_lora, matrices
from mindsora.train.methods.denoising import FlowMatchingLoss, InpaintingLoss, VPredictionLoss
from mindsora.train.objectives import FlowMatching, VPrediction

KINDS = ["SUV", "OpenSoraT2V", "OpenSoraInpaint"]
SUV_FIRST = ["SUV", *(pytest.param(kind, marks=pytest.mark.full) for kind in KINDS[1:])]
PROMPT = "a red cat"
# Float32 sums in another order: x (W + B A)^T and x W^T + (x A^T) B^T through all blocks; outputs are of size 1.
ROUNDING = 2e-5


def denoiser(kind):
    ms.set_seed(3)
    cell, config = {
        "SUV": tiny_pipeline.CONFIGS["transformer"],
        "OpenSoraT2V": tiny_pipeline.TASKS["t2v"],
        "OpenSoraInpaint": tiny_pipeline.TASKS["i2v"],
    }[kind]
    model = cell.from_upstream(config)
    for parameter in model.get_parameters():
        if parameter.ndim == 2 and parameter.asnumpy().std() < 0.03:  # so small that gates would hide the attention
            parameter.set_data(8 * parameter)
    return model


def loss_and_batch(kind, model):
    rng = np.random.RandomState(0)
    normal = lambda *shape: Tensor(rng.randn(*shape).astype(np.float32))  # noqa: E731
    latents = normal(2, 4, 2, 4, 4), normal(2, 4, 2, 4, 4)
    text = normal(2, 1, 5, 24), Tensor(np.array([[[1, 1, 1, 0, 0]], [[1, 1, 1, 1, 1]]], np.int32))
    if kind == "SUV":
        sigma = Tensor(np.array([0.3, 0.9], np.float32))
        return FlowMatchingLoss(model, FlowMatching(FlowMatchScheduler())), (*latents, sigma, *text, normal(2, 1, 20))
    timestep, objective = Tensor(np.array([100, 900], np.float32)), VPrediction(VPredictionScheduler())
    if kind == "OpenSoraT2V":
        return VPredictionLoss(model, objective), (*latents, timestep, *text)
    return InpaintingLoss(model, objective), (*latents, timestep, *text, normal(2, 8, 2, 4, 4))


def with_random_updates(kind, rank=2, alpha=3.0):
    model = denoiser(kind)
    adapted, rng = add_lora(model, rank, alpha), np.random.RandomState(1)
    for layer in adapted.values():
        layer.lora_B.set_data(Tensor(rng.randn(*layer.lora_B.shape).astype(np.float32)))
    return model, adapted


# Training


@pytest.mark.parametrize("kind", KINDS)
def test_only_a_and_b_are_trained(kind):
    """Names and values of the base stay; A and B of the attention projections are the trainable parameters."""
    base = {p.name: p.asnumpy() for p in denoiser(kind).get_parameters()}
    model = denoiser(kind)
    adapted = add_lora(model, 2, 2.0)
    trainable = {p.name for p in model.trainable_params()}
    assert trainable == {f"{p.name}" for layer in adapted.values() for p in (layer.lora_A, layer.lora_B)}
    assert len(trainable) == 2 * len(adapted) and len({p.name for p in model.get_parameters()}) == len(base) + len(
        trainable
    )
    for parameter in model.get_parameters():
        if parameter.name not in trainable:
            np.testing.assert_array_equal(parameter.asnumpy(), base[parameter.name])
    table = registry.spec_of(model).names
    upstream = {table.upstream_name(name) for name in base}
    assert all(f"{layer}.weight" in upstream for layer in adapted)
    # Eight a block: q, k, v, out of SUV's two streams, or of v1.3's two attentions. SUV's last block has no text output.
    assert len(adapted) == (8 * 6 - 1 if kind == "SUV" else 8 * 4)


@pytest.mark.parametrize("kind", SUV_FIRST)
def test_it_starts_as_the_base(run, kind):
    loss, batch = loss_and_batch(kind, denoiser(kind))
    expected = loss(*batch)[0].asnumpy()
    model = denoiser(kind)
    add_lora(model, 2, 2.0)
    loss, batch = loss_and_batch(kind, model)
    np.testing.assert_allclose(run(loss, *batch)[0].asnumpy(), expected, rtol=1e-6)  # adds 0


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("SUV", marks=pytest.mark.full),
        pytest.param("OpenSoraT2V", marks=pytest.mark.full),
        pytest.param("OpenSoraInpaint", marks=pytest.mark.slow),
    ],
)
def test_gradients_of_graphs_are_pynatives(kind):
    """Blocks of one kind share a graph: each must take its own A and B. No gradient is all zero."""
    model, adapted = with_random_updates(kind)
    loss, batch = loss_and_batch(kind, model)
    weights = ms.ParameterTuple(model.trainable_params())
    step = ms.value_and_grad(loss, None, weights=weights, has_aux=True)
    (expected, _), gradients = step(*batch)
    (value, _), compiled = ms.jit(step)(*batch)
    np.testing.assert_allclose(value.asnumpy(), expected.asnumpy(), rtol=1e-5)
    assert len(gradients) == 2 * len(adapted)
    for weight, one, other in zip(weights, gradients, compiled):
        scale = np.abs(one.asnumpy()).max()
        # The last block of SUV has no text output: text asks nothing there.
        assert (scale > 0) != weight.name.startswith("transformer_blocks.2.1.attn1.add_q_proj"), weight.name
        np.testing.assert_allclose(other.asnumpy(), one.asnumpy(), rtol=0, atol=1e-4 * scale, err_msg=weight.name)


@pytest.mark.parametrize(
    "targets, rank, message",
    [
        (("to_q", "to_w"), 2, "LoRA target 'to_w': SUV has no such layer; choose from attn1.add_k_proj"),
        (("norm1.linear",), 2, "no such layer"),  # the modulation is no plain linear layer
        (None, 0, "LoRA rank 0: must be from 1 to 31"),
        (None, 32, "LoRA rank 32"),
    ],
)
def test_targets_and_ranks_are_checked(targets, rank, message):
    model = denoiser("SUV")
    with pytest.raises(InputError, match=message):
        add_lora(model, rank, 1.0, targets)
    assert len(model.trainable_params()) == len(list(model.get_parameters()))


def test_targets_are_ends_of_names():
    assert len(add_lora(denoiser("SUV"), 2, 2.0, ("ff.net.0.proj", "to_out.0"))) == 12  # once in each of six blocks


# Merging


@pytest.mark.parametrize("kind", SUV_FIRST)
def test_merged_weights_compute_the_same(tmp_path, kind):
    """Through the file: written, then merged by `convert` into the weights of a plain model."""
    model, adapted = with_random_updates(kind)
    loss, batch = loss_and_batch(kind, model)
    expected = loss(*batch)[0].asnumpy()
    values = {p.name: p.asnumpy() for p in model.get_parameters()}
    write_lora(tmp_path / FILE, matrices(adapted, values), rank=2, alpha=3.0)
    plain = denoiser(kind)
    ckpt_convert.save(plain, tmp_path / "base.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(tiny_config(kind)))
    merged = tmp_path / "merged"
    options = ["--merge-lora", str(tmp_path / FILE), "--quiet"]
    assert cli.main(["convert", str(tmp_path / "base.safetensors"), str(merged), *options]) == 0
    loss_plain, _ = loss_and_batch(kind, plain)
    assert abs(loss_plain(*batch)[0].asnumpy() - expected) > 100 * ROUNDING  # the updates matter
    loss, _ = loss_and_batch(kind, ckpt_convert.load(denoiser(kind), merged))
    np.testing.assert_allclose(loss(*batch)[0].asnumpy(), expected, rtol=ROUNDING)


def tiny_config(kind):
    configs = {"SUV": tiny_pipeline.CONFIGS["transformer"], "OpenSoraT2V": tiny_pipeline.TASKS["t2v"]}
    return (configs | {"OpenSoraInpaint": tiny_pipeline.TASKS["i2v"]})[kind][1]


# Pipelines


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Model folders of the three denoisers, each with a LoRA for it."""
    root = tmp_path_factory.mktemp("models")
    writers = {
        "SUV": tiny_pipeline.write,
        "OpenSoraT2V": lambda folder: tiny_pipeline.write_v1_3(folder, "t2v"),
        "OpenSoraInpaint": lambda folder: tiny_pipeline.write_v1_3(folder, "i2v"),
    }
    for kind, write in writers.items():
        write(root / kind)
        model, adapted = with_random_updates(kind)
        values = {p.name: p.asnumpy() for p in model.get_parameters()}
        write_lora(root / f"{kind}.safetensors", matrices(adapted, values), rank=2, alpha=3.0)
    return root


def pipeline(folders, kind, **options):
    options = {"jit": "off"} | options
    return load(folders / kind, ImageToVideoPipeline if kind == "OpenSoraInpaint" else load.__defaults__[0], **options)


def latents(pipe):
    return pipe(prompt=PROMPT, num_frames=1, num_inference_steps=1, seed=5, output_type="latent").frames


@pytest.mark.parametrize("kind", ["SUV", pytest.param("OpenSoraT2V", marks=pytest.mark.full)])
@pytest.mark.parametrize("jit", ["off", pytest.param("O0", marks=pytest.mark.full)])
def test_load_and_unload(folders, kind, jit):
    pipe, file = pipeline(folders, kind, jit=jit), folders / f"{kind}.safetensors"
    base = latents(pipe)
    pipe.load_lora_weights(file, 0)
    np.testing.assert_array_equal(latents(pipe), base)  # scale 0 is the base, bit for bit
    pipe.load_lora_weights(file)
    assert [lora.scale for lora in pipe.loras] == [0, 1.0]
    changed = latents(pipe)
    assert np.abs(changed - base).max() > 1e-3
    pipe.load_lora_weights(file, -1)  # adds up: 1 - 1
    np.testing.assert_allclose(latents(pipe), base, atol=1e-4)
    pipe.unload_lora_weights()
    assert pipe.loras == ()
    np.testing.assert_array_equal(latents(pipe), base)
    pipe.load_lora_weights(file)
    np.testing.assert_array_equal(latents(pipe), changed)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["OpenSoraT2V", "SUV"])
def test_offload_adds_the_same_updates(folders, kind):
    whole, streamed = (pipeline(folders, kind, offload=offload) for offload in (False, True))
    for pipe in (whole, streamed):
        pipe.load_lora_weights(folders / f"{kind}.safetensors", 0.5)
    np.testing.assert_array_equal(latents(streamed), latents(whole))
    for pipe in (whole, streamed):
        pipe.unload_lora_weights()
    np.testing.assert_array_equal(latents(streamed), latents(whole))


@pytest.mark.full
def test_half_precision_rounds_the_sum_once(folders):
    pipe, file = pipeline(folders, "SUV", dtype={"transformer": "float16"}), folders / "SUV.safetensors"
    pipe.load_lora_weights(file)
    exact = pipeline(folders, "SUV")
    exact.load_lora_weights(file)
    for half, single in zip(pipe.transformer.get_parameters(), exact.transformer.get_parameters(), strict=True):
        np.testing.assert_array_equal(half.asnumpy(), single.asnumpy().astype(half.asnumpy().dtype), err_msg=half.name)


def test_a_lora_of_another_model_changes_nothing(folders):
    pipe = pipeline(folders, "SUV")
    before = [p.asnumpy() for p in pipe.transformer.get_parameters()]
    with pytest.raises(InputError, match="does not fit SUV, which has no layer 'transformer_blocks.0.attn1.to_k'"):
        pipe.load_lora_weights(folders / "OpenSoraT2V.safetensors")
    assert pipe.loras == ()
    for parameter, value in zip(pipe.transformer.get_parameters(), before):
        np.testing.assert_array_equal(parameter.asnumpy(), value)


def test_another_transformer_has_no_files(folders):
    pipe = pipeline(folders, "SUV")
    pipe.transformer = denoiser("SUV")
    with pytest.raises(InputError, match="load the pipeline with from_pretrained"):
        pipe.load_lora_weights(folders / "SUV.safetensors")


# The commands


def test_generate_and_rerun(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lora = tmp_path / "my.safetensors"
    lora.write_bytes((folders / "SUV.safetensors").read_bytes())
    options = ["--model", str(folders / "SUV"), "--steps", "1", "--jit", "off", "--quiet"]
    assert cli.main(["generate", PROMPT, "--output", "base.png", *options]) == 0
    assert cli.main(["generate", PROMPT, "--output", "new.png", "--lora", "my.safetensors:0.5", *options]) == 0
    base, new = (json.loads((tmp_path / f"{name}.png.json").read_text()) for name in ("base", "new"))
    assert "lora" not in base["request"]
    (record,) = new["request"]["lora"]
    assert (record["file"], record["scale"], len(record["sha256"])) == ("my.safetensors", 0.5, 64)
    assert base["result"]["frames_sha256"] != new["result"]["frames_sha256"]
    assert cli.main(["rerun", "new.png.json", "--quiet"]) == 0  # the same frames
    lora.write_bytes((folders / "OpenSoraT2V.safetensors").read_bytes())
    assert cli.main(["rerun", "new.png.json", "--quiet"]) == 2
    assert "LoRA 'my.safetensors' has changed" in capsys.readouterr().err
    assert cli.main(["generate", PROMPT, "--output", "no.png", "--lora", "my.safetensors", *options]) == 2
    assert "does not fit SUV" in capsys.readouterr().err and not (tmp_path / "no.png").exists()


@pytest.mark.full
def test_merged_model_generates_what_the_lora_does(folders, tmp_path):
    """`convert --merge-lora` and `load_lora_weights` add the same sums, so the frames are equal."""
    source, target = folders / "SUV" / "transformer", tmp_path / "transformer"
    options = ["--merge-lora", f"{folders / 'SUV.safetensors'}:0.5", "--quiet"]
    assert cli.main(["convert", str(source), str(target), *options]) == 0
    pipe = pipeline(folders, "SUV")
    pipe.load_lora_weights(folders / "SUV.safetensors", 0.5)
    table = registry.spec("SUV").names
    merged = load_file(target / "diffusion_pytorch_model.safetensors")
    for parameter in pipe.transformer.get_parameters():
        np.testing.assert_array_equal(parameter.asnumpy(), merged[table.upstream_name(parameter.name)])


# PEFT's own arithmetic and names


def torch_model(weights):
    """A torch module with upstream's names and these weights; PEFT needs no forward pass to save and to merge."""
    import torch

    root = torch.nn.Module()
    for name, value in weights.items():
        if not name.endswith(".weight") or value.ndim != 2:
            continue
        *path, last = name.split(".")[:-1]
        parent = root
        for part in path:
            if part not in dict(parent.named_children()):
                parent.add_module(part, torch.nn.Module())
            parent = parent.get_submodule(part)
        parent.add_module(last, torch.nn.Linear(*value.shape[::-1], bias=False))
        parent.get_submodule(last).weight.data = torch.tensor(value)
    root.config = {"model_type": "custom"}
    return root


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS)
def test_peft_writes_what_we_merge(tmp_path, kind):
    """PEFT saves an adapter and merges it; our reader makes the same weights of its file."""
    import torch
    from peft import LoraConfig, get_peft_model

    base = ckpt_convert.upstream_state(denoiser(kind))
    config = LoraConfig(r=3, lora_alpha=5, target_modules=["to_q", "to_out.0", "ff.net.2"], bias="none")
    peft = get_peft_model(torch_model(base), config)
    torch.manual_seed(0)
    for name, parameter in peft.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn_like(parameter)
    peft.save_pretrained(tmp_path / "adapter")
    theirs = {name: value.numpy() for name, value in peft.merge_and_unload().state_dict().items()}
    ckpt_convert.save(denoiser(kind), tmp_path / "base.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(tiny_config(kind)))
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    options = ["--merge-lora", str(file), "--quiet"]
    assert cli.main(["convert", str(tmp_path / "base.safetensors"), str(tmp_path / "ours.safetensors"), *options]) == 0
    ours, changed = load_file(tmp_path / "ours.safetensors"), 0
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=0, atol=1e-6, err_msg=name)  # sums in another order
        changed += not np.array_equal(value, base[name])
    assert changed == len(load_file(file)) / 2


@pytest.mark.full
def test_peft_reads_what_we_write(tmp_path):
    """After diffusers' prefix, the keys of our file are those that PEFT expects, all of them and no others."""
    import torch
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    model, adapted = with_random_updates("SUV")
    values = {p.name: p.asnumpy() for p in model.get_parameters()}
    write_lora(tmp_path / FILE, matrices(adapted, values), rank=2, alpha=3.0)
    ours = {key.removeprefix("transformer."): torch.tensor(v) for key, v in load_file(tmp_path / FILE).items()}
    base = torch_model(ckpt_convert.upstream_state(denoiser("SUV")))
    injected = inject_adapter_in_model(LoraConfig(r=2, lora_alpha=3, target_modules=sorted(adapted)), base)
    result = set_peft_model_state_dict(injected, ours)
    assert not result.unexpected_keys and not [key for key in result.missing_keys if "lora_" in key]
    state = injected.state_dict()
    for key, value in ours.items():
        layer, matrix, _ = key.rsplit(".", 2)
        assert torch.equal(state[f"{layer}.{matrix}.default.weight"], value)
