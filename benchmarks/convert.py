"""Convert a checkpoint of the released v1.5 denoiser's size: GB/s against a plain copy, and peak memory.

    python benchmarks/convert.py FOLDER [--share 1.0]

Writes one torch zip file into FOLDER with exactly the keys and shapes of the released weights (8.59 billion parameters,
bfloat16, 17.2 GB; no sparse file), converts it to sharded safetensors, copies the same bytes with fsync, and verifies
source against target. FOLDER needs twice that size and is empty afterwards. --share reduces the number of blocks per
stage for a smaller disk. The values of a tensor depend on its name, so the check notices swapped tensors. The script
drops the source from the page cache before the conversion and before the copy. Writes
benchmarks/results/convert_v1_5.json.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import receipt

from mindsora.ckpt_convert.dtypes import NUMPY
from mindsora.ckpt_convert.entry import Entry
from mindsora.ckpt_convert.formats import torch_file
from mindsora.files import replacing

KEYS = Path(__file__).parent.parent / "tests/golden/keys/suv_v1_5_tp8.json"
BLOCK = 2**20  # elements; the pattern of a tensor is shifted after each block

_CHILD = """
import json, sys, time
from mindsora.cli import main
begin = time.perf_counter()
status = main(json.loads(sys.argv[1]))
seconds = time.perf_counter() - begin
# ru_maxrss of this process alone: getrusage would begin with the parent's.
peak = next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([status, seconds, peak]))
"""


class Named(Entry):
    """Finite bfloat16 values that depend on the tensor's name."""

    def __init__(self, name: str, shape: tuple[int, ...]):
        super().__init__(name, "bfloat16", shape)
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
        self._seed = seed

    def slices(self, nbytes=None):
        # One exponent bit stays 0, so values are below 2.0 and neither infinite nor NaN.
        pattern = np.random.default_rng(self._seed).integers(0, 2**16, BLOCK, np.uint16) & np.uint16(0xBFFF)
        for number, start in enumerate(range(0, self.size, BLOCK)):
            shift = np.uint16(number * 2654435761 % 128)  # mantissa bits
            yield (pattern[: self.size - start] ^ shift).view(NUMPY["bfloat16"])


def tensors(share: float) -> list[Entry]:
    shapes = json.loads(KEYS.read_text())["shapes"]
    stage = 3  # the middle one, 8 blocks: the model is valid with fewer of them
    kept = max(2, round(8 * share) // 2 * 2) if share < 1 else 8
    dropped = tuple(f"transformer_blocks.{stage}.{block}." for block in range(kept, 8))
    return [Named(name, shape) for name, shape in shapes.items() if not name.startswith(dropped or "\0")]


def command(*arguments: str) -> tuple[float, float]:
    """Run `mindsora ...` in a separate process: seconds, and peak memory in MB with file pages."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, json.dumps(arguments)], capture_output=True, text=True, check=True
    )
    status, seconds, peak = json.loads(done.stdout.splitlines()[-1])
    if status:
        sys.exit(done.stdout + done.stderr)
    print("\n".join(done.stdout.splitlines()[:-1]), flush=True)
    return seconds, peak


def forget(path: Path) -> None:
    """Drop a file's pages from the page cache."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--share", type=float, default=1.0, help="of the middle stage's blocks, where the disk is small"
    )
    args = parser.parse_args()
    source, target, copy = (args.folder / name for name in ("source.pt", "converted", "copy.pt"))
    entries = tensors(args.share)
    with replacing(source) as out:
        for _ in torch_file.write(out, entries, {}):
            pass
    size = source.stat().st_size
    try:
        forget(source)
        seconds, peak = command("convert", str(source), str(target), "--quiet")
        forget(source)
        begin = time.perf_counter()
        shutil.copyfile(source, copy)
        with open(copy, "rb") as file:
            os.fsync(file.fileno())
        copying = time.perf_counter() - begin
        copy.unlink()
        verifying, verify_peak = command("verify", str(source), str(target))
    finally:
        source.unlink(missing_ok=True)
        copy.unlink(missing_ok=True)
        shutil.rmtree(target, ignore_errors=True)
    receipt.write(
        "convert_v1_5",
        ("numpy", "ml_dtypes"),
        {
            "tensors": len(entries),
            "parameters": sum(entry.size for entry in entries),
            "bytes": size,
            "source": "one torch zip file, bfloat16",
            "target": "safetensors in shards of 5 GB",
            "page_cache": "source dropped before the conversion and before the copy",
            "convert_seconds": round(seconds, 1),
            "convert_gb_per_s": round(size / 1e9 / seconds, 3),
            "copy_with_fsync_seconds": round(copying, 1),
            "copy_gb_per_s": round(size / 1e9 / copying, 3),
            "share_of_copy_speed": round(copying / seconds, 2),
            "convert_peak_mb": round(peak),
            "verify_seconds": round(verifying, 1),
            "verify_peak_mb": round(verify_peak),
        },
    )


if __name__ == "__main__":
    main()
