"""SUV as the registry lists it."""

from mindsora.models.spec import ModelSpec

SUV = ModelSpec(
    package="mindsora.models.suv",
    name="SUV",
    config_name="SUVConfig",
    component="transformer",
    upstream=("SparseUMMDiT",),
    operators=("skiparse_attention", "qk_norm_rope", "ada_norm_modulate", "row_norm", "gelu"),
    companions={
        "vae": ("WFVAE",),
        "text_encoder": ("T5Encoder",),
        "text_encoder_2": ("CLIPTextModel",),
        "tokenizer": ("T5Tokenizer",),
        "tokenizer_2": ("CLIPTokenizer",),
        "scheduler": ("FlowMatchScheduler",),
    },
    joint_text=True,
    float32_angles=True,
    streamed_layers=("transformer_blocks", "skip_norm_linear", "skip_norm_linear_enc"),
    is_sharded=True,
)
SPECS = (SUV,)
