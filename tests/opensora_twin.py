"""A NumPy reference of the v1.3 denoisers, from the formulas, in any dtype, with index sets instead of reshapes.

float64 gives reference numbers where no golden file exists. float16 is the plain half-precision computation (only the
timestep's angles are wider) that the tests measure our model against. Weights have upstream's names.
"""

import numpy as np
from kernel_oracles import members
from suv_twin import EPS, gelu, linear, silu, softmax


def normalise(x):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + x.dtype.type(EPS))


def rope(x, grid, angle_dtype):
    """x: (N, H, D); a third of the channels for t, y and x, halves of each rotated against each other."""
    width = x.shape[-1] // 3
    positions = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), -1).reshape(-1, 3)
    out = []
    for axis in range(3):
        a, b = np.split(x[..., axis * width : (axis + 1) * width], 2, -1)
        angle = positions[:, axis, None] * 10000.0 ** (-2 * np.arange(width // 2) / width)
        angle = angle.astype(angle_dtype).astype(np.float64)
        cos, sin = np.cos(angle)[:, None].astype(x.dtype), np.sin(angle)[:, None].astype(x.dtype)
        out += [a * cos - b * sin, b * cos + a * sin]
    return np.concatenate(out, -1)


def attend(q, k, v):
    """q: (Q, H, D); k, v: (K, H, D)."""
    scores = np.einsum("qhd,khd->hqk", q, k) / q.dtype.type(np.sqrt(q.shape[-1]))
    return np.einsum("hqk,khd->qhd", softmax(scores), v)


def block(w, name, x, y, modulation, grid, lengths, heads, n, group, angle_dtype):
    """One block on x (B, N, C), y (B, L, C), modulation (B, 6, C); lengths: real text tokens per sample."""
    m = w[f"{name}.scale_shift_table"] + modulation
    shift, scale, gate, shift_ff, scale_ff, gate_ff = (m[:, i : i + 1] for i in range(6))

    def projected(attn, which, z):
        return linear(w, f"{name}.{attn}.to_{which}", z).reshape(len(z), heads, -1)

    def joined(attn, parts):
        return linear(w, f"{name}.{attn}.to_out.0", np.stack([part.reshape(len(part), -1) for part in parts]))

    outs = []
    for x_b in normalise(x) * (1 + scale) + shift:
        q, k, v = (projected("attn1", which, x_b) for which in "qkv")
        q, k = rope(q, grid, angle_dtype), rope(k, grid, angle_dtype)
        out = np.zeros_like(q)
        for rows in members(len(q), n, group):
            out[rows] = attend(q[rows], k[rows], v[rows])
        outs.append(out)
    x = x + gate * joined("attn1", outs)
    outs = []
    for x_b, y_b, length in zip(x, y, lengths):
        k, v = (projected("attn2", which, y_b[:length]) for which in "kv")
        outs.append(attend(projected("attn2", "q", x_b), k, v))
    x = x + joined("attn2", outs)
    h = normalise(x) * (1 + scale_ff) + shift_ff
    return x + gate_ff * linear(w, f"{name}.ff.net.2", gelu(linear(w, f"{name}.ff.net.0.proj", h)))


def patches(x, p):
    b, c, t, height, width = x.shape
    h, w = height // p, width // p
    return x.reshape(b, c, t, h, p, w, p).transpose(0, 2, 3, 5, 1, 4, 6).reshape(b, t * h * w, -1)


def opensora(w, config, latents, timestep, text, text_mask, dtype, angle_dtype=np.float64):
    """Either network, every array in `dtype` and the rotary angles rounded to `angle_dtype`; config is upstream's."""
    w = {key: value.astype(dtype) for key, value in w.items()}
    p, c, c_out = config["patch_size"], config["in_channels"], config["out_channels"]
    b, _, t, height, width = latents.shape
    grid = (t, height // p, width // p)
    latents, y = latents.astype(dtype), text[:, 0].astype(dtype)
    x = linear(w, "pos_embed.proj", patches(latents[:, :c], p))
    if "vae_scale_factor_t" in config:
        for name, part in (("masked_hidden_states", latents[:, c : 2 * c]), ("mask", latents[:, 2 * c :])):
            x = x + linear(w, f"pos_embed_{name}.1", linear(w, f"pos_embed_{name}.0.proj", patches(part, p)))
    y = linear(w, "caption_projection.linear_2", gelu(linear(w, "caption_projection.linear_1", y)))
    angle = timestep[:, None].astype(np.float64) * np.exp(-np.log(10000) * np.arange(128) / 128)
    time = np.concatenate([np.cos(angle), np.sin(angle)], -1).astype(dtype)
    time = silu(linear(w, "adaln_single.emb.timestep_embedder.linear_1", time))
    embedding = linear(w, "adaln_single.emb.timestep_embedder.linear_2", time)
    modulation = linear(w, "adaln_single.linear", silu(embedding)).reshape(b, 6, -1)
    lengths = text_mask.reshape(b, -1).sum(-1).astype(int)
    for i in range(config["num_layers"]):
        n = config["sparse_n"] if 2 <= i < 30 else 1
        heads, name = config["num_attention_heads"], f"transformer_blocks.{i}"
        x = block(w, name, x, y, modulation, grid, lengths, heads, n, i % 2 == 1, angle_dtype)
    m = w["scale_shift_table"] + embedding[:, None]
    x = linear(w, "proj_out", normalise(x) * (1 + m[:, 1:]) + m[:, :1])
    x = x.reshape(b, *grid, p, p, c_out).transpose(0, 6, 1, 2, 4, 3, 5)
    return x.reshape(b, c_out, t, grid[1] * p, grid[2] * p)
