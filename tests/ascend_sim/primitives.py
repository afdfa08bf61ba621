"""The table of primitives that each model ends in on Ascend: `PYTHONPATH=.:tests python -m ascend_sim.primitives`.

primitives.json holds, for each model, its primitives and how each is computed, and reasons for those that go through
CANN's operator compiler (aclop), although aclnn kernels start sooner, or through the host. Reasons are written by hand.
"""

import json
from pathlib import Path

EXPLAINED = ("aclop", "host")
TABLE = Path(__file__).with_name("primitives.json")
# Model -> the cases whose graphs are its primitives.
MODELS = {
    "suv": ("suv_bf16", "suv_lengths_bf16", "suv_lengths_fp16", "suv_mask_bf16"),
    "opensora_t2v": ("opensora_t2v_bf16", "opensora_t2v_mask"),
    "opensora_inpaint": ("opensora_inpaint_bf16",),
    "t5": ("t5_bf16",),
    "clip": ("clip_bf16",),
    "wfvae": ("wfvae_encode", "wfvae_decode"),
    "causalvae": ("causalvae_encode", "causalvae_decode"),
}


def read() -> dict:
    return json.loads(TABLE.read_text())


def main():
    from ascend_sim.groups import outcome

    models = {}
    for model, cases in MODELS.items():
        kinds = {}
        for case in cases:
            if error := outcome(case)["error"]:
                raise SystemExit(f"{case}: {error}")
            kinds |= outcome(case)["kernels"]
        models[model] = dict(sorted(kinds.items()))
    reasons = read()["reasons"] if TABLE.exists() else {}
    used = {name for kinds in models.values() for name, kind in kinds.items() if kind in EXPLAINED}
    reasons = {name: reasons.get(name, "") for name in sorted(used)}
    TABLE.write_text(json.dumps({"models": models, "reasons": reasons}, indent=1) + "\n")


if __name__ == "__main__":
    main()
