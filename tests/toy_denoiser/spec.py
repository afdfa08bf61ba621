"""Toy as the registry lists it."""

from mindsora.models.spec import ModelSpec

TOY = ModelSpec(
    package=__package__,
    name="Toy",
    config_name="ToyConfig",
    component="transformer",
    upstream=("ToyTransformer",),
    operators=("row_norm", "gelu"),
    companions={
        "vae": ("WFVAE",),
        "text_encoder": ("T5Encoder",),
        "tokenizer": ("T5Tokenizer",),
        "scheduler": ("FlowMatchScheduler",),
    },
    streamed_layers=("blocks",),
)
SPECS = (TOY,)
