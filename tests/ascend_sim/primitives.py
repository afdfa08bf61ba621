"""The table of primitives that each model ends in on Ascend.

    PYTHONPATH=.:tests python -m ascend_sim.primitives [MODEL ...]    # writes the table anew, or these models of it

primitives.json holds, for each model, its primitives and how each is computed, and reasons for those that go through
CANN's operator compiler (aclop), although aclnn kernels start sooner, or through the host. Reasons are written by hand.
"""

import json
import sys
from pathlib import Path

EXPLAINED = ("aclop", "host")
TABLE = Path(__file__).with_name("primitives.json")
# Model -> the cases whose graphs are its primitives.
MODELS = {
    "suv": ("suv_bf16", "suv_lengths_bf16", "suv_lengths_fp16"),
    "suv, masked video": ("suv_mask_bf16",),
    "opensora_t2v": ("opensora_t2v_bf16",),
    "opensora_t2v, masked video": ("opensora_t2v_mask_bf16",),
    "opensora_inpaint": ("opensora_inpaint_bf16",),
    "t5": ("t5_bf16",),
    "clip": ("clip_bf16",),
    "wfvae": ("wfvae_encode", "wfvae_decode"),
    "causalvae": ("causalvae_encode", "causalvae_decode"),
}
TRAINING = {"training step": ("train_step",)}  # of SUV


def read() -> dict:
    return json.loads(TABLE.read_text())


def kernels(cases: tuple[str, ...]) -> dict[str, str]:
    """How each primitive of these cases is computed."""
    from ascend_sim.groups import outcome

    kinds = {}
    for case in cases:
        if error := outcome(case)["error"]:
            raise SystemExit(f"{case}: {error}")
        kinds |= outcome(case)["kernels"]
    return dict(sorted(kinds.items()))


def main():
    cases = MODELS | TRAINING
    models = {name: read()["models"].get(name) for name in cases}
    models |= {name: kernels(cases[name]) for name in sys.argv[1:] or cases}
    reasons = read()["reasons"]
    used = {name for kinds in models.values() for name, kind in kinds.items() if kind in EXPLAINED}
    reasons = {name: reasons.get(name, "") for name in sorted(used)}
    TABLE.write_text(json.dumps({"models": models, "reasons": reasons}, indent=1) + "\n")


if __name__ == "__main__":
    main()
