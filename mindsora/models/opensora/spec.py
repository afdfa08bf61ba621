"""The denoisers of v1.3 and v1.2 as the registry lists them."""

from dataclasses import replace

from mindsora.models.spec import ModelSpec

_V1_3 = {
    "vae": ("WFVAE", "CausalVAE"),
    "text_encoder": ("T5Encoder",),  # mT5
    "tokenizer": ("T5Tokenizer",),
    "scheduler": ("VPredictionScheduler",),
}
_V1_2 = _V1_3 | {"vae": ("CausalVAE", "WFVAE"), "scheduler": ("EpsilonScheduler", "VPredictionScheduler")}
T2V = ModelSpec(
    package="mindsora.models.opensora",
    name="OpenSoraT2V",
    config_name="OpenSoraConfig",
    component="transformer",
    upstream=("OpenSoraT2V_v1_3", "OpenSoraT2V"),
    operators=("skiparse_attention", "qk_norm_rope", "ada_norm_modulate", "gelu"),
    companions=_V1_3 | {"scheduler": ("VPredictionScheduler", "EpsilonScheduler")},
    streamed_layers=("transformer_blocks",),
    is_sharded=True,
    table_name="T2V",
)
INPAINT = replace(
    T2V,
    name="OpenSoraInpaint",
    config_name="OpenSoraInpaintConfig",
    upstream=("OpenSoraInpaint_v1_3",),
    companions=_V1_3,
    takes_frames=True,
    table_name="INPAINT",
)
INPAINT_V1_2 = replace(
    INPAINT,
    name="OpenSoraInpaintV1_2",
    upstream=("OpenSoraInpaint",),
    companions=_V1_2,
    given_frames="v1.2",
    table_name="INPAINT_V1_2",
)
SPECS = (T2V, INPAINT, INPAINT_V1_2)
