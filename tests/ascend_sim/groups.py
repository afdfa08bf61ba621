"""Which cases share a process: starting one takes as long as compiling a small Cell."""

from ascend_sim.simulation import results

CELLS = (
    ("t5_bf16", "t5_fp16", "clip_bf16", "clip_fp16"),
    ("suv_bf16", "suv_fp16", "suv_lengths_bf16", "suv_lengths_fp16", "suv_mask_bf16", "suv_mask_fp16"),
    (
        "opensora_t2v_bf16", "opensora_t2v_fp16", "opensora_t2v_mask_bf16", "opensora_t2v_mask_fp16",
        "opensora_inpaint_bf16", "opensora_inpaint_fp16",
    ),
    ("wfvae_encode", "wfvae_decode", "causalvae_encode", "causalvae_decode"),
    ("suv_pynative",),
)  # fmt: skip
PROGRAMS = (
    ("hf32", "image_to_video"),
    ("train_step",),
    ("suv_operators", "suv_operators_train"),
)
OFFLOAD = (("text_to_video_offload",),)
MEMORY = (("memory_six_blocks",), ("memory_decoder",), ("memory_v1_5",), ("memory_v1_3",))
# Those that run with the package of our own operators installed.
INSTALLED = ("suv_operators", "suv_operators_train")


def outcome(case: str) -> dict:
    """What a case ended in, see `ascend_sim.worker.outcome`; its group runs at the first question."""
    group = next(group for group in CELLS + PROGRAMS + OFFLOAD + MEMORY if case in group)
    return results(group, installed=case in INSTALLED)[case]
