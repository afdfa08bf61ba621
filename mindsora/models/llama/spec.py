"""Llama as the registry lists it."""

from mindsora.models.spec import ModelSpec

LLAMA = ModelSpec(
    package="mindsora.models.llama",
    name="LlamaForCausalLM",
    config_name="LlamaConfig",
    component="refiner",
    upstream=("LlamaForCausalLM",),
    operators=("row_norm",),
)
SPECS = (LLAMA,)
