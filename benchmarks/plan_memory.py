"""Compare the peak memory of `mindsora generate`, measured phase by phase, with `mindsora plan`.

    python benchmarks/plan_memory.py [--case nano_17x64x64 ...]

Models have random weights (memory does not depend on their values). Each runs in a separate process, 2 steps with
guidance. The number is the process's resident memory on CPU, the device pool's on Ascend. Writes
benchmarks/results/plan_memory.json; the status is 1 if the plan is off by more than 15 % of the peak.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import receipt

from mindsora.config import read_json

LIMIT = 15  # percent of the measured peak
BOX = Path(__file__).parents[1] / "mindsora/weights/nano"

# The configuration of the packaged model itself, so that the measured model cannot differ from it.
NANO = {
    name: read_json(BOX / name / "config.json") for name in ("transformer", "vae", "text_encoder", "text_encoder_2")
}
MID = {
    "transformer": NANO["transformer"]
    | {
        "num_heads": 8,
        "head_dim": 64,
        "in_channels": 16,
        "out_channels": 16,
        "timestep_embed_dim": 256,
        "caption_channels": 512,
        "pooled_projection_dim": 512,
    },
    "vae": NANO["vae"]
    | {
        "base_channels": 64,
        "latent_dim": 16,
        "scale": [1.0],
        "shift": [0.0],
        "encoder_num_resblocks": 2,
        "decoder_num_resblocks": 2,
        "encoder_energy_flow_hidden_size": 64,
        "decoder_energy_flow_hidden_size": 64,
    },
    "text_encoder": NANO["text_encoder"] | {"d_model": 512, "d_kv": 64, "d_ff": 1024, "num_heads": 8, "num_layers": 6},
    "text_encoder_2": NANO["text_encoder_2"]
    | {
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "projection_dim": 512,
    },
}
CASES = {
    "nano_17x64x64": (NANO, (17, 64, 64)),
    "nano_33x128x128": (NANO, (33, 128, 128)),
    "mid_17x256x256": (MID, (17, 256, 256)),
    "mid_41x192x192": (MID, (41, 192, 192)),
}


def write_model(folder: Path, configs: dict, weights: bool = True) -> None:
    """Write a model folder with the nano model's tokenisers and, unless only the plan needs it, random weights."""
    from mindsora.ckpt_convert import save
    from mindsora.files import write_json
    from mindsora.models import SUV, WFVAE, CLIPTextModel, T5Encoder, registry

    cells = {"transformer": SUV, "vae": WFVAE, "text_encoder": T5Encoder, "text_encoder_2": CLIPTextModel}
    for name, config in configs.items():
        (folder / name).mkdir(parents=True)
        if weights:
            save(cells[name].from_upstream(config), folder / name / "model.safetensors")
        write_json(folder / name / "config.json", config)
    for name in ("tokenizer", "tokenizer_2"):
        shutil.copytree(BOX / name, folder / name)
    (folder / "scheduler").mkdir()
    write_json(folder / "scheduler/scheduler_config.json", {"shift": 3.0})
    write_json(
        folder / "model_index.json",
        {name: ["mindsora", cell] for name, cell in registry.spec("SUV").components.items()}
        | {
            "template": "nano",
            "vae_stride": [8, 8, 8],
            "patch_size": 2,
            "max_frames": 121,
            "max_height": 1024,
            "max_width": 1024,
            "num_frames": 17,
            "height": 64,
            "width": 64,
            "num_inference_steps": 2,
            "guidance_scale": 3.0,
            "guidance_rescale": 0.0,
            "fps": 8,
            "max_text_lengths": [32, 32],
        },
    )


def forget() -> None:
    """Reset the peak."""
    Path("/proc/self/clear_refs").write_text("5")


def generate(folder: str, size: tuple[int, int, int], device: str) -> dict:
    """Run a call in a separate process: the peak of each phase, in bytes."""
    from mindsora.runtime import Runtime

    Runtime(device=device).apply()
    import mindspore as ms
    import numpy as np

    from mindsora.machine import resident_memory
    from mindsora.pipelines.text_to_video import TextToVideoPipeline

    found = {}

    def note(phase: str) -> None:
        if device == "CPU":
            found[phase] = resident_memory()["peak"]
            forget()
        else:
            found[phase] = ms.runtime.max_memory_allocated()
            ms.runtime.reset_max_memory_allocated()

    note("start")
    pipe = TextToVideoPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    note("load")
    text = pipe.encode_prompt("a red circle moving right")
    note("encode_prompt")
    rng = np.random.RandomState(0)
    latents = pipe.denoise(pipe.prepare_latents(*size, rng), text, rng, 2, 3.0)
    latents.asnumpy()
    note("denoise")
    for _ in pipe.decode_chunks(latents):
        pass
    note("decode")
    return found


def planned(folder: str, size: tuple[int, int, int], device: str) -> int:
    """The peak that `mindsora plan` states, in bytes."""
    from mindsora.audit.plan import plan

    return plan(folder, size, "cpu" if device == "CPU" else "910b2", steps=2)["memory"]["peak"]


def measured(name: str, folder: str, device: str) -> dict:
    """One case: the measurement, the plan, and their difference."""
    configs, size = CASES[name]
    write_model(Path(folder) / "model", configs)
    command = [sys.executable, __file__, "--child", json.dumps([f"{folder}/model", size, device])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    phases = json.loads(done.stdout.splitlines()[-1])
    peak = max(phases.values())
    told = planned(f"{folder}/model", size, device)
    frames, height, width = size
    row = {
        "case": name,
        "frames": frames,
        "height": height,
        "width": width,
        "peak_mib": round(peak / 2**20),
        "planned_mib": round(told / 2**20),
        "error_percent": round(100 * (told - peak) / peak, 1),
        "peak_by_phase_mib": {phase: round(value / 2**20) for phase, value in phases.items()},
    }
    print(row, flush=True)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", action="append", choices=CASES, help="default: all; a part writes no receipt")
    parser.add_argument("--device", choices=["CPU", "Ascend"], default="CPU")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        folder, size, device = json.loads(args.child)
        print(json.dumps(generate(folder, tuple(size), device)))
        return
    rows = []
    for name in args.case or CASES:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measured(name, folder, args.device))
    largest = max(abs(row["error_percent"]) for row in rows)
    if args.case is None:
        receipt.write(
            "plan_memory",
            ("mindspore", "numpy"),
            {
                "device": args.device,
                "repeats": 1,
                "limit_percent": LIMIT,
                "largest_error_percent": largest,
                "cases": rows,
            },
        )
    if largest > LIMIT:
        sys.exit(f"the planner is off by {largest} %; the limit is {LIMIT}")


if __name__ == "__main__":
    main()
