"""CausalVAE as the registry lists it."""

from mindsora.models.spec import ModelSpec

CAUSALVAE = ModelSpec(
    package="mindsora.models.causalvae",
    name="CausalVAE",
    config_name="CausalVAEConfig",
    component="vae",
    upstream=("CausalVAEModel",),
    operators=("conv3d",),
    decodes_together=True,
)
SPECS = (CAUSALVAE,)
