"""Llama decoders (Llama 3.1 and models of the same layers), for rewriting prompts."""

from mindsora.models.lazy import lazily

__all__ = ["LlamaConfig", "LlamaForCausalLM"]
__getattr__ = lazily(__name__, dict.fromkeys(__all__, "mindsora.models.llama.model"))
