"""Llama decoder (Touvron et al. 2023, arXiv:2302.13971; Llama 3: arXiv:2407.21783) that reads one text at a time.

Shapes in the margin: L new tokens, S positions of the cache, D width; G key heads of E channels, R query heads for each.
"""

import math
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindsora.errors import InputError, shown
from mindsora.kernels import forms
from mindsora.models.pretrained import Pretrained
from mindsora.models.upstream_keys import NOT_ARCHITECTURE, read_config
from mindsora.nn.compile_once import compile_once
from mindsora.nn.layers import Embedding, Linear, RMSNorm
from mindsora.ranges import Epsilon, Heads, HeadWidth, Layers, Rows, Scale, Width, check_fields

_IRRELEVANT = (NOT_ARCHITECTURE - {"tie_word_embeddings"}) | {
    "pretraining_tp", "rope_parameters", "rope_scaling", "is_llama_config", "rope_interleaved", "num_logits_to_keep",
    "transformers.js_config", "layer_types",
}  # fmt: skip
_MASKED = -1e9


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes of a Llama decoder under upstream's names; the defaults are those of Llama 3.1 8B.

    Attributes:
        num_key_value_heads: each serves num_attention_heads / num_key_value_heads query heads.
        head_dim: width of one head; None is hidden_size / num_attention_heads.
        rope_factor: what long wavelengths of the rotary angles are stretched by (the "llama3" rule); 1: nothing is.
        rope_low, rope_high: wavelengths above rope_original / rope_low are stretched whole, below rope_original /
            rope_high not at all.
        rope_original: positions that the model was trained with before it was stretched.
        tie_word_embeddings: whether the output head is the embedding table.
    """

    vocab_size: Rows = 128_256
    hidden_size: Width = 4096
    intermediate_size: Width = 14_336
    num_hidden_layers: Layers = 32
    num_attention_heads: Heads = 32
    num_key_value_heads: Heads = 8
    head_dim: HeadWidth | None = None
    max_position_embeddings: Rows = 131_072
    rms_norm_eps: Epsilon = 1e-5
    rope_theta: Scale = 500_000.0
    rope_factor: Scale = 8.0
    rope_low: Scale = 1.0
    rope_high: Scale = 4.0
    rope_original: Rows = 8192
    tie_word_embeddings: bool = False

    def __post_init__(self):
        check_fields(self)
        heads, groups = self.num_attention_heads, self.num_key_value_heads
        if heads % groups:
            nearest = max(n for n in range(1, min(heads, groups) + 1) if heads % n == 0)
            raise InputError(
                f"num_key_value_heads = {groups}: must divide num_attention_heads = {heads}; nearest legal: {nearest}"
            )
        if self.head_dim is None:
            if self.hidden_size % heads:
                raise InputError(
                    f"hidden_size = {self.hidden_size}: must be a multiple of num_attention_heads = {heads}"
                )
            object.__setattr__(self, "head_dim", self.hidden_size // heads)
        if self.head_dim % 2:
            raise InputError(f"head_dim = {self.head_dim}: must be even; nearest legal: {self.head_dim + 1}")
        if self.rope_low >= self.rope_high:
            raise InputError(f"rope_low = {self.rope_low}: must be below rope_high = {self.rope_high}")

    @classmethod
    def from_upstream(cls, config: dict) -> "LlamaConfig":
        """Read a Llama `config.json` of transformers 4 or 5; InputError for an unknown key or another rotary rule."""
        # transformers 5 puts rope_theta among the other numbers of the rule
        rule = config.get("rope_parameters") or config.get("rope_scaling") or {}
        rule = rule if isinstance(rule, dict) else {"rope_type": rule}
        kind = rule.get("rope_type", rule.get("type", "default"))
        if kind not in ("default", "llama3"):
            raise InputError(f"rope_type = {shown(kind)}: only default and llama3 are supported")
        fixed = {"model_type": "llama", "hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
        stretch = {"rope_factor": 1.0}
        if kind == "llama3":
            keys = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
            fields = ("rope_factor", "rope_low", "rope_high", "rope_original")
            if missing := [key for key in keys if key not in rule]:
                raise InputError(f"the rotary rule llama3 lacks {', '.join(missing)}")
            stretch = {field: rule[key] for field, key in zip(fields, keys)}
        theta = {"rope_theta": rule.get("rope_theta", config.get("rope_theta", 10_000.0))}  # transformers' default
        groups = {"num_key_value_heads": config.get("num_key_value_heads", config.get("num_attention_heads", 32))}
        return read_config(cls, config | stretch | theta | groups, "Llama", fixed, _IRRELEVANT - fixed.keys())

    def to_upstream(self) -> dict:
        """The config.json that from_upstream reads."""
        own = {key: value for key, value in vars(self).items() if not key.startswith("rope_")}
        rule = {
            "rope_type": "llama3",
            "factor": self.rope_factor,
            "low_freq_factor": self.rope_low,
            "high_freq_factor": self.rope_high,
            "original_max_position_embeddings": self.rope_original,
        }
        scaling = {"rope_scaling": rule} if self.rope_factor != 1 else {}
        return {"model_type": "llama", "rope_theta": self.rope_theta} | own | scaling


class LlamaForCausalLM(Pretrained, nn.Cell):
    """Token ids to the logits of the next token; keys and values of earlier tokens come from a cache.

    Upstream: LlamaForCausalLM of transformers.
    """

    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size, std=0.02)
        self.layers = nn.CellList(compile_once(LlamaLayer(config) for _ in range(config.num_hidden_layers)))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = None
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False, std=0.02)
        self.head = ops.MatMul(transpose_b=True)
        self.frequencies = Tensor(inverse_frequencies(config))  # (E / 2,)

    @classmethod
    def from_upstream(cls, config: dict) -> "LlamaForCausalLM":
        """Build from upstream's `config.json`."""
        return cls(LlamaConfig.from_upstream(config))

    def empty_cache(self, length: int) -> tuple[Tensor, ...]:
        """A cache for `length` positions: keys and values of every layer, each (S, G, E)."""
        config, dtype = self.config, self.embed_tokens.weight.dtype
        shape = (length, config.num_key_value_heads, config.head_dim)
        return tuple(ops.zeros(shape, dtype) for _ in range(2 * config.num_hidden_layers))

    def construct(self, ids: Tensor, first: Tensor, *cache: Tensor) -> tuple[Tensor, ...]:
        """Logits after every token, and the cache with these tokens in it.

        Args:
            ids: (L,) int32, of the positions first, first + 1, ...; tokens after the text may be anything, since a later
                call overwrites their place in the cache before anyone attends to it.
            first: () int32.
            cache: of `empty_cache`, or of the call before; it has room for first + L positions.

        Returns:
            logits (L, vocab_size) float32, then the cache.
        """
        positions = first + ops.arange(ids.shape[0]).astype(ms.int32)  # (L,)
        angles = positions.astype(ms.float32).expand_dims(1) * self.frequencies  # (L, E / 2)
        angles = ops.concat((angles, angles), 1).expand_dims(1)  # (L, 1, E)
        cos, sin = ops.cos(angles), ops.sin(angles)
        after = ops.arange(cache[0].shape[0]).expand_dims(0) > positions.expand_dims(1)
        mask = after.astype(ms.float32) * _MASKED  # (L, S)
        x = self.embed_tokens(ids)  # (L, D)
        filled = ()
        for i, layer in enumerate(self.layers):
            x, keys, values = layer(x, positions, cos, sin, mask, cache[2 * i], cache[2 * i + 1])
            filled = filled + (keys, values)
        x = self.norm(x)
        logits = self.head(x, self.embed_tokens.weight) if self.lm_head is None else self.lm_head(x)
        return (logits.astype(ms.float32),) + filled


class LlamaLayer(nn.Cell):
    """Attention and gated feed-forward, each with a norm before it and a residual sum after it."""

    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = LlamaAttention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = SwiGLU(config.hidden_size, config.intermediate_size)

    def construct(self, x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, keys, values):
        y, keys, values = self.self_attn(self.input_layernorm(x), positions, cos, sin, mask, keys, values)
        x = x + y
        return x + self.mlp(self.post_attention_layernorm(x)), keys, values


class LlamaAttention(nn.Cell):
    """Causal attention with rotary positions; a key head serves R query heads."""

    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.heads, self.groups, self.width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        inner, shared = self.heads * self.width, self.groups * self.width
        self.q_proj = Linear(config.hidden_size, inner, bias=False, std=0.02)
        self.k_proj = Linear(config.hidden_size, shared, bias=False, std=0.02)
        self.v_proj = Linear(config.hidden_size, shared, bias=False, std=0.02)
        self.o_proj = Linear(inner, config.hidden_size, bias=False, std=0.02)
        self.write = ops.TensorScatterUpdate()
        self.products = ops.BatchMatMul()
        self.scores = ops.BatchMatMul(transpose_b=True)

    def construct(self, x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, keys, values):
        length, rows = x.shape[0], positions.expand_dims(1)
        q = rotated(self.q_proj(x).reshape(length, self.heads, self.width), cos, sin)  # (L, G R, E)
        k = rotated(self.k_proj(x).reshape(length, self.groups, self.width), cos, sin)  # (L, G, E)
        v = self.v_proj(x).reshape(length, self.groups, self.width)
        keys, values = self.write(keys, rows, k), self.write(values, rows, v)  # (S, G, E)
        q = q.reshape(length, self.groups, -1, self.width).transpose(1, 2, 0, 3)  # (G, R, L, E)
        q = q.reshape(self.groups, -1, self.width)  # (G, R L, E)
        scores = self.scores(q, keys.transpose(1, 0, 2)).astype(ms.float32) / math.sqrt(self.width)  # (G, R L, S)
        scores = scores.reshape(self.groups, -1, length, mask.shape[1]) + mask  # (G, R, L, S)
        weights = ops.softmax(scores, -1).astype(x.dtype).reshape(self.groups, -1, mask.shape[1])
        y = self.products(weights, values.transpose(1, 0, 2))  # (G, R L, E)
        y = y.reshape(self.groups, -1, length, self.width).transpose(2, 0, 1, 3)  # (L, G, R, E)
        return self.o_proj(y.reshape(length, self.heads * self.width)), keys, values


class SwiGLU(nn.Cell):
    """down(silu(gate x) * up x) (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.gate_proj = Linear(width, inner, bias=False, std=0.02)
        self.up_proj = Linear(width, inner, bias=False, std=0.02)
        self.down_proj = Linear(inner, width, bias=False, std=0.02)

    def construct(self, x: Tensor) -> Tensor:
        return self.down_proj(ops.silu(self.gate_proj(x)) * self.up_proj(x))


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate channel i with channel i + E / 2. x: (L, heads, E); cos, sin: (L, 1, E) float32."""
    first, second = forms.chunk(x, 2, -1)
    return (x * cos + ops.concat((-second, first), -1) * sin).astype(x.dtype)


def inverse_frequencies(config: LlamaConfig) -> np.ndarray:
    """Radians per position of every pair of channels, (E / 2,) float32.

    The llama3 rule divides those of long wavelengths by rope_factor, and goes over to the others between the two bounds.
    """
    exponent = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    frequency = (1.0 / np.float32(config.rope_theta) ** exponent).astype(np.float32)
    turns = config.rope_original * frequency / (2 * math.pi)  # of a pair over the positions of the first training
    kept = np.clip((turns - config.rope_low) / (config.rope_high - config.rope_low), 0, 1)
    return (frequency * (kept + (1 - kept) / config.rope_factor)).astype(np.float32)
