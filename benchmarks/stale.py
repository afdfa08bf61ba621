"""List receipts that are older than the code they measure.

    python benchmarks/stale.py

A receipt names the commit that it was measured at. MEASURED says which files decide its numbers; the receipt is stale if
one of them has changed since. Receipts of before this was recorded count from the commit that wrote them.
"""

import json
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import receipt

KERNELS, SUV, WFVAE = "mindsora/kernels", "mindsora/models/suv", "mindsora/models/wfvae"
GENERATE = (KERNELS, "mindsora/nn", "mindsora/models", "mindsora/sampling", "mindsora/pipelines", "mindsora/weights")
# Pattern of a receipt's name -> files and folders that decide its numbers, beside its own program.
MEASURED = {
    "against_torch_generate": GENERATE,
    "against_torch_suv_*": (KERNELS, "mindsora/nn", SUV),
    "against_torch_t5_*": (KERNELS, "mindsora/nn", "mindsora/models/t5"),
    "against_torch_wfvae_*": ("mindsora/nn", WFVAE),
    "ascend_roofline": (f"{KERNELS}/ascend", "benchmarks/ascend_roofline.py"),
    "attention": (KERNELS,),
    "campaign_*": ("tests/campaigns", "mindsora/ckpt_convert", "mindsora/jobs", "mindsora/files.py", "mindsora/train"),
    "carphone": (WFVAE, "mindsora/media"),
    "compile_budget": ("mindsora/nn/compile_once.py", "mindsora/compile_cache.py", "mindsora/models"),
    "convert_*": ("mindsora/ckpt_convert",),
    "curate*": ("mindsora/curate",),
    "data_path": ("mindsora/data", "mindsora/media"),
    "evaluate*": ("mindsora/evaluate",),
    "feature_cache": ("mindsora/data", "mindsora/train"),
    "finetune*": ("mindsora/train", "mindsora/nn/lora.py", "mindsora/weights"),
    "inpainting_*": GENERATE,
    "long_video_*": GENERATE,
    "marks": ("mindsora/evaluate/marks.py", "mindsora/evaluate/words.py"),
    "mini_*": (*GENERATE, "mindsora/evaluate"),
    "obedience_*": GENERATE,
    "offload_*": ("mindsora/pipelines/offload.py", KERNELS, "mindsora/models"),
    "parallel*": ("mindsora/parallel",),
    "plan_memory": ("mindsora/audit", "mindsora/models"),
    "practical_*": (*GENERATE, "mindsora/evaluate"),
    "reconstruct_*": (WFVAE, "mindsora/weights", "mindsora/media"),
    "solvers": ("mindsora/sampling",),
    "sparse_vs_dense": (KERNELS, SUV),
    "start_up": ("mindsora/cli.py", "mindsora/__init__.py", "mindsora/compile_cache.py", KERNELS),
    "tiling": (WFVAE, "mindsora/pipelines"),
    "training_memory": ("mindsora/train", "mindsora/nn", SUV),
}


def measured(name: str) -> tuple[str, ...]:
    """The files behind a receipt. KeyError: MEASURED has no pattern for it."""
    for pattern, files in MEASURED.items():
        if fnmatch(name, pattern):
            return files
    raise KeyError(name)


def changed_since(path: Path, files: tuple[str, ...], root: Path = receipt.ROOT) -> list[str] | None:
    """Which of the files have changed after a receipt was measured; None where the history does not say."""
    commit = json.loads(path.read_text(encoding="utf-8")).get("commit") or _git(
        root, "log", "-1", "--format=%H", "--", path
    )
    if not commit:
        return None
    names = _git(root, "diff", "--name-only", commit.split("+")[0].strip(), "HEAD", "--", *files)
    return None if names is None else [name for name in names.splitlines() if not name.endswith(".md")]


def _git(root: Path, *arguments) -> str | None:
    done = subprocess.run(["git", *map(str, arguments)], cwd=root, capture_output=True, text=True)
    return None if done.returncode else done.stdout


def main() -> None:
    """Print a line for each receipt."""
    for path in sorted(receipt.RESULTS.glob("*.json")):
        names = changed_since(path, measured(path.stem))
        state = "history unknown" if names is None else "current" if not names else f"stale: {len(names)} files changed"
        print(f"{path.stem:36} {state}" + (f", such as {names[0]}" if names else ""))


if __name__ == "__main__":
    main()
