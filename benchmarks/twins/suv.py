"""SUV in plain PyTorch, without masks: no text token and no latent is padding. Parameters have upstream's names."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-6


class MLP(nn.Module):
    def __init__(self, in_features: int, dim: int):
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(in_features, dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


class TimeTextEmbed(nn.Module):
    def __init__(self, dim: int, pooled: int):
        super().__init__()
        self.half = dim // 2
        self.timestep_embedder, self.text_embedder = MLP(dim, dim), MLP(pooled, dim)

    def forward(self, timestep: Tensor, pooled: Tensor) -> Tensor:
        angle = timestep[:, None] * torch.exp(-math.log(10000) * torch.arange(self.half) / self.half)
        return self.timestep_embedder(torch.cat([angle.cos(), angle.sin()], -1)) + self.text_embedder(pooled)


class AdaNorm(nn.Module):
    def __init__(self, dim: int, cond: int, text: bool):
        super().__init__()
        self.linear, self.norm = nn.Linear(cond, 6 * dim), nn.LayerNorm(dim, EPS)
        self.norm_enc = nn.LayerNorm(dim, EPS) if text else None

    def forward(self, x: Tensor, y: Tensor, c: Tensor):
        shift, scale, gate, shift_enc, scale_enc, gate_enc = self.linear(c)[:, None].chunk(6, -1)
        x = self.norm(x) * (1 + scale) + shift
        if self.norm_enc is not None:
            y = self.norm_enc(y) * (1 + scale_enc) + shift_enc
        return x, y, gate, gate_enc


class Skip:
    """The assignment of visual tokens, with padding, to n sub-sequences."""

    def __init__(self, tokens: int, n: int, group: bool):
        self.tokens, self.n, self.group = tokens, n, group
        self.rows = -(-tokens // n**2) * n
        self.padding = self.rows * n - tokens
        i = torch.arange(self.rows * n)
        real = (i.reshape(-1, n, n).permute(1, 0, 2) if group else i.reshape(-1, n).T).reshape(n, self.rows) < tokens
        self.real = real if self.padding else None

    def deal(self, x: Tensor) -> Tensor:
        """Split tokens into sub-sequences: (B, N, H, D) -> (B, n, H, rows, D)."""
        b, _, heads, dim = x.shape
        x = F.pad(x, (0, 0, 0, 0, 0, self.padding)) if self.padding else x
        if self.group:
            x = x.reshape(b, -1, self.n, self.n, heads, dim).permute(0, 2, 4, 1, 3, 5)
            return x.reshape(b, self.n, heads, self.rows, dim)
        return x.reshape(b, self.rows, self.n, heads, dim).permute(0, 2, 3, 1, 4)

    def gather(self, x: Tensor) -> Tensor:
        """Undo `deal`."""
        b, _, heads, _, dim = x.shape
        if self.group:
            x = x.reshape(b, self.n, heads, -1, self.n, dim).permute(0, 3, 1, 4, 2, 5)
        else:
            x = x.permute(0, 3, 1, 2, 4)
        return x.reshape(b, self.rows * self.n, heads, dim)[:, : self.tokens]


class Attention(nn.Module):
    def __init__(self, config: dict, n: int, group: bool, text_output: bool):
        super().__init__()
        self.heads, self.n, self.group = config["num_heads"], n, group
        dim = config["num_heads"] * config["head_dim"]
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim) for _ in range(3))
        self.add_q_proj, self.add_k_proj, self.add_v_proj = (nn.Linear(dim, dim) for _ in range(3))
        for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
            setattr(self, name, nn.RMSNorm(config["head_dim"], EPS))
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])
        self.to_add_out = nn.Linear(dim, dim) if text_output else None

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1))

    def forward(self, x: Tensor, y: Tensor, rope: tuple[Tensor, Tensor]):
        skip, length = Skip(x.shape[1], self.n, self.group), y.shape[1]
        q = rotate(self.norm_q(self.split(self.to_q(x))), *rope)
        k = rotate(self.norm_k(self.split(self.to_k(x))), *rope)
        visual = (q, k, self.split(self.to_v(x)))
        text = (
            self.norm_added_q(self.split(self.add_q_proj(y))),
            self.norm_added_k(self.split(self.add_k_proj(y))),
            self.split(self.add_v_proj(y)),
        )
        # Four axes, because PyTorch on CPU has no fused attention for five and would hold all scores.
        q, k, v = (
            torch.cat([skip.deal(a), b.transpose(1, 2)[:, None].expand(-1, self.n, -1, -1, -1)], 3).flatten(0, 1)
            for a, b in zip(visual, text)
        )  # (B n, H, rows + L, D)
        mask = None
        if skip.real is not None:
            mask = F.pad(skip.real, (0, length), value=True)[:, None, None].repeat(len(x), 1, 1, 1)
        out = F.scaled_dot_product_attention(q, k, v, mask).unflatten(0, (len(x), self.n))
        x = self.to_out[0](skip.gather(out[:, :, :, : skip.rows]).flatten(2))
        if self.to_add_out is not None:
            y = self.to_add_out(out[:, :, :, skip.rows :].mean(1).transpose(1, 2).flatten(2))
        return x, y


def rope_tables(grid: tuple[int, int, int], dim: int) -> tuple[Tensor, Tensor]:
    """cos and sin (N, 1, D / 2): a quarter of the channels rotates with t, three eighths each with y and x."""
    angles = []
    for position, width in zip(torch.meshgrid(*map(torch.arange, grid), indexing="ij"), split(dim)):
        angles.append(position.reshape(-1, 1) / 10000.0 ** (torch.arange(0, width, 2) / width))
    angle = torch.cat(angles, -1)[:, None]
    return angle.cos(), angle.sin()


def split(dim: int) -> tuple[int, int, int]:
    return dim // 4, 3 * dim // 8, 3 * dim // 8


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    parts, start = [], 0
    for part in x.split(split(x.shape[-1]), -1):
        a, b = part.chunk(2, -1)
        c, s = (table[..., start : start + a.shape[-1]] for table in (cos, sin))
        parts += [a * c - b * s, b * c + a * s]
        start += a.shape[-1]
    return torch.cat(parts, -1)


def feed_forward(dim: int) -> nn.Module:
    ff = nn.Module()
    ff.net = nn.ModuleList([nn.Module(), nn.Identity(), nn.Linear(4 * dim, dim, bias=False)])
    ff.net[0].proj = nn.Linear(dim, 4 * dim, bias=False)
    return ff


def feed(ff: nn.Module, x: Tensor) -> Tensor:
    return ff.net[2](F.gelu(ff.net[0].proj(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, config: dict, n: int, group: bool, text_output: bool):
        super().__init__()
        dim, cond = config["num_heads"] * config["head_dim"], config["timestep_embed_dim"]
        self.norm1, self.norm2 = AdaNorm(dim, cond, True), AdaNorm(dim, cond, text_output)
        self.attn1 = Attention(config, n, group, text_output)
        self.ff, self.ff_enc = feed_forward(dim), feed_forward(dim) if text_output else None

    def forward(self, x: Tensor, y: Tensor, c: Tensor, rope: tuple[Tensor, Tensor]):
        x_hat, y_hat, gate, gate_enc = self.norm1(x, y, c)
        x_hat, y_hat = self.attn1(x_hat, y_hat, rope)
        x = x + gate * x_hat
        if self.ff_enc is not None:
            y = y + gate_enc * y_hat
        x_hat, y_hat, gate, gate_enc = self.norm2(x, y, c)
        x = x + gate * feed(self.ff, x_hat)
        if self.ff_enc is not None:
            y = y + gate_enc * feed(self.ff_enc, y_hat)
        return x, y


class OutputNorm(nn.Module):
    def __init__(self, dim: int, cond: int):
        super().__init__()
        self.linear, self.norm = nn.Linear(cond, 2 * dim), nn.LayerNorm(dim, EPS)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.linear(c)[:, None].chunk(2, -1)
        return self.norm(x) * (1 + scale) + shift


class SUV(nn.Module):
    """Latents (B, c, T, H, W), times (B,), text (B, 1, L, D), pooled text (B, 1, P) -> velocity (B, c, T, H, W).

    config: upstream's keys; double_ff is True.
    """

    def __init__(self, config: dict):
        super().__init__()
        self.patch, self.head_dim = config["patch_size"], config["head_dim"]
        dim, cond, stages = config["num_heads"] * self.head_dim, config["timestep_embed_dim"], len(config["num_layers"])
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(config["in_channels"], dim, self.patch, self.patch)
        self.time_text_embed = TimeTextEmbed(cond, config["pooled_projection_dim"])
        self.caption_projection = nn.Linear(config["caption_channels"], dim)
        last = (stages - 1, config["num_layers"][-1] - 1)
        self.transformer_blocks = nn.ModuleList(
            nn.ModuleList(Block(config, n, i % 2 == 1, (s, i) != last) for i in range(blocks))
            for s, (blocks, n) in enumerate(zip(config["num_layers"], config["sparse_n"]))
        )
        self.skip_norm_linear, self.skip_norm_linear_enc = (
            nn.ModuleList(nn.ModuleList([nn.Identity(), nn.Linear(2 * dim, dim)]) for _ in range(stages // 2))
            for _ in range(2)
        )
        self.norm_final, self.norm_out = nn.LayerNorm(dim, EPS), OutputNorm(dim, cond)
        self.proj_out = nn.Linear(dim, self.patch**2 * config["out_channels"])

    def forward(self, latents: Tensor, timestep: Tensor, text: Tensor, pooled: Tensor) -> Tensor:
        b, _, t, height, width = latents.shape
        h, w, p = height // self.patch, width // self.patch, self.patch
        x = self.patch_embed.proj(latents.transpose(1, 2).flatten(0, 1))  # (B T, C, h, w)
        x = x.unflatten(0, (b, t)).permute(0, 1, 3, 4, 2).flatten(1, 3)  # (B, N, C)
        y = self.caption_projection(text[:, 0])
        c = F.silu(self.time_text_embed(timestep, pooled[:, 0]))
        rope = rope_tables((t, h, w), self.head_dim)
        skips, middle = [], len(self.transformer_blocks) // 2
        for s, stage in enumerate(self.transformer_blocks):
            if s > middle:
                x_skip, y_skip = skips.pop()
                x = self.skip_norm_linear[s - middle - 1][1](torch.cat([x, x_skip], -1))
                y = self.skip_norm_linear_enc[s - middle - 1][1](torch.cat([y, y_skip], -1))
            for block in stage:
                x, y = block(x, y, c, rope)
            if s < middle:
                skips.append((x, y))
        x = self.proj_out(self.norm_out(self.norm_final(x), c))
        x = x.reshape(b, t, h, w, p, p, -1).permute(0, 6, 1, 2, 4, 3, 5)
        return x.reshape(b, -1, t, h * p, w * p)
