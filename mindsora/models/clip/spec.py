"""CLIP's text encoder as the registry lists it."""

from mindsora.models.spec import ModelSpec

CLIP = ModelSpec(
    package="mindsora.models.clip",
    name="CLIPTextModel",
    config_name="CLIPTextConfig",
    component="text_encoder_2",
    operators=("row_norm",),
    streamed_layers=("layers",),
    streamed_table="token_embedding",
    shapes_decide=True,  # published configurations leave projection_dim out
    nested_config="text_config",
)
SPECS = (CLIP,)
