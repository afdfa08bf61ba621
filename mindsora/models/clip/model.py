"""CLIP text encoder with projection (Radford et al. 2021, arXiv:2103.00020; released by OpenAI and LAION)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindsora.errors import InputError, shown
from mindsora.kernels import forms
from mindsora.models.clip.names import TABLE
from mindsora.models.pretrained import Pretrained
from mindsora.models.upstream_keys import NOT_ARCHITECTURE, read_config, write_config
from mindsora.nn.biased_attention import MASKED, biased_attention
from mindsora.nn.compile_once import compile_once
from mindsora.nn.layers import Embedding, LayerNorm, Linear
from mindsora.ranges import Epsilon, Heads, Layers, Range, Rows, Width, check_fields

ACTIVATIONS = ("gelu", "quick_gelu")  # LAION's models have the first, OpenAI's the second

_IRRELEVANT = NOT_ARCHITECTURE - {"eos_token_id"}
_WHOLE_CLIP = {"text_config", "vision_config", "text_config_dict", "vision_config_dict", "logit_scale_init_value"}


@dataclass(frozen=True)
class CLIPTextConfig:
    """Sizes of a CLIP text encoder, under upstream's names; the defaults are transformers' own.

    Attributes:
        projection_dim: width of text_embeds.
        eos_token_id: the id whose first occurrence is pooled. Older files have the value 2 by mistake; it
            means: pool at the largest id.
    """

    vocab_size: Rows = 49408
    hidden_size: Width = 512
    intermediate_size: Width = 2048
    projection_dim: Width = 512
    num_hidden_layers: Layers = 12
    num_attention_heads: Heads = 8
    max_position_embeddings: Width = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: Epsilon = 1e-5
    eos_token_id: Annotated[int, Range(0, 2**24)] = 49407

    def __post_init__(self):
        check_fields(self)
        if self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"hidden_size {self.hidden_size} must divide by num_attention_heads {self.num_attention_heads}"
            )
        if self.hidden_act not in ACTIVATIONS:
            raise InputError(f"hidden_act = {shown(self.hidden_act)}: must be one of {', '.join(ACTIVATIONS)}")

    @classmethod
    def from_upstream(cls, config: dict, shapes: Mapping[str, tuple[int, ...]] | None = None) -> "CLIPTextConfig":
        """Read the `config.json` of a CLIPTextModelWithProjection or of a whole CLIP (nested `text_config`).

        Args:
            config: the file's contents; an unknown key is an InputError.
            shapes: shapes of the checkpoint's tensors under upstream's names. If given, they decide every size:
                published files leave projection_dim out of text_config, where it would default to 512.
        """
        text = config.get("text_config", config)
        if not isinstance(text, Mapping):
            raise InputError(f"text_config = {shown(repr(text), quote=False)}: must be an object")
        if text is not config:
            read_config(
                cls, config, "CLIP", ignored=_IRRELEVANT | _WHOLE_CLIP
            )  # only to name an unknown key at the top level
            if "projection_dim" in config:
                text = {"projection_dim": config["projection_dim"]} | text
        return read_config(cls, text | sizes_from_shapes(shapes or {}), "CLIP", ignored=_IRRELEVANT)

    def to_upstream(self) -> dict:
        """The config.json that from_upstream reads."""
        return write_config(self)


def sizes_from_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The config keys that a checkpoint's tensor shapes decide: all but heads, activation, eps and end id."""
    shapes = {name: shape for key, shape in shapes.items() if (name := TABLE.normalise(key)) is not None}
    sizes = {}
    for name, keys in {
        "text_model.embeddings.token_embedding.weight": ("vocab_size", "hidden_size"),
        "text_model.embeddings.position_embedding.weight": ("max_position_embeddings", "hidden_size"),
        "text_model.encoder.layers.0.mlp.fc1.weight": ("intermediate_size", "hidden_size"),
        "text_projection.weight": ("projection_dim", "hidden_size"),
    }.items():
        if name in shapes:
            sizes |= dict(zip(keys, shapes[name]))
    layers = {name.split(".")[3] for name in shapes if name.startswith("text_model.encoder.layers.")}
    return sizes | ({"num_hidden_layers": len(layers)} if layers else {})


class CLIPTextOutput(NamedTuple):
    """What CLIPTextModel returns. Under ms.jit it is a plain tuple in this order."""

    text_embeds: Tensor  # (B, projection_dim), projected, not normalised
    last_hidden_state: Tensor  # (B, L, hidden_size), normalised
    pooled: Tensor  # (B, hidden_size), last_hidden_state at the end of the text


class CLIPTextModel(Pretrained, nn.Cell):
    """Token ids to one projected vector. Upstream: CLIPTextModelWithProjection of transformers."""

    def __init__(self, config: CLIPTextConfig):
        super().__init__()
        self.config = config
        dim = config.hidden_size
        self.token_embedding = Embedding(config.vocab_size, dim, std=0.02)
        self.position_embedding = Embedding(config.max_position_embeddings, dim, std=0.02)
        self.layers = nn.CellList(compile_once(CLIPBlock(config) for _ in range(config.num_hidden_layers)))
        self.final_layer_norm = LayerNorm(dim, config.layer_norm_eps)
        self.text_projection = Linear(dim, config.projection_dim, bias=False, std=dim**-0.5)

    @classmethod
    def from_upstream(cls, config: dict, shapes: Mapping[str, tuple[int, ...]] | None = None) -> "CLIPTextModel":
        """Build from upstream's `config.json`, and from the checkpoint's shapes if available."""
        return cls(CLIPTextConfig.from_upstream(config, shapes))

    def __call__(self, *args, **kwargs) -> CLIPTextOutput:
        return CLIPTextOutput(*super().__call__(*args, **kwargs))  # graphs cannot build a named tuple: built here

    def construct(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Encode.

        Args:
            input_ids: (B, L) int32, L at most max_position_embeddings.
            attention_mask: (B, L), 1 for tokens, 0 for padding. Open-Sora Plan passes none: attention is causal
                and the end of the text is pooled, so text_embeds does not depend on what follows it.

        Returns:
            CLIPTextOutput(text_embeds, last_hidden_state, pooled).
        """
        last = self.final_layer_norm(self.hidden_states(input_ids, attention_mask)[-1])  # (B, L, h)
        batch, length, dim = last.shape
        row = ops.arange(batch).astype(ms.int32) * length + self.end_of_text(input_ids)
        pooled = forms.take(last.reshape(-1, dim), row)  # (B, h)
        return self.text_projection(pooled), last, pooled

    def hidden_states(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """The embedding and the output of every block, none of them normalised: num_hidden_layers + 1 of (B, L, h)."""
        length = input_ids.shape[1]
        if length > self.config.max_position_embeddings:
            raise ValueError(f"{length} tokens, but CLIP has {self.config.max_position_embeddings} positions")
        x = self.token_embedding(input_ids) + forms.narrow(self.position_embedding.weight, 0, 0, length)
        positions = ops.arange(length)
        keep = (positions.expand_dims(0) <= positions.expand_dims(1)).expand_dims(0).expand_dims(0)  # causal
        if attention_mask is not None:
            keep = ops.logical_and(keep, attention_mask.astype(ms.bool_).expand_dims(1).expand_dims(1))
        bias = (1 - keep.astype(ms.float32)) * MASKED  # (1 or B, 1, L, L)
        states = (x,)
        for layer in self.layers:
            x = layer(x, bias)
            states = states + (x,)
        return states

    def end_of_text(self, input_ids: Tensor) -> Tensor:
        """Position whose state is pooled, (B,) int32; 0 where the end id does not occur."""
        ids = input_ids.astype(ms.int32)
        if self.config.eos_token_id == 2:
            found = ids == ops.amax(ids, -1, keepdims=True)  # ids above the end id (added tokens) win, as in upstream
        else:
            found = ids == self.config.eos_token_id
        length = ids.shape[1]
        # The smallest matching index, not argmax: padding may repeat the end id, and the device must not break ties.
        first = ops.amin(ops.where(found, ops.arange(length).astype(ms.int32), length), -1)
        return ops.where(first == length, 0, first).astype(ms.int32)


class CLIPBlock(nn.Cell):
    """Attention and feed-forward, each with a norm before it and a residual sum after it."""

    def __init__(self, config: CLIPTextConfig):
        super().__init__()
        dim = config.hidden_size
        std = dim**-0.5 * (2 * config.num_hidden_layers) ** -0.5  # the residual stream keeps its size over depth
        self.layer_norm1 = LayerNorm(dim, config.layer_norm_eps)
        self.self_attn = CLIPAttention(config, std)
        self.layer_norm2 = LayerNorm(dim, config.layer_norm_eps)
        self.fc1 = Linear(dim, config.intermediate_size, std=(2 * dim) ** -0.5)
        self.fc2 = Linear(config.intermediate_size, dim, std=std)
        self.act = quick_gelu if config.hidden_act == "quick_gelu" else gelu_erf

    def construct(self, x: Tensor, bias: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x), bias)
        return x + self.fc2(self.act(self.fc1(self.layer_norm2(x))))


class CLIPAttention(nn.Cell):
    """Attention with bias vectors and scores scaled by 1/sqrt(head width)."""

    def __init__(self, config: CLIPTextConfig, std: float):
        super().__init__()
        dim = config.hidden_size
        self.heads = config.num_attention_heads
        self.scale = (dim // self.heads) ** -0.5
        self.q_proj = Linear(dim, dim, std=std)
        self.k_proj = Linear(dim, dim, std=std)
        self.v_proj = Linear(dim, dim, std=std)
        self.out_proj = Linear(dim, dim, std=dim**-0.5)

    def construct(self, x: Tensor, bias: Tensor) -> Tensor:
        out = biased_attention(self.q_proj(x) * self.scale, self.k_proj(x), self.v_proj(x), bias, self.heads)
        return self.out_proj(out)


def quick_gelu(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x)."""
    return x * ops.sigmoid(1.702 * x)


def gelu_erf(x: Tensor) -> Tensor:
    """GELU in its exact form, computed in float32 (the fused operator is slow on CPU)."""
    h = x.astype(ms.float32)
    return (0.5 * h * (1 + ops.erf(h * (1 / math.sqrt(2))))).astype(x.dtype)
