"""Ctrl-C, TERM and HUP in every phase of a command, and in a notebook: a clean, named stop; the kernel runs on."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from functools import partial
from pathlib import Path

import nbformat
import numpy as np
import pytest
import tiny_pipeline
from checkpoint_files import large_t5
from nbclient import NotebookClient
from test_train_nano import SHORT, TINY_VAE

from mindsora.interrupts import Stopped, interruptible

ROOT = Path(__file__).parents[1]
PROGRAM = [sys.executable, "-m", "mindsora.cli"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_pipeline.write(tmp_path_factory.mktemp("models") / "tiny"))


def left(folder):
    """Files that a stopped run must not leave behind."""
    return [path.name for path in folder.rglob("*.partial")]


def stop(command, folder, marker, number):
    """Start a command on its own terminal, send a signal once it prints the marker: (exit status, output)."""
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))  # or the progress bar has no room
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MS_DEV_JIT_SYNTAX_LEVEL": "0"}
    process = subprocess.Popen(
        [*PROGRAM, *command], cwd=folder, env=environment, stdin=terminal, stdout=terminal, stderr=terminal,
        start_new_session=True, preexec_fn=partial(signal.signal, signal.SIGHUP, signal.SIG_DFL),  # nohup ignores it
    )  # fmt: skip
    os.close(terminal)
    output, sent = b"", False
    while True:
        try:
            part = os.read(main, 4096)
        except OSError:  # Linux's error for a terminal whose other end is closed
            break
        if not part:
            break
        output += part
        if not sent and marker.encode() in output:
            os.killpg(process.pid, number)
            sent = True
    os.close(main)
    assert sent, output.decode()[-2000:]
    return process.wait(timeout=120), output.decode()


@pytest.mark.parametrize(
    "marker, number",
    [
        ("loaded", signal.SIGINT),  # the text encoders compile
        ("compiled the text encoders", signal.SIGINT),  # the denoiser compiles
        pytest.param("compiled the text encoders", signal.SIGTERM, marks=pytest.mark.full),
        pytest.param("2/1000", signal.SIGINT, marks=pytest.mark.full),  # it runs
        pytest.param("2/1000", signal.SIGHUP, marks=pytest.mark.full),
        pytest.param("1000/1000", signal.SIGINT, marks=pytest.mark.full),  # the decoder compiles and writes
    ],
    ids=lambda value: value.name if isinstance(value, signal.Signals) else value.replace("/", " of "),
)
def test_a_command_stops_cleanly(model, tmp_path, marker, number):
    command = ["generate", "a cat", "--model", model, "--output", "out/a.mp4", "--steps", "1000", "--num-frames", "9"]
    command += ["--compile-cache", "none"]  # so that every run compiles
    status, output = stop(command, tmp_path, marker, number)
    assert status == 128 + number, output[-2000:]
    assert f"stopped by {number.name}" in output and "Traceback" not in output
    assert left(tmp_path) == [] and not (tmp_path / "out/a.mp4").exists()


@pytest.mark.full
@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, signal.SIGHUP, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)],
    ids=lambda number: number.name,
)
def test_convert_stops_cleanly(tmp_path, number):
    large_t5(tmp_path / "source", 2**23)  # 512 MB
    status, output = stop(["convert", "source", "target"], tmp_path, "target:", number)  # the progress bar
    assert status == 128 + number, output[-2000:]
    assert f"stopped by {number.name}" in output and "Traceback" not in output
    assert os.listdir(tmp_path) == ["source"]


@pytest.mark.full
@pytest.mark.parametrize(
    "marker, number",
    [
        ("weights; steps", signal.SIGINT),  # the step compiles
        ("step 2", signal.SIGHUP),
        pytest.param("step 2", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("step 2", signal.SIGTERM, marks=pytest.mark.slow),
    ],
    ids=lambda value: value.name if isinstance(value, signal.Signals) else value,
)
def test_training_stops_with_a_state(tmp_path, marker, number):
    options = [*SHORT, *TINY_VAE, f"run.out={tmp_path / 'out'}", f"run.export={tmp_path / 'model'}", "run.steps=100000"]
    command = ["train", str(ROOT / "recipes" / "nano" / "vae.yaml"), *options, "--device", "CPU"]
    status, output = stop(command, tmp_path, marker, number)
    assert status == 128 + number, output[-2000:]
    assert "Traceback" not in output and left(tmp_path) == [] and not (tmp_path / "model").exists()
    if marker == "weights; steps" and f"stopped by {number.name}" in output:
        return  # before the first step there is nothing to keep
    (step,) = re.findall(r"stopped after step (\d+); the same command goes on", output)
    assert f"state_{int(step):08d}.safetensors" in os.listdir(tmp_path / "out")


def test_a_signal_at_once(tmp_path):
    """While Python still imports: no traceback either."""
    command = f"import os, signal; os.kill(os.getpid(), {signal.SIGINT:d})"
    code = f"from mindsora.interrupts import run_program\ndef main():\n    {command}\n    import time; time.sleep(30)\n"
    code += "import sys; sys.exit(run_program(main))"
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "mindsora: stopped by SIGINT\n")
    assert time.monotonic() - start < 25  # the signal ended the sleep


def test_a_second_signal_ends_a_program_that_does_not_unwind():
    code = """
import os, signal, sys, threading, time
from mindsora.interrupts import run_program
def main():
    threading.Timer(1, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
    os.kill(os.getpid(), signal.SIGTERM)
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass
sys.exit(run_program(main))
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 143


def test_what_mindspore_sends_becomes_keyboard_interrupt():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), interruptible():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
    assert signal.getsignal(signal.SIGTERM) == before


def test_handlers_of_the_program_stay():
    """A program that handles SIGTERM itself, and threads, in which Python allows no handlers."""

    def own(number, frame):
        raise Stopped(number)

    before = signal.signal(signal.SIGTERM, own)
    try:
        with interruptible():
            assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)
    seen = []

    def elsewhere():
        with interruptible():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.full
def test_a_notebook_cell_is_interrupted_and_the_kernel_lives(model, tmp_path):
    cells = [
        f"""
import os, signal, threading, mindspore as ms
ms.set_device("CPU")
import mindsora
pipe = mindsora.TextToVideoPipeline.from_pretrained({model!r})
pipe.set_progress_bar_config(disable=True)
first = pipe("a cat", num_frames=9, num_inference_steps=2, seed=1).frames
""",
        """
threading.Timer(1.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    pipe("a cat", num_frames=9, num_inference_steps=1000)
    print("not interrupted")
except KeyboardInterrupt:
    print("interrupted")
""",
        """
print("alive", (pipe("a cat", num_frames=9, num_inference_steps=2, seed=1).frames == first).all())
""",
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    client = NotebookClient(book, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}})
    client.execute()
    said = ["".join(out.get("text", "") for out in cell.outputs if out.output_type == "stream") for cell in book.cells]
    assert said[1].strip() == "interrupted" and said[2].strip() == "alive True"


@pytest.mark.full
def test_clips_of_two_threads_are_those_of_one(model):
    from mindsora import TextToVideoPipeline

    pipe = TextToVideoPipeline.from_pretrained(model, jit="off")
    pipe.set_progress_bar_config(disable=True)

    def frames(seed):
        return pipe("a cat", num_frames=1, num_inference_steps=2, seed=seed).frames

    expected, found = [frames(seed) for seed in range(2)], {}

    def work(seed):
        found[seed] = [frames(seed) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(2):
        for clip in found[seed]:
            np.testing.assert_array_equal(clip, expected[seed])
