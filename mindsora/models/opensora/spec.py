"""The denoisers of v1.3 as the registry lists them."""

from dataclasses import replace

from mindsora.models.spec import ModelSpec

T2V = ModelSpec(
    package="mindsora.models.opensora",
    name="OpenSoraT2V",
    config_name="OpenSoraConfig",
    component="transformer",
    upstream=("OpenSoraT2V_v1_3",),
    operators=("skiparse_attention", "qk_norm_rope", "ada_norm_modulate", "gelu"),
    companions={
        "vae": ("WFVAE", "CausalVAE"),
        "text_encoder": ("T5Encoder",),  # mT5
        "tokenizer": ("T5Tokenizer",),
        "scheduler": ("VPredictionScheduler",),
    },
    streamed_layers=("transformer_blocks",),
    table_name="T2V",
)
INPAINT = replace(
    T2V,
    name="OpenSoraInpaint",
    config_name="OpenSoraInpaintConfig",
    upstream=("OpenSoraInpaint_v1_3",),
    takes_frames=True,
    table_name="INPAINT",
)
SPECS = (T2V, INPAINT)
