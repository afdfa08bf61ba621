"""WF-VAE as the registry lists it."""

from mindsora.models.spec import ModelSpec

WFVAE = ModelSpec(
    package="mindsora.models.wfvae",
    name="WFVAE",
    config_name="WFVAEConfig",
    component="vae",
    upstream=("WFVAE", "WFVAEModel"),
    operators=("conv3d", "haar", "row_norm"),
)
SPECS = (WFVAE,)
