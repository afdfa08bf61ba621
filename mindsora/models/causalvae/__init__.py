"""CausalVAE, also OD-VAE: the autoencoder of Open-Sora Plan v1.1 and v1.2."""

from mindsora.models.lazy import lazily

__all__ = ["CausalVAE", "CausalVAEConfig"]
__getattr__ = lazily(__name__, dict.fromkeys(__all__, "mindsora.models.causalvae.model"))
