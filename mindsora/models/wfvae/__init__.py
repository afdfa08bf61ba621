"""WF-VAE, the wavelet-flow video autoencoder of Open-Sora Plan v1.5 and v1.3."""

from mindsora.models.lazy import lazily

__all__ = ["WFVAE", "WFVAEConfig"]
__getattr__ = lazily(__name__, dict.fromkeys(__all__, "mindsora.models.wfvae.model"))
