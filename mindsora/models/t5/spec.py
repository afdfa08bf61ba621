"""The T5 family's encoder as the registry lists it."""

from mindsora.models.spec import ModelSpec

T5 = ModelSpec(
    package="mindsora.models.t5",
    name="T5Encoder",
    config_name="T5Config",
    component="text_encoder",
    operators=("row_norm", "gelu"),
    streamed_layers=("blocks",),
    streamed_table="shared",
    is_sharded=True,
)
SPECS = (T5,)
