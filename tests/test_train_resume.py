"""The step and the loop on a toy model: graph equals PyNative, a run that was stopped ends like an unbroken one."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from mindsora.errors import InputError
from mindsora.nn.layers import Embedding, LayerNorm, Linear
from mindsora.train.checkpoint import averaged_weights
from mindsora.train.loop import Prefetch, train
from mindsora.train.optimizer import METRICS, TrainStep, global_norm
from mindsora.train.recipe import OptimizerConfig, RunConfig, VAEData, VAERecipe


class ToyLoss(nn.Cell):
    """Embedding, norm, two linear layers; MSE."""

    def __init__(self):
        super().__init__(auto_prefix=False)
        rng = np.random.RandomState(0)
        self.table, self.norm = Embedding(7, 12), LayerNorm(12, 1e-6)
        self.first, self.second = Linear(12, 24), Linear(24, 3)
        for name, p in self.parameters_and_names():
            p.name = name
            p.set_data(Tensor(rng.normal(0, 0.3, p.shape).astype(np.float32)))

    def construct(self, ids, target):
        error = self.second(ops.tanh(self.first(self.norm(self.table(ids))))) - target
        loss = (error * error).mean()
        return loss, ops.stack((ops.abs(error).mean(),))


def toy_batch(step):
    rng = np.random.default_rng((5, step))
    target = rng.normal(size=(8, 3)).astype(np.float32)
    return rng.integers(0, 7, 8).astype(np.int32), target * (1e4 if step in (3, 11) else 1)  # two extreme steps


def toy_recipe(out, steps=20) -> VAERecipe:
    return VAERecipe(
        task="vae",
        model={"toy": 1},
        data=VAEData(clips=50, batch=8),
        optimizer=OptimizerConfig(lr=1e-2, warmup=3, decay_from=0.5, ema=0.99),
        run=RunConfig(steps=steps, out=str(out), export="", log_every=4, save_every=5),
    )


def toy_train(out, batch=toy_batch):
    return train(toy_recipe(out), ToyLoss(), ("abs",), batch)


def killed_by(number, at_step):
    """A batch function that sends its own process a signal when it is asked for a certain step."""

    def batch(step):
        if step == at_step:
            os.kill(os.getpid(), number)
        return toy_batch(step)

    return batch


CHILD = """
    import sys; sys.path.insert(0, sys.argv[1])
    import conftest, signal
    from test_train_resume import killed_by, toy_train
    toy_train(sys.argv[2], killed_by(int(sys.argv[3]), int(sys.argv[4])))
"""


def in_child(out, number, at_step) -> subprocess.CompletedProcess:
    here = Path(__file__).parent
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(here), str(out), str(int(number)), str(at_step)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(here.parent)})


def test_stopped_killed_and_resumed_run_equals_an_unbroken_one(tmp_path):
    toy_train(tmp_path / "unbroken")
    terminated = in_child(tmp_path / "broken", signal.SIGTERM, 4)
    assert terminated.returncode == 143, terminated.stderr
    assert "goes on from there" in terminated.stdout
    killed = in_child(tmp_path / "broken", signal.SIGKILL, 15)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "steps 0 to 20" not in killed.stdout  # it had resumed
    toy_train(tmp_path / "broken")
    expected, actual = (load_file(tmp_path / name / "state.safetensors") for name in ("unbroken", "broken"))
    assert expected.keys() == actual.keys()
    for name in expected:  # bit for bit
        assert expected[name].tobytes() == actual[name].tobytes(), name
    assert expected["clip_skipped"] == 2 and expected["updates"] == 18  # the two extreme steps changed nothing
    rows = [json.loads(line) for line in (tmp_path / "unbroken" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [4, 8, 12, 16, 20]
    assert rows[-1].keys() >= {"loss", "grad_norm", "lr", "threshold", "samples_per_second", "skipped", "abs"}


def test_step_under_jit_equals_pynative():
    # Same kernels, but fused and ordered otherwise: float32 rounding over 14 steps of Adam.
    states = []
    for wrap in (lambda cell: cell, ms.jit):
        step = TrainStep(ToyLoss(), OptimizerConfig(lr=1e-2, ema=0.99))
        run = wrap(step)
        metrics = [run(Tensor(1e-2, ms.float32), *map(Tensor, toy_batch(i))).asnumpy() for i in range(14)]
        states.append(({p.name: p.asnumpy() for p in step.get_parameters()}, np.stack(metrics)))
    (plain, plain_metrics), (graph, graph_metrics) = states
    np.testing.assert_allclose(graph_metrics, plain_metrics, rtol=1e-4)
    assert list(graph_metrics[:, METRICS.index("extreme")]).count(1) == 2
    for name in plain:
        np.testing.assert_allclose(graph[name], plain[name], rtol=1e-4, atol=1e-6, err_msg=name)
    for name, first in {p.name: p.asnumpy() for p in ToyLoss().get_parameters()}.items():
        assert np.abs(graph[name] - first).max() > 1e-3 and np.abs(graph[f"ema.{name}"] - first).max() > 1e-3
        assert np.abs(graph[f"ema.{name}"] - graph[name]).max() > 0


def state_of(step) -> dict[str, bytes]:
    return {p.name: p.asnumpy().tobytes() for p in step.get_parameters()}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("wrap", [lambda cell: cell, ms.jit], ids=["pynative", "graph"])
def test_a_gradient_that_is_not_finite_changes_nothing(wrap, bad):
    """Weights, moments, averages and counters keep their bits, on the first step and later; only `skipped` counts."""
    step = TrainStep(ToyLoss(), OptimizerConfig(lr=1e-2, ema=0.99))
    run, lr = wrap(step), Tensor(1e-2, ms.float32)

    def skipped_step():
        before = state_of(step)
        ids, target = toy_batch(0)
        metrics = run(lr, Tensor(ids), Tensor(np.full_like(target, bad))).asnumpy()
        assert metrics[METRICS.index("extreme")] == 1 and not np.isfinite(metrics[METRICS.index("grad_norm")])
        after = state_of(step)
        assert {name for name in after if after[name] != before[name]} == {"clip_skipped"}

    skipped_step()
    for i in range(3):
        before = state_of(step)
        run(lr, *map(Tensor, toy_batch(i)))
        assert all(before[w.name] != after for w, after in zip(step.adamw.weights, map(bits, step.adamw.weights)))
    skipped_step()
    assert step.adamw.updates.asnumpy() == 3 and step.clip.skipped.asnumpy() == 2


def bits(parameter) -> bytes:
    return parameter.asnumpy().tobytes()


def half_loss() -> ToyLoss:
    """Linear layers with float16 weights, as a model of half precision has them; the norm and the table keep float32."""
    loss = ToyLoss()
    for layer in (loss.first, loss.second):
        for p in layer.get_parameters():
            p.set_dtype(ms.float16)
    return loss


class HalfToyLoss(nn.Cell):
    """ToyLoss with linear layers in float16."""

    def __init__(self):
        super().__init__(auto_prefix=False)
        self.toy = half_loss()

    def construct(self, ids, target):
        h = self.toy.norm(self.toy.table(ids)).astype(ms.float16)
        error = self.toy.second(ops.tanh(self.toy.first(h))).astype(ms.float32) - target
        loss = (error * error).mean()
        return loss, ops.stack((ops.abs(error).mean(),))


@pytest.mark.parametrize("wrap", [lambda cell: cell, ms.jit], ids=["pynative", "graph"])
def test_half_precision_weights_have_float32_masters_moments_and_averages(wrap):
    step = TrainStep(HalfToyLoss(), OptimizerConfig(lr=1e-5, weight_decay=0.0))
    run, batch = wrap(step), list(map(Tensor, toy_batch(0)))
    half = [w for w in step.adamw.weights if w.dtype == ms.float16]
    masters = dict(zip([w.name for w in step.adamw.weights], step.adamw.masters))
    first = {w.name: masters[w.name].asnumpy().copy() for w in half}
    assert len(half) == 4
    for _ in range(5):
        run(Tensor(1e-5, ms.float32), *batch)
    for w in half:
        moved = np.abs(masters[w.name].asnumpy() - first[w.name])
        # Five updates of 1e-5 each, which a float16 weight of 0.3 with its spacing of 2.4e-4 could not take one by one.
        assert 2e-5 < moved.max() < 6e-5
        np.testing.assert_array_equal(w.asnumpy(), masters[w.name].asnumpy().astype(np.float16))
    for kept in (step.adamw.moment1, step.adamw.moment2, step.ema.averages, step.adamw.masters):
        assert {p.dtype for p in kept} == {ms.float32}


def test_the_norm_of_half_precision_gradients_is_summed_in_float32(run):
    gradients = (np.full(4000, 300.0, np.float16), np.full((2, 3), 1.0, np.float32))
    expected = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradients))  # 300^2 is beyond float16
    np.testing.assert_allclose(float(run(global_norm, tuple(map(Tensor, gradients)))), expected, rtol=1e-6)


def test_learns():
    step = TrainStep(ToyLoss(), OptimizerConfig(lr=1e-2, ema=0.9, weight_decay=0.0))
    run, batch = ms.jit(step), list(map(Tensor, toy_batch(0)))
    losses = [float(run(Tensor(1e-2, ms.float32), *batch)[0]) for _ in range(60)]
    assert losses[-1] < 0.3 * losses[0]
    assert averaged_weights(step).keys() == {p.name for p in ToyLoss().get_parameters()}


@pytest.fixture
def trained(tmp_path):
    train(toy_recipe(tmp_path, steps=5), ToyLoss(), ("abs",), toy_batch)
    return tmp_path / "state.safetensors"


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda state: state.pop("moment1.first.weight"), "missing ['moment1.first.weight']"),
        (lambda state: state.update(extra=np.zeros(1)), "unexpected ['extra']"),
        (lambda state: state.update(updates=np.zeros(2, np.float32)), "wrong shape ['updates']"),
    ],
)
def test_partial_state_is_refused(trained, spoil, message):
    with safe_open(trained, framework="np") as file:
        metadata = file.metadata()
    state = load_file(trained)
    spoil(state)
    save_file(state, trained, metadata=metadata)
    with pytest.raises(InputError) as error:
        train(toy_recipe(trained.parent), ToyLoss(), ("abs",), toy_batch)
    assert message in str(error.value)


def test_truncated_state_and_other_recipe_are_refused(trained):
    recipe = toy_recipe(trained.parent)
    object.__setattr__(recipe, "model", {"toy": 2})
    with pytest.raises(InputError, match="another recipe"):
        train(recipe, ToyLoss(), ("abs",), toy_batch)
    trained.write_bytes(trained.read_bytes()[:-10])
    with pytest.raises(InputError, match="cannot be read"):
        train(toy_recipe(trained.parent), ToyLoss(), ("abs",), toy_batch)


def test_unwritable_folder_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="run.out"):
        train(toy_recipe(tmp_path / "file"), ToyLoss(), ("abs",), toy_batch)


def test_errors_of_the_data_thread_reach_the_loop():
    def batch(step):
        if step == 2:
            raise InputError("broken clip")
        return step

    with pytest.raises(InputError, match="broken clip"), Prefetch(batch, 0, 5) as batches:
        for step, _ in batches:
            assert step < 2
