"""The step and the loop on a toy model: graph equals PyNative, and a stopped and resumed run equals an unbroken one."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from fuzzing import HARM, fuzz, harmed
from hypothesis import given
from hypothesis import strategies as st
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.api import ms_compile_cache
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from mindsora.data.order import EpochOrder
from mindsora.errors import InputError
from mindsora.files import arrays_sha256
from mindsora.nn.layers import Embedding, LayerNorm, Linear
from mindsora.train import checkpoint
from mindsora.train.checkpoint import Identity
from mindsora.train.loop import Prefetch, Task, mean_losses, numbered, train
from mindsora.train.memory import LossScale, train_in
from mindsora.train.optimizer import METRICS, TrainStep, global_norm
from mindsora.train.recipe import OptimizerConfig, RunConfig


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


def toy_train(out, batch=toy_batch, steps=20, identity="toy", export=None, lr=1e-2, reshuffle=False, size=8, **run):
    """Train ToyLoss in `out` on batches of `size` samples; the averaged weights go to `export`, a function."""
    accumulate = run.pop("accumulate", 1)
    optimizer = OptimizerConfig(lr=lr, warmup=3, decay_from=0.5, ema=0.99, accumulate=accumulate)
    step = TrainStep(ToyLoss(), optimizer, ("abs",))
    task = Task(step, lambda: numbered(batch), export or (lambda weights: None))
    run = RunConfig(**{"steps": steps, "out": str(out), "export": str(out), "log_every": 4, "save_every": 5} | run)
    return train(task, optimizer, run, Identity(identity, size, accumulate, epoch=20), reshuffle)


def killed_by(number, at_step):
    """A batch function that sends its own process a signal at a certain step."""

    def batch(step):
        if step == at_step:
            os.kill(os.getpid(), number)
        return toy_batch(step)

    return batch


def ordered_batch(number):
    """Samples in an order that is drawn anew for each epoch of 20, so that 8 a batch end in the middle of epochs."""
    indices = EpochOrder(3, 20, 8)(number)
    rng = np.random.default_rng((5, number))
    return (indices % 7).astype(np.int32), np.stack([indices, indices**2, rng.normal(size=8)], -1).astype(np.float32)


CAMPAIGN = """
    import sys; sys.path.insert(0, sys.argv[1])
    import conftest
    import mindspore as ms
    from test_train_resume import ordered_batch, toy_train
    ms.jit = lambda cell: cell
    toy_train(sys.argv[2], ordered_batch, int(sys.argv[3]), save_every=1, log_every=1, accumulate=2)
"""

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
    expected, actual = (load_file(tmp_path / name / "state_00000020.safetensors") for name in ("unbroken", "broken"))
    assert expected.keys() == actual.keys()
    for name in expected:  # bit for bit
        assert expected[name].tobytes() == actual[name].tobytes(), name
    assert expected["clip_skipped"] == 2 and expected["updates"] == 18  # the two extreme steps changed nothing
    rows = [json.loads(line) for line in (tmp_path / "unbroken" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [4, 8, 12, 16, 20]
    logged = {"loss", "grad_norm", "lr", "threshold", "samples_per_second", "skipped", "abs", "input_wait", "compiled"}
    assert rows[-1].keys() >= logged


@pytest.mark.parametrize(
    "kills, steps", [pytest.param(3, 60, marks=pytest.mark.full), pytest.param(20, 400, marks=pytest.mark.slow)]
)
def test_a_run_killed_at_random_moments_ends_with_the_bits_of_an_unbroken_one(tmp_path, monkeypatch, kills, steps):
    """SIGKILL falls on steps, on writes and on the time between; a state is written after every step."""
    here, random = Path(__file__).parent, np.random.default_rng()
    out = tmp_path / "killed"
    command = [sys.executable, "-c", textwrap.dedent(CAMPAIGN), str(here), str(out), str(steps)]
    starts = []
    for _ in range(kills):
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(here.parent)}
        )
        rows, stop_at = 0, random.integers(3, 2 * steps // kills)  # a state is whole before the third row
        for line in child.stdout:
            if "M weights; steps" in line:
                starts.append(int(line.split("steps ")[1].split()[0]))
            rows += line.startswith("step ")
            if rows == stop_at:
                break
        time.sleep(random.uniform(0, 0.05))
        child.kill()
        child.communicate()
        if child.returncode == 0:  # the run was complete before the signal
            break
    assert sorted(starts) == starts and starts[-1] > 0  # states survived, and none was lost
    monkeypatch.setattr(ms, "jit", lambda cell: cell)
    options = {"save_every": 1, "log_every": 50, "accumulate": 2}
    toy_train(out, ordered_batch, steps, **options)
    toy_train(tmp_path / "unbroken", ordered_batch, steps, **options)
    name = f"state_{steps:08d}.safetensors"
    expected, actual = load_file(tmp_path / "unbroken" / name), load_file(out / name)
    assert expected.keys() == actual.keys()
    assert all(expected[key].tobytes() == actual[key].tobytes() for key in expected)


def test_a_state_holds_the_values_of_its_step_however_long_the_write_takes(tmp_path, monkeypatch):
    """The training changes every parameter while the file is being written."""
    parameter, go = Parameter(Tensor(np.zeros(3, np.float32)), name="w"), threading.Event()
    write = checkpoint._write
    monkeypatch.setattr(checkpoint, "_write", lambda *arguments: go.wait() and write(*arguments))
    with checkpoint.States(tmp_path, Identity("toy")) as states:
        states.save([parameter], checkpoint.Position(1, 1))
        ops.assign(parameter, Tensor(np.ones(3, np.float32)))
        early = list(tmp_path.glob(checkpoint.PATTERN))
        go.set()
    assert early == [] and not load_file(tmp_path / "state_00000001.safetensors")["w"].any()


def test_a_batch_that_its_only_rank_drops_changes_nothing():
    step = TrainStep(ToyLoss(), OptimizerConfig(lr=1e-2, clip="batch_drop"))
    for number in (0, 3):  # the targets of step 3 are 10,000 times as large
        before = state_of(step)
        metrics = step(Tensor(1e-2, ms.float32), *map(Tensor, toy_batch(number))).asnumpy()
    changed = {name for name, value in state_of(step).items() if before[name] != value}
    assert metrics[METRICS.index("extreme")] == 1 and changed == {"clip_skipped", "clip_dropped"}


def test_step_under_jit_equals_pynative():
    # Same kernels, but fused and in another order: float32 rounding over 14 steps of Adam.
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
    """Weights, moments, averages and counters keep their bits, on the first step and later; only `skipped` increases."""
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
    """Linear layers have float16 weights, as in a half-precision model; the norm and the table keep float32."""
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
    assert step.averages().keys() == {p.name for p in ToyLoss().get_parameters()}


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.glob("state*"))


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    toy_train(folder, steps=10)
    assert names(folder) == ["state_00000005.safetensors", "state_00000010.safetensors"]
    return folder


@pytest.fixture
def trained(trained_once, tmp_path):
    """A folder with the states of steps 5 and 10."""
    return Path(shutil.copytree(trained_once, tmp_path / "run"))


def rewrite(path, spoil, checksum=True, **manifest) -> None:
    """Change arrays of a state and values of its manifest, with a correct checksum by default."""
    with safe_open(path, framework="np") as file:
        values = json.loads(file.metadata()["manifest"]) | manifest
    arrays = load_file(path)
    spoil(arrays)
    if checksum:
        values.pop("sha256")
        values["sha256"] = arrays_sha256(arrays, values)
    save_file(arrays, path, metadata={"manifest": json.dumps(values)})


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda state: state.pop("moment1.first.weight"), "missing 'moment1.first.weight'"),
        (lambda state: state.update(extra=np.zeros(1)), "unexpected 'extra'"),
        (lambda state: state.update({f"x\x1b[{i}": np.zeros(1) for i in range(9)}), "'x\\x1b[4' and 4 more"),
        (lambda state: state.update(updates=np.zeros(2, np.float32)), "wrong shape 'updates'"),
        (lambda state: state.update(updates=np.zeros((), np.int32)), "wrong type 'updates'"),
    ],
)
def test_a_state_of_another_model_is_refused(trained, spoil, message):
    rewrite(trained / "state_00000010.safetensors", spoil)
    with pytest.raises(InputError) as error:
        toy_train(trained)
    assert message in str(error.value)


def flip_an_exponent(path):
    """The highest exponent bit of the file's last number."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x40
    path.write_bytes(content)


def relabel(path):
    """One tensor's type in the header, F32, becomes I32."""
    content = path.read_bytes()
    at = content.index(b'"F32"')
    path.write_bytes(content[:at] + b'"I32"' + content[at + 5 :])


def without_manifest(path):
    save_file(load_file(path), path)


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-10]),
    "empty": lambda path: path.write_bytes(b""),
    "not a file of tensors": lambda path: path.write_text("state"),
    "exponent": flip_an_exponent,
    "type": relabel,
    "no manifest": without_manifest,
    "a manifest that is a list": lambda path: save_file(load_file(path), path, metadata={"manifest": "[1]"}),
    "a manifest that is no JSON": lambda path: save_file(load_file(path), path, metadata={"manifest": "{"}),
    "step": lambda path: rewrite(path, lambda state: None, checksum=False, step=5),
    "step of another type": lambda path: rewrite(path, lambda state: None, step="10"),
    "step below 1": lambda path: rewrite(path, lambda state: None, step=0),
    "step that is true": lambda path: rewrite(path, lambda state: None, step=True),
    "recipe of another type": lambda path: rewrite(path, lambda state: None, recipe=None),
    "layout that is a list": lambda path: rewrite(path, lambda state: None, layout=[]),
    "samples of another type": lambda path: rewrite(path, lambda state: None, order={"samples": "80"}),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_state_is_named_and_the_one_before_goes_on(trained, damage, monkeypatch, capsys):
    monkeypatch.setattr(ms, "jit", lambda cell: cell)
    damage(trained / "state_00000010.safetensors")
    toy_train(trained, steps=10)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("state_00000010.safetensors is damaged (") for line in lines)
    assert any("state_00000005.safetensors is whole and goes on" in line for line in lines)
    assert any("steps 5 to 10" in line for line in lines)
    assert names(trained) == ["state_00000005.safetensors", "state_00000010.safetensors"]
    toy_train(trained, steps=10)
    assert "damaged" not in capsys.readouterr().out  # the run repeated the step and rewrote its state


def test_a_run_without_a_whole_state_says_so(trained):
    for path in trained.glob("state*"):
        path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError) as error:
        toy_train(trained)
    text = str(error.value)
    assert "state_00000005" in text and "state_00000010" in text and "remove them" in text and "\n" not in text
    for path in trained.glob("state*"):
        path.unlink()
    (trained / "state.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="state.safetensors has no checksum"):
        toy_train(trained)


def test_states_of_another_recipe_or_beyond_the_run_are_refused(trained):
    with pytest.raises(InputError, match="another recipe"):
        toy_train(trained, identity="other")
    with pytest.raises(InputError, match="step 10, beyond run.steps = 9: give run.steps=10 or more"):
        toy_train(trained, steps=9)
    rewrite(trained / "state_00000010.safetensors", lambda state: None, step=10**12)
    with pytest.raises(InputError, match="step 1000000000000, beyond run.steps = 20"):
        toy_train(trained)


def test_a_second_training_in_one_folder_is_refused(tmp_path):
    """A second run is refused while the first runs, in this process or another, but not after the first ended or died."""
    refused = []

    def batch(step):
        if step == 0:
            with pytest.raises(InputError) as error:
                toy_train(tmp_path)
            refused.append(str(error.value))
            child = in_child(tmp_path, signal.SIGTERM, 10**6)
            refused.append(child.stderr.splitlines()[-1])
        return toy_batch(step)

    toy_train(tmp_path, batch, steps=2)
    assert len(refused) == 2
    for text in refused:
        assert f"run.out = '{tmp_path}': process {os.getpid()} trains there; wait for it" in text
    toy_train(tmp_path, steps=2)


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lock").symlink_to(victim)
    with pytest.raises(InputError, match="run.out"):
        toy_train(tmp_path / "run")
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("key", ["out", "export"])
def test_folders_are_checked_before_training(tmp_path, key):
    (tmp_path / "file").write_text("")
    folders = {"out": tmp_path / "out", "export": tmp_path / "export"} | {key: tmp_path / "file" / "below"}
    step = TrainStep(ToyLoss(), OptimizerConfig(lr=1e-2), ("abs",))
    task = Task(step, lambda: pytest.fail("training began"), lambda weights: None)
    run = RunConfig(steps=2, **{name: str(folder) for name, folder in folders.items()})
    with pytest.raises(InputError, match=f"run.{key} = .*Not a directory"):
        train(task, OptimizerConfig(lr=1e-2), run, Identity("toy"))
    assert names(tmp_path) == [] and not (tmp_path / "export").exists()


def test_a_full_disk_is_one_line_and_the_run_goes_on_from_the_last_state(tmp_path, monkeypatch):
    """A limit on file size simulates a full disk: the system refuses the write in the middle of the state."""
    monkeypatch.setattr(ms, "jit", lambda cell: cell)

    def batch(step):
        if step == 9:  # prepared before the state of step 10
            while names(tmp_path) != ["state_00000005.safetensors"]:  # states are written beside the training
                time.sleep(0.01)
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
        return toy_batch(step)

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(InputError) as error:
            toy_train(tmp_path, batch)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    text = str(error.value)
    assert "state_00000010.safetensors" in text and "File too large" in text and "\n" not in text
    assert "the last state is state_00000005.safetensors" in text
    assert names(tmp_path) == ["state_00000005.safetensors"]  # nothing half-written
    broken, unbroken = toy_train(tmp_path), toy_train(tmp_path / "unbroken")
    assert state_of(broken) == state_of(unbroken)


def test_weights_that_are_not_finite_are_not_exported(tmp_path):
    exported = []
    with pytest.raises(InputError, match="trained weights are not finite.*nothing is exported"):
        toy_train(tmp_path, steps=3, lr=1e30, export=exported.append)
    assert exported == []


def test_an_export_that_fails_is_one_line(tmp_path):
    def export(weights):
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="run.export = .*: No space left on device; the same command exports again"):
        toy_train(tmp_path, steps=2, export=export)
    exported = []
    toy_train(tmp_path, steps=2, export=exported.append)
    assert exported[0].keys() == {p.name for p in ToyLoss().get_parameters()}


def test_errors_of_the_data_thread_reach_the_loop():
    def batch(step):
        if step == 2:
            raise InputError("broken clip")
        return step

    with pytest.raises(InputError, match="broken clip"), Prefetch(map(batch, range(5))) as batches:
        for step in batches:
            assert step < 2


@pytest.mark.full
@fuzz(300)
@given(st.lists(HARM, min_size=1, max_size=3), st.sampled_from((1.0, 0.2)))
def test_a_harmed_state_is_what_it_was_or_is_found(tmp_path, harms, share):
    path, arrays = tmp_path / "state", {"w": np.arange(24, dtype=np.float32).reshape(4, 6), "n": np.array([3])}
    manifest = {"recipe": "toy", "step": 3, "layout": Identity("toy").layout, "order": {"samples": 3}}
    checkpoint._write(arrays, path, manifest | {"sha256": arrays_sha256(arrays, manifest)})
    path.write_bytes(harmed(path.read_bytes(), [(name, where * share, *rest) for name, where, *rest in harms]))
    try:
        read_manifest, read_arrays = checkpoint._read(path)
    except checkpoint._Damaged as error:
        assert len(str(error)) < 4000
        return
    assert read_manifest == manifest and read_arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(read_arrays[name], array, strict=True)


def manifest_of(path) -> dict:
    with safe_open(path, framework="np") as file:
        return json.loads(file.metadata()["manifest"])


def test_a_state_says_where_the_run_is(trained):
    """10 steps of 8 samples, 20 to an epoch: in the middle of the fifth. Step 3 was extreme and made no update."""
    manifest = manifest_of(trained / "state_00000010.safetensors")
    assert manifest["step"] == 10 and manifest["recipe"] == "toy"
    assert manifest["order"] == {"seed": 0, "samples": 80, "epoch": 4, "position": 0}
    assert manifest["layout"] == {"data.batch": 8, "optimizer.accumulate": 1, "ranks": 1}
    assert manifest["counters"]["updates"] == 9 and manifest["counters"]["clip_skipped"] == 1
    assert manifest["counters"].keys() >= {"clip_mean", "clip_variance"}


def test_the_newest_states_and_every_mth_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(ms, "jit", lambda cell: cell)
    toy_train(tmp_path, steps=12, save_every=1, keep=3, keep_every=4)
    assert [int(name[6:14]) for name in names(tmp_path)] == [4, 8, 10, 11, 12]


def test_another_batch_is_refused_or_goes_on_from_the_next_sample(trained, monkeypatch):
    monkeypatch.setattr(ms, "jit", lambda cell: cell)
    with pytest.raises(InputError) as error:
        toy_train(trained, size=4, accumulate=2)
    text = str(error.value)
    assert "data.batch = 8 (now 4), optimizer.accumulate = 1 (now 2)" in text and "--reshuffle" in text
    assert "after 80 samples" in text and "\n" not in text
    numbers = []

    def batch(number):
        numbers.append(number)
        ids, target = toy_batch(number)
        return ids[:4], target[:4]

    toy_train(trained, batch, steps=12, size=4, accumulate=2, reshuffle=True)
    assert numbers == [20, 21, 22, 23]  # 80 samples are 20 batches of 4
    assert manifest_of(trained / "state_00000012.safetensors")["order"]["samples"] == 96


def test_accumulated_batches_equal_one_batch_of_all_their_samples(run):
    """The mean over 2 batches of 4 is the mean over the 8; float32 sums in another order."""
    ids, target = toy_batch(0)
    batches = [(Tensor(ids[a:b]), Tensor(target[a:b])) for a, b in ((0, 4), (4, 8))]
    lr, states = Tensor(1e-2, ms.float32), []
    for accumulate in (1, 2):
        step = TrainStep(ToyLoss(), OptimizerConfig(lr=1e-2, ema=0.9, accumulate=accumulate))
        for _ in range(3):
            if accumulate == 2:
                run(step.collect, *batches[0])
                metrics = run(step, lr, *batches[1])
            else:
                metrics = run(step, lr, Tensor(ids), Tensor(target))
        states.append({p.name: p.asnumpy() for p in step.get_parameters()} | {"norm": metrics.asnumpy()[1]})
    whole, parts = states
    for name, values in whole.items():
        np.testing.assert_allclose(parts[name], values, rtol=2e-4, atol=1e-6, err_msg=name)
    sums = [values for name, values in parts.items() if name.startswith(checkpoint.TRANSIENT)]
    assert len(sums) == 7 and not any(values.any() for values in sums)


def test_a_run_that_accumulates_saves_no_sums_and_resumes_in_the_middle_of_an_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr(ms, "jit", lambda cell: cell)
    toy_train(tmp_path / "unbroken", steps=6, accumulate=3)
    shutil.copytree(tmp_path / "unbroken", tmp_path / "broken")
    (tmp_path / "broken" / "state_00000006.safetensors").unlink()  # goes on after step 5, 15 batches
    toy_train(tmp_path / "broken", steps=6, accumulate=3)
    unbroken, broken = (load_file(tmp_path / name / "state_00000006.safetensors") for name in ("unbroken", "broken"))
    assert unbroken.keys() == broken.keys() and not any(name.startswith("transient") for name in unbroken)
    assert all(unbroken[name].tobytes() == broken[name].tobytes() for name in unbroken)


@pytest.mark.full
def test_each_batch_shape_compiles_once(tmp_path, capsys):
    """Two shapes alternate: the count is MindSpore's own."""

    def batch(step):
        ids, target = toy_batch(step + 20)
        return (ids, target) if step % 2 else (ids[:5], target[:5])

    before = len(ms_compile_cache)
    toy_train(tmp_path, batch, steps=8)
    assert len(ms_compile_cache) - before == 2
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines if "graphs so far" in line] == ["batch 5", "batch 8"]
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["compiled"] == 2


def test_validation_and_samples_are_called_at_their_intervals(tmp_path, monkeypatch):
    monkeypatch.setattr(ms, "jit", lambda cell: cell)
    step, sampled = TrainStep(ToyLoss(), OptimizerConfig(lr=1e-2), ("abs",)), []
    values = mean_losses(step.loss, {"low": [toy_batch(0)], "high": [toy_batch(1), toy_batch(2)]})
    task = Task(
        step, lambda: numbered(toy_batch), lambda weights: None, values, lambda weights, done: sampled.append(done)
    )
    folder = str(tmp_path)
    run = RunConfig(steps=5, out=folder, export=folder, validate_every=2, sample_every=3, tensorboard=True)
    train(task, OptimizerConfig(lr=1e-2), run, Identity("toy", 8))
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    validated = [row for row in rows if "validation/low" in row]
    assert [row["step"] for row in validated] == [2, 4, 5] and sampled == [3, 5]
    expected = np.mean([float(step.loss(*map(Tensor, toy_batch(i)))[0]) for i in (1, 2)])
    assert validated[-1]["validation/high"] == pytest.approx(expected, rel=1e-6)
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"validation/low" in events.read_bytes() and b"grad_norm" in events.read_bytes()


class LinearHalf(nn.Cell):
    """HalfToyLoss without the table and the norm, so that float16 rounds every value of the forward pass."""

    def __init__(self):
        super().__init__(auto_prefix=False)
        self.toy = ToyLoss()

    def construct(self, ids, target):
        dtype = self.toy.first.weight.dtype
        h = self.toy.table(ids).astype(dtype)
        error = self.toy.second(ops.tanh(self.toy.first(h))).astype(ms.float32) - target
        loss = (error * error).mean()
        return loss, ops.stack((ops.abs(error).mean(),))


@pytest.mark.full
def test_float16_with_masters_converges_like_float32():
    """300 steps at a rate that single float16 updates could not follow; the last losses agree to 2 %."""
    losses = {}
    for precision in ("float32", "float16"):
        loss = LinearHalf()
        train_in(loss, precision)
        step = TrainStep(loss, OptimizerConfig(lr=3e-4, ema=0.9, weight_decay=0.0))
        run, batch = ms.jit(step), list(map(Tensor, toy_batch(0)))
        losses[precision] = [float(run(Tensor(3e-4, ms.float32), *batch)[0]) for _ in range(300)]
    assert losses["float32"][-1] < 0.5 * losses["float32"][0]
    assert losses["float16"][-1] == pytest.approx(losses["float32"][-1], rel=0.02)
    assert float(step.loss_scale.scale.asnumpy()) >= 1024  # gradients were scaled, and the scale did not collapse


def test_an_overflow_halves_the_loss_scale_and_skips_the_step(run):
    step = TrainStep(train_in(LinearHalf(), "float16"), OptimizerConfig(lr=1e-2))
    ids, target = toy_batch(0)
    metrics = run(step, Tensor(1e-2, ms.float32), Tensor(ids), Tensor(target * 1e4)).asnumpy()
    assert metrics[METRICS.index("extreme")] == 1 and step.adamw.updates.asnumpy() == 0
    assert step.loss_scale.scale.asnumpy() == 2.0**15
    scale = LossScale(8.0, patience=2)
    for norm, expected in ((1.0, 8), (1.0, 16), (np.inf, 8), (1.0, 8), (np.nan, 4)):
        run(scale, Tensor(norm, ms.float32))
        assert scale.scale.asnumpy() == expected


def test_bfloat16_weights_are_refused_on_cpu():
    with pytest.raises(InputError, match="run.precision = bfloat16: CPU has no bfloat16 matrix product"):
        train_in(ToyLoss(), "bfloat16")
