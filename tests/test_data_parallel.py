"""Training in several processes against one process that takes the batches of all of them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from ranks import run_ranks
from safetensors.numpy import load_file

from mindsora.errors import InputError
from mindsora.train.recipe import OptimizerConfig, ParallelConfig, RunConfig, check_parallel

STEPS, RANKS = 20, 2
# float32 sums in another order: 20 steps stay within 1e-4 of the losses (the bound); weights of size 0.3 follow.
LOSSES, WEIGHTS = 1e-4, 1e-4
CASES = {"zero1": (1, {}), "zero3": (3, {})}  # name -> (zero, optimizer fields)
SLOW_CASES = {
    "zero0": (0, {}),
    "zero2": (2, {}),
    "zero1_accumulate": (1, {"accumulate": 2}),
    "zero2_accumulate": (2, {"accumulate": 2}),
    "zero3_accumulate": (3, {"accumulate": 2}),
}


def small_batch(number):
    """Batch `number` of 8 samples; the targets of two batches are extreme."""
    rng = np.random.default_rng((5, number))
    target = rng.normal(size=(8, 3)).astype(np.float32)
    return rng.integers(0, 7, 8).astype(np.int32), target * (1e4 if number in (6, 23) else 1)


def joined_batch(number):
    """The batches of all ranks as one."""
    return tuple(map(np.concatenate, zip(*(small_batch(RANKS * number + rank) for rank in range(RANKS)))))


def optimizer_of(**given):
    return OptimizerConfig(**{"lr": 1e-2, "warmup": 3, "decay_from": 0.5, "ema": 0.9} | given)


def trained(out, mesh, zero=1, steps=STEPS, batch=None, size=8, reshuffle=False, loss=None, **given):
    """Train the toy network in `out`. Returns the step."""
    from test_train_resume import ToyLoss

    from mindsora.train.checkpoint import Identity
    from mindsora.train.data_parallel import step_of
    from mindsora.train.loop import Task, numbered, train

    optimizer = optimizer_of(**given)
    step = step_of(loss or ToyLoss(), optimizer, ("abs",), mesh, zero)
    task = Task(step, lambda: numbered(batch or small_batch), lambda weights: None)
    run = RunConfig(steps=steps, out=str(out), export=str(out), log_every=1, save_every=5, keep=10)
    identity = Identity("toy", size, optimizer.accumulate, mesh.dp.size)
    return train(task, optimizer, run, identity, reshuffle, mesh.world)


def alone(out, **given):
    """One process with the batches of all ranks."""
    from mindsora.parallel.layout import single

    return trained(out, single(), batch=joined_batch, size=RANKS * 8, **given)


def job(mesh) -> dict[str, np.ndarray]:
    """The cases; a run that goes on from one process's state; a dropped rank; and the bytes of one update."""
    from mindspore import Tensor

    from mindsora.parallel.collectives import counted

    arrays = {}
    train_cases(mesh, CASES)
    trained("resumed", mesh, zero=2, reshuffle=True)
    trained("drop", mesh, zero=1, steps=8, clip="batch_drop")
    for zero in (0, 1, 2, 3):
        step = step_for_counting(mesh, zero)
        with counted() as count:
            loss, parts, *gradients = step.gradients(*map(Tensor, small_batch(mesh.dp.rank)))
        arrays[f"sent{zero}_gradients"] = np.array([count["reduce_scatter"], count["all_gather"]])
        with counted() as count:
            step.cell(Tensor(0.0, loss.dtype), Tensor(0.0, loss.dtype), loss, parts, *gradients)
        arrays[f"sent{zero}"] = np.array([count["all_reduce"], count["reduce_scatter"], count["all_gather"]])
        arrays[f"held{zero}"] = np.array(sum(p.size for p in step.cell.adamw.moment1))
        arrays[f"weights{zero}"] = np.array(sum(p.size for p in step.loss.trainable_params()))
    return arrays


def slow_job(mesh) -> dict[str, np.ndarray]:
    train_cases(mesh, SLOW_CASES)
    return {}


def train_cases(mesh, cases: dict) -> None:
    for name, (zero, given) in cases.items():
        trained(name, mesh, zero, **given)


def step_for_counting(mesh, zero):
    from test_train_resume import ToyLoss

    from mindsora.train.data_parallel import step_of

    return step_of(ToyLoss(), optimizer_of(), ("abs",), mesh, zero)


def state(folder: Path, step: int = STEPS) -> dict[str, np.ndarray]:
    return load_file(folder / f"state_{step:08d}.safetensors")


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def compare(folder: Path, reference: Path) -> None:
    """Losses of every step, then every parameter of the last state."""
    ours, theirs = rows(folder), rows(reference)
    losses = [[row["loss"] for row in run] for run in (ours[-10:], theirs[-10:])]
    np.testing.assert_allclose(*losses, rtol=LOSSES)
    ours, theirs = state(folder), state(reference)
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        assert (ours[name].shape, ours[name].dtype) == (values.shape, values.dtype), name
        np.testing.assert_allclose(ours[name], values, rtol=WEIGHTS, atol=WEIGHTS, err_msg=name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder of the runs in two processes, and what `job` returned in each."""
    folder = tmp_path_factory.mktemp("ranks")
    alone(folder / "alone")
    shutil.copytree(folder / "alone", folder / "resumed")
    for step in (15, 20):
        (folder / "resumed" / f"state_{step:08d}.safetensors").unlink()  # the next run goes on after step 10
    return folder, run_ranks("test_data_parallel:job", f"dp={RANKS}", folder)


@pytest.fixture(scope="module")
def slow_runs(tmp_path_factory):
    """Folder of the runs of SLOW_CASES, with those of one process."""
    folder = tmp_path_factory.mktemp("ranks")
    for accumulate in (1, 2):
        alone(folder / f"alone{accumulate}", accumulate=accumulate)
    run_ranks("test_data_parallel:slow_job", f"dp={RANKS}", folder)
    return folder


@pytest.mark.full
@pytest.mark.parametrize("name", CASES)
def test_losses_and_parameters_of_one_process(runs, name):
    folder, _ = runs
    compare(folder / name, folder / "alone")
    assert {"loss_max", "rank_seconds", "rank_skew", "slowest_rank"} <= rows(folder / name)[0].keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW_CASES)
def test_every_stage_and_accumulation(slow_runs, name):
    compare(slow_runs / name, slow_runs / f"alone{SLOW_CASES[name][1].get('accumulate', 1)}")


@pytest.mark.full
def test_one_process_to_two(runs):
    """A state of one process goes on in two, with the optimizer's state spread out."""
    folder, _ = runs
    compare(folder / "resumed", folder / "alone")


@pytest.mark.full
def test_two_processes_to_one(runs, tmp_path):
    folder, _ = runs
    shutil.copy(folder / "zero3" / "state_00000010.safetensors", tmp_path)
    with pytest.raises(InputError, match="reshuffle"):
        alone(tmp_path)  # the batches of another number of ranks are others, in general
    alone(tmp_path, reshuffle=True)
    compare(tmp_path, folder / "alone")


@pytest.mark.full
def test_a_dropped_rank(runs):
    """Batch drop (v1.3) leaves a rank's gradients out before the ranks' are summed."""
    folder, _ = runs
    ours, theirs = state(folder / "drop", 8), dropped_by_hand(8)
    assert rows(folder / "drop")[3]["loss_max"] > 1e6  # batch 6 is rank 0's of step 4
    assert ours["clip_dropped"] >= 1
    for name, values in theirs.items():
        np.testing.assert_allclose(ours[name], values, rtol=WEIGHTS, atol=WEIGHTS, err_msg=name)


def dropped_by_hand(steps: int) -> dict[str, np.ndarray]:
    """The weights after so many steps, from the gradients of single batches."""
    import mindspore as ms
    from mindspore import ParameterTuple, Tensor
    from test_train_resume import ToyLoss

    from mindsora.train.clip import BatchDrop
    from mindsora.train.optimizer import AdamW, global_norm

    config, loss = optimizer_of(clip="batch_drop"), ToyLoss()
    weights = ParameterTuple(loss.trainable_params())
    backward = ms.value_and_grad(loss, None, weights=weights, has_aux=True)
    adamw = AdamW(weights, config.betas, config.eps, config.weight_decay)
    drop = BatchDrop(config.clip_decay)
    for step in range(steps):
        gradients = [backward(*map(Tensor, small_batch(RANKS * step + rank)))[1] for rank in range(RANKS)]
        norms = Tensor(np.array([float(global_norm(one)) for one in gradients], np.float32))
        factors, _, skip = drop(norms)
        f = [float(factor) for factor in factors.asnumpy()]
        mean = tuple((f[0] * a + f[1] * b) / RANKS for a, b in zip(*gradients))
        adamw(Tensor(config.lr_at(step, steps), ms.float32), Tensor(1.0, ms.float32), skip, mean)
    return {w.name: w.asnumpy() for w in weights}


@pytest.mark.full
def test_bytes_and_memory(runs):
    """What a rank sends in an update, and how many first moments it holds: n weights, in parts of ceil(n / 2)."""
    _, ranks = runs
    sizes = [7 * 12, 12, 12, 12 * 24, 24, 24 * 3, 3]
    n, whole = sum(sizes), sum(size + size % 2 for size in sizes)
    log = 2 * 4 + 4  # of `rows`: loss, seconds and one part
    assert ranks[0]["sent0"].tolist() == [4 * whole, 0, 12]
    assert ranks[0]["sent1"].tolist() == [4, 2 * whole, 2 * whole + log]
    assert ranks[0]["sent2"].tolist() == [4, 2 * whole, 2 * whole + log]
    assert [int(ranks[0][f"held{zero}"]) for zero in range(4)] == [n, whole // 2, whole // 2, whole // 2]
    # Stage 3 gathers the two linear layers' weights in both passes, and sums their gradients in the backward pass.
    linear = 12 * 24 + 24 * 3
    assert [int(ranks[0][f"weights{zero}"]) for zero in range(4)] == [n, n, n, n - linear // 2]
    assert ranks[0]["sent3_gradients"].tolist() == [2 * linear, 2 * 2 * linear]
    assert ranks[0]["sent3"].tolist() == [4, 2 * (whole - linear), 2 * (whole - linear) + log]


def test_batch_drop_needs_whole_gradients():
    with pytest.raises(InputError, match=r"parallel\.zero = 2.*batch_drop"):
        check_parallel(ParallelConfig(dp=2, zero=2), OptimizerConfig(lr=1e-3, clip="batch_drop"))
    with pytest.raises(InputError, match=r"parallel\.zero = 4"):
        ParallelConfig(zero=4)


def recipe_job(mesh) -> dict[str, np.ndarray]:
    """Train nano's autoencoder and denoiser in miniature, in PyNative: two steps cost less than compiling them."""
    import mindspore as ms

    import mindsora.train

    ms.jit, mindsora.train.HELD_OUT_CLIPS = lambda function: function, 2
    train_recipes(Path("together"), "parallel.dp=2")
    return {}


def train_recipes(folder: Path, *overrides: str) -> None:
    from test_train_nano import recipe

    from mindsora.train import train

    train(recipe("vae", folder, *overrides, "parallel.zero=2"))
    train(recipe("denoiser", folder, *overrides, "parallel.zero=3"))


@pytest.mark.slow
def test_recipes(tmp_path, monkeypatch):
    """`mindsora train` on two ranks: one process that accumulates the batches of both has the same states and exports."""
    import mindspore as ms
    from test_train_nano import TOKENIZERS

    for name in ("alone", "together"):
        for tokenizer in ("tokenizer", "tokenizer_2"):
            shutil.copytree(TOKENIZERS / tokenizer, tmp_path / name / "model" / tokenizer)
    run_ranks("test_data_parallel:recipe_job", f"dp={RANKS}", tmp_path)
    monkeypatch.setattr("mindsora.train.HELD_OUT_CLIPS", 2)
    monkeypatch.setattr(ms, "jit", lambda function: function)
    train_recipes(tmp_path / "alone", "optimizer.accumulate=2")
    for part in ("vae", "denoiser"):
        ours, theirs = (state(tmp_path / name / part, 2) for name in ("together", "alone"))
        assert ours.keys() == theirs.keys()
        # Moments, which average gradients: where a gradient is rounding alone, Adam moves a weight by its sign.
        moments = {name: values for name, values in theirs.items() if name.startswith("moment1.")}
        largest = max(np.abs(values).max() for values in moments.values())
        for name, values in moments.items():
            np.testing.assert_allclose(ours[name], values, rtol=1e-3, atol=1e-5 * largest, err_msg=name)
    assert (tmp_path / "together" / "model" / "model_index.json").exists()
