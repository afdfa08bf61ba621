"""Toy: video tokens attend to each other; time and the mean of the text are added to all of them.

Shapes in the margin: B batch, N = T*h*w visual tokens, L text tokens, C = dim channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mindspore import Tensor, nn, ops

from mindsora.config import from_dict
from mindsora.nn.layers import FeedForward, LayerNorm, Linear
from mindsora.nn.patches import PatchEmbed, unpatchify
from mindsora.nn.timestep import MLP, Sinusoid


@dataclass(frozen=True)
class ToyConfig:
    dim: int
    num_layers: int
    in_channels: int
    caption_channels: int
    patch_size: int = 2

    @classmethod
    def from_upstream(cls, config: Mapping) -> "ToyConfig":
        return from_dict(cls, dict(config))


class Block(nn.Cell):
    def __init__(self, dim: int):
        super().__init__()
        self.norm, self.to_qkv, self.ff = LayerNorm(dim, 1e-6), Linear(dim, 3 * dim), FeedForward(dim)

    def construct(self, x: Tensor) -> Tensor:
        q, k, v = ops.chunk(self.to_qkv(self.norm(x)), 3, -1)  # 3 x (B, N, C)
        scores = ops.bmm(q, k.swapaxes(1, 2)) / x.shape[-1] ** 0.5  # (B, N, N)
        x = x + ops.bmm(ops.softmax(scores), v)
        return x + self.ff(x)


class Toy(nn.Cell):
    def __init__(self, config: ToyConfig):
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config.patch_size, config.in_channels, config.dim)
        self.sinusoid, self.time = Sinusoid(config.dim), MLP(config.dim, config.dim)
        self.text = Linear(config.caption_channels, config.dim)
        self.blocks = nn.CellList([Block(config.dim) for _ in range(config.num_layers)])
        self.proj_out = Linear(config.dim, config.patch_size**2 * config.in_channels)

    @classmethod
    def from_upstream(cls, config: Mapping) -> "Toy":
        return cls(ToyConfig.from_upstream(config))

    def construct(
        self, hidden_states, timestep, encoder_hidden_states, pooled_projections=None, attention_mask=None,
        encoder_attention_mask=None,
    ):  # fmt: skip
        """hidden_states (B, c, T, H, W), timestep (B,), encoder_hidden_states (B, 1, L, caption_channels) -> velocity."""
        _, _, t, height, width = hidden_states.shape
        p, dtype = self.config.patch_size, self.proj_out.weight.dtype
        text = self.text(encoder_hidden_states.astype(dtype).mean(2))  # (B, 1, C)
        time = self.time(self.sinusoid(timestep).astype(dtype)).expand_dims(1)  # (B, 1, C)
        x = self.patch_embed(hidden_states.astype(dtype)) + time + text  # (B, N, C)
        for block in self.blocks:
            x = block(x)
        return unpatchify(self.proj_out(x), (t, height // p, width // p), p)
