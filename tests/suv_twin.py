"""A NumPy reference of SUV, from the formulas, in any dtype, with index sets instead of reshapes and no padding.

float64 gives reference numbers where no golden file exists. float16 is the plain half-precision computation (only the
timestep's angles are wider) that the tests measure our model against. Weights have upstream's names.
"""

import numpy as np

EPS = 1e-6


def linear(w, name, x):
    y = x @ w[f"{name}.weight"].reshape(len(w[f"{name}.weight"]), -1).T
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def layer_norm(w, name, x):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + x.dtype.type(EPS)) * w[f"{name}.weight"] + w[f"{name}.bias"]


def rms_norm(w, name, x):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + x.dtype.type(EPS)) * w[f"{name}.weight"]


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi).astype(x.dtype) * (x + x.dtype.type(0.044715) * x * x * x)))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def rope(x, grid):
    """x: (N, H, D); channels [t | y | x] = [D/4 | 3D/8 | 3D/8], halves of each slice rotated against each other."""
    d = x.shape[-1]
    positions = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), -1).reshape(-1, 3)
    out, start = [], 0
    for axis, width in enumerate((d // 4, 3 * d // 8, 3 * d // 8)):
        a, b = np.split(x[..., start : start + width], 2, -1)
        angle = positions[:, axis, None] * 10000.0 ** (-2 * np.arange(width // 2) / width)
        cos, sin = np.cos(angle)[:, None].astype(x.dtype), np.sin(angle)[:, None].astype(x.dtype)
        out += [a * cos - b * sin, b * cos + a * sin]
        start += width
    return np.concatenate(out, -1)


def attention(q, k, v, text_q, text_k, text_v, n, group):
    """One sample: q, k, v (N, H, D), text_q (L, H, D), text_k, text_v (real tokens, H, D)."""
    i = np.arange(len(q))
    member = i // n % n if group else i % n
    visual, text = np.zeros_like(q), np.zeros_like(text_q)
    for s in range(n):
        rows = i[member == s]
        queries = np.concatenate([q[rows], text_q])
        keys, values = np.concatenate([k[rows], text_k]), np.concatenate([v[rows], text_v])
        scores = np.einsum("qhd,khd->hqk", queries, keys) / q.dtype.type(np.sqrt(q.shape[-1]))
        out = np.einsum("hqk,khd->qhd", softmax(scores), values)
        visual[rows] = out[: len(rows)]
        text += out[len(rows) :] / n
    return visual, text


def block(w, name, x, y, temb, grid, lengths, heads, n, group, last):
    """One block on x (B, N, C), y (B, L, C), temb (B, E); lengths: real text tokens per sample."""

    def modulated(norm, x, y):
        m = np.split(linear(w, f"{name}.{norm}.linear", silu(temb))[:, None], 6, -1)
        x = layer_norm(w, f"{name}.{norm}.norm", x) * (1 + m[1]) + m[0]
        if f"{name}.{norm}.norm_enc.weight" in w:
            y = layer_norm(w, f"{name}.{norm}.norm_enc", y) * (1 + m[4]) + m[3]
        return x, y, m[2], m[5]

    def heads_of(linear_name, norm_name, x):
        z = linear(w, f"{name}.attn1.{linear_name}", x).reshape(len(x), heads, -1)
        return rms_norm(w, f"{name}.attn1.{norm_name}", z) if norm_name else z

    def feed_forward(ff, x):
        return linear(w, f"{name}.{ff}.net.2", gelu(linear(w, f"{name}.{ff}.net.0.proj", x)))

    x_hat, y_hat, gate, gate_enc = modulated("norm1", x, y)
    visual, text = [], []
    for x_b, y_b, length in zip(x_hat, y_hat, lengths):
        q, k, v = heads_of("to_q", "norm_q", x_b), heads_of("to_k", "norm_k", x_b), heads_of("to_v", None, x_b)
        text_q, text_k = heads_of("add_q_proj", "norm_added_q", y_b), heads_of("add_k_proj", "norm_added_k", y_b)
        text_v = heads_of("add_v_proj", None, y_b)
        a, b = attention(rope(q, grid), rope(k, grid), v, text_q, text_k[:length], text_v[:length], n, group)
        visual.append(a.reshape(len(a), -1))
        text.append(b.reshape(len(b), -1))
    x = x + gate * linear(w, f"{name}.attn1.to_out.0", np.stack(visual))
    if not last:
        y = y + gate_enc * linear(w, f"{name}.attn1.to_add_out", np.stack(text))
    x_hat, y_hat, gate, gate_enc = modulated("norm2", x, y)
    x = x + gate * feed_forward("ff", x_hat)
    if not last:
        y = y + gate_enc * feed_forward("ff_enc" if f"{name}.ff_enc.net.2.weight" in w else "ff", y_hat)
    return x, y


def suv(w, config, latents, timestep, text, pooled, text_mask, dtype):
    """The whole network with every array in `dtype`; config is upstream's."""
    w = {key: value.astype(dtype) for key, value in w.items()}
    latents, text, pooled = (a.astype(dtype) for a in (latents, text[:, 0], pooled[:, 0]))
    p, c_out = config["patch_size"], config["out_channels"]
    b, c, t, height, width = latents.shape
    h, w_ = height // p, width // p
    grid = (t, h, w_)
    patches = latents.reshape(b, c, t, h, p, w_, p).transpose(0, 2, 3, 5, 1, 4, 6).reshape(b, t * h * w_, -1)
    x = linear(w, "patch_embed.proj", patches)
    y = linear(w, "caption_projection", text)
    half = config["timestep_embed_dim"] // 2
    angle = timestep[:, None].astype(np.float64) * np.exp(-np.log(10000) * np.arange(half) / half)
    temb = 0
    sinusoid = np.concatenate([np.cos(angle), np.sin(angle)], -1)
    for name, z in (("timestep_embedder", sinusoid), ("text_embedder", pooled)):
        z = silu(linear(w, f"time_text_embed.{name}.linear_1", z.astype(dtype)))
        temb = temb + linear(w, f"time_text_embed.{name}.linear_2", z)
    lengths = text_mask.reshape(b, -1).sum(-1).astype(int)

    stages, skips = len(config["num_layers"]), []
    for s, (blocks, n) in enumerate(zip(config["num_layers"], config["sparse_n"])):
        if s > stages // 2:
            skip, j = skips.pop(), s - stages // 2 - 1
            x = linear(w, f"skip_norm_linear.{j}.1", np.concatenate([x, skip[0]], -1))
            y = linear(w, f"skip_norm_linear_enc.{j}.1", np.concatenate([y, skip[1]], -1))
        for i in range(blocks):
            last = (s, i) == (stages - 1, blocks - 1)
            name = f"transformer_blocks.{s}.{i}"
            x, y = block(w, name, x, y, temb, grid, lengths, config["num_heads"], n, i % 2 == 1, last)
        if s < stages // 2:
            skips.append((x, y))

    shift, scale = np.split(linear(w, "norm_out.linear", silu(temb))[:, None], 2, -1)
    x = layer_norm(w, "norm_out.norm", layer_norm(w, "norm_final", x)) * (1 + scale) + shift
    x = linear(w, "proj_out", x).reshape(b, t, h, w_, p, p, c_out)
    return x.transpose(0, 6, 1, 2, 4, 3, 5).reshape(b, c_out, t, h * p, w_ * p)
