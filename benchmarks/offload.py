"""Measure peak memory and time of v1.3 text to video at its released size, with weights read layer by layer.

    python benchmarks/offload.py [--folder DIR] [--tiny]

Writes a model folder with random float16 weights (memory and time do not depend on their values): mT5 XXL's encoder of
5.66 billion parameters, OpenSoraT2V's 2.7 billion, and the WF-VAE. It takes 17 GB of disk; DIR keeps it for the next
run, without DIR it is temporary. Then a separate process generates 29 x 256 x 256, 2 steps with guidance and offload,
and the script compares the peak of its resident memory (VmHWM) with `mindsora plan`. Writes
benchmarks/results/offload_v1_3.json; the status is 1 if the plan is off by more than 15 % of the peak.

--tiny takes a very small model of the same kind, for the test. It writes no receipt and checks no plan, since nearly
all of its memory belongs to MindSpore.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import receipt
from plan_memory import BOX, LIMIT, forget

from mindsora.ckpt_convert.dtypes import NUMPY
from mindsora.ckpt_convert.entry import SLICE, Entry
from mindsora.files import replacing_folder
from mindsora.zoo import CONFIGURATIONS

RELEASED = CONFIGURATIONS / "v1_3/any93x640x640"
TINY = {
    "transformer": {
        "num_layers": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 24,
        "cross_attention_dim": 48,
        "caption_channels": 32,
    },
    "text_encoder": {"vocab_size": 1000, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
    "vae": {"base_channels": 8, "encoder_energy_flow_hidden_size": 8, "decoder_energy_flow_hidden_size": 8},
}
SIZE, TINY_SIZE = (29, 256, 256), (5, 32, 32)
STEPS, SCALE = 2, 7.5


class Normal(Entry):
    """Random float16 weights of standard deviation 0.02: one MiB, repeated."""

    def __init__(self, name: str, shape: tuple[int, ...]):
        super().__init__(name, "float16", shape)
        self._values = (0.02 * np.random.RandomState(0).standard_normal(2**19)).astype(NUMPY["float16"])

    def slices(self, nbytes: int = SLICE) -> Iterator[np.ndarray]:
        for start in range(0, self.size, self._values.size):
            yield self._values[: self.size - start]


def write_model(folder: Path, tiny: bool) -> None:
    """Write the model folder, with at most a slice in memory."""
    from mindsora.audit.memory import build
    from mindsora.ckpt_convert.conversion import write_shards
    from mindsora.config import read_json
    from mindsora.files import write_json
    from mindsora.models import registry

    shutil.copytree(RELEASED, folder, dirs_exist_ok=True)
    shutil.copytree(BOX / "tokenizer", folder / "tokenizer")  # its ids are legal for mT5
    for name, changes in (TINY if tiny else {}).items():
        write_json(folder / name / "config.json", read_json(folder / name / "config.json") | changes)
    for name, cell in build(folder, None, "CPU").items():
        table = registry.spec_of(cell).names
        entries = [Normal(table.upstream_name(p.name), p.shape) for p in cell.get_parameters()]
        for _ in write_shards(folder / name, entries, table.stem, {"format": "pt"}):
            pass


def bytes_needed(folder: Path) -> int:
    """Bytes of a model folder's weights in float16."""
    from mindsora.audit.memory import build

    return sum(2 * p.size for cell in build(folder, None, "CPU").values() for p in cell.get_parameters())


def generate(folder: str, size: tuple[int, int, int]) -> dict:
    """Generate in a separate process: peak memory in bytes, and seconds by phase."""
    from mindsora.runtime import Runtime

    Runtime(device="CPU").apply()
    from mindsora import TextToVideoPipeline
    from mindsora.machine import resident_memory

    peaks, seconds, start = {}, {}, time.perf_counter()

    def note(phase: str) -> None:
        nonlocal start
        peaks[phase] = resident_memory()["peak"]
        seconds[phase] = time.perf_counter() - start
        forget()
        start = time.perf_counter()

    pipe = TextToVideoPipeline.from_pretrained(folder, offload=True)
    pipe.set_progress_bar_config(disable=True)
    note("load")
    text = pipe.encode_prompt("a red circle moving right")
    note("encode_prompt")
    rng = np.random.RandomState(0)
    latents = pipe.denoise(pipe.prepare_latents(*size, rng), text, rng, STEPS, SCALE)
    finite = bool(np.isfinite(latents.asnumpy()).all())
    note("denoise")
    frames = 0
    for piece in pipe.decode_chunks(latents):
        frames += len(piece)
        finite &= bool(np.isfinite(piece).all())
    note("decode")
    assert finite  # NaN would take the same time and memory
    return {"frames": frames, "peaks": peaks, "seconds": seconds}


def measured(folder: Path, size: tuple[int, int, int]) -> dict:
    """The measurement, the plan, and their difference."""
    from mindsora.audit.plan import plan

    command = [sys.executable, __file__, "--child", json.dumps([str(folder), size])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["frames"] == size[0], found
    peak, told = max(found["peaks"].values()), plan(str(folder), size, "cpu", steps=STEPS)["memory"]
    seconds = {phase: round(value, 1) for phase, value in found["seconds"].items()}
    return {
        "frames": size[0],
        "height": size[1],
        "width": size[2],
        "steps": STEPS,
        "guidance_scale": SCALE,
        "weights_in_file_gb": round(sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 1e9, 2),
        "peak_mib": round(peak / 2**20),
        "planned_mib": round(told["peak_offload"] / 2**20),
        "error_percent": round(100 * (told["peak_offload"] - peak) / peak, 1),
        "limit_percent": LIMIT,
        "planned_mib_without_offload": round(told["peak"] / 2**20),
        "peak_by_phase_mib": {phase: round(value / 2**20) for phase, value in found["peaks"].items()},
        "seconds": seconds | {"total": round(sum(seconds.values()), 1)},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where the model is, or will be (default: temporary)")
    parser.add_argument("--tiny", action="store_true", help="a small model, for the test")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(generate(*json.loads(args.child))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary) / "model"
        if not folder.exists():
            place = next(parent for parent in folder.absolute().parents if parent.exists())
            needed, free = 0 if args.tiny else bytes_needed(RELEASED), shutil.disk_usage(place).free
            if free < 1.02 * needed:
                sys.exit(
                    f"the weights take {needed / 1e9:.1f} GB and {str(place)!r} has {free / 1e9:.1f} GB free; "
                    "give --folder on a larger disk"
                )
            with replacing_folder(folder) as partial:
                write_model(partial, args.tiny)
        found = measured(folder, TINY_SIZE if args.tiny else SIZE)
    print(json.dumps(found, indent=2))
    if args.tiny:
        return
    receipt.write("offload_v1_3", ("mindspore", "numpy"), {"repeats": 1} | found)
    if abs(found["error_percent"]) > LIMIT:
        sys.exit(f"the plan is off by {found['error_percent']} %; the limit is {LIMIT}")


if __name__ == "__main__":
    main()
