"""WF-VAE 8x8x8 in plain PyTorch: clips are (B, C, T, H, W) throughout, parameters have upstream's names."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Norm(nn.Module):
    """Layer norm over channels, then SiLU if `silu`."""

    def __init__(self, channels: int, silu: bool = True):
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.silu = silu

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x.movedim(1, -1)).movedim(-1, 1)
        return F.silu(x) if self.silu else x


class FrameConv(nn.Conv2d):
    """3x3 convolution of every frame."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x.transpose(1, 2).flatten(0, 1))
        return y.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)


class CausalConv(nn.Module):
    """Causal convolution: repeats the first frame in front, and pads H and W with `padding` zeros on each side."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, padding: int = 1):
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, kernel, stride, (0, padding, padding))
        self.front = kernel - 1

    def forward(self, x: Tensor) -> Tensor:
        if self.front:
            x = torch.cat([x[:, :, :1].expand(-1, -1, self.front, -1, -1), x], 2)
        return self.conv(x)


def point_conv(in_channels: int, out_channels: int) -> CausalConv:
    return CausalConv(in_channels, out_channels, kernel=1, padding=0)


class Resnet2D(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.norm1, self.norm2 = Norm(channels), Norm(channels)
        self.conv1, self.conv2 = FrameConv(channels, channels), FrameConv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.norm2(self.conv1(self.norm1(x))))


class Resnet3D(nn.Module):
    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.norm1, self.norm2 = Norm(in_channels), Norm(out_channels)
        self.conv1, self.conv2 = CausalConv(in_channels, out_channels), CausalConv(out_channels, out_channels)
        self.nin_shortcut = point_conv(in_channels, out_channels) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.nin_shortcut(x) + self.conv2(self.norm2(self.conv1(self.norm1(x))))


class Attention(nn.Module):
    """Attention with one head among the positions of one frame."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = Norm(channels, silu=False)
        self.q, self.k, self.v, self.proj_out = (point_conv(channels, channels) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        n = self.norm(x)
        q, k, v = (f(n).permute(0, 2, 3, 4, 1).flatten(2, 3) for f in (self.q, self.k, self.v))  # (B, T, HW, C)
        a = F.scaled_dot_product_attention(q, k, v).unflatten(2, x.shape[3:])
        return x + self.proj_out(a.permute(0, 4, 1, 2, 3))


class Downsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = CausalConv(channels, channels, stride=2, padding=0)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double the frames after the first, the rows and the columns by linear interpolation; then convolve."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = CausalConv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        parts = [F.interpolate(x[:, :, :1], scale_factor=(1, 2, 2), mode="trilinear")]
        if x.shape[2] > 1:
            parts.append(F.interpolate(x[:, :, 1:], scale_factor=2, mode="trilinear"))
        return self.conv(torch.cat(parts, 2))


def haar_kernels() -> Tensor:
    """Kernels (8, 1, 2, 2, 2): kernel 4a + 2b + c alternates its sign along t, y, x where a, b, c are 1."""
    sign = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    return 0.3536 * torch.einsum("ai,bj,cl->abcijl", sign, sign, sign).reshape(8, 1, 2, 2, 2)


class Haar(nn.Module):
    """(B, C, T, H, W) -> (B, 8C, (T-1)/2+1, H/2, W/2), band by band; `inverse` undoes it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("kernels", haar_kernels(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        b, c = x.shape[:2]
        x = torch.cat([x[:, :, :1], x], 2).flatten(0, 1)[:, None]
        y = F.conv3d(x, self.kernels, stride=2)  # (B C, 8, T', H', W')
        return y.unflatten(0, (b, c)).transpose(1, 2).flatten(1, 2)

    def inverse(self, x: Tensor) -> Tensor:
        x = x.unflatten(1, (8, -1)).transpose(1, 2)  # (B, C, 8, T, H, W)
        y = F.conv_transpose3d(x.flatten(0, 1), self.kernels, stride=2)
        return y.unflatten(0, x.shape[:2])[:, :, 0, 1:]


class Encoder(nn.Module):
    def __init__(self, latent: int, c: int, flow: int, blocks: int):
        super().__init__()
        self.haar = Haar()
        self.down1 = nn.Sequential(FrameConv(24, c), *(Resnet2D(c) for _ in range(blocks)), Downsample(c))
        self.down2 = nn.Sequential(
            FrameConv(c + flow, 2 * c), *(Resnet3D(2 * c, 2 * c) for _ in range(blocks)), Downsample(2 * c)
        )
        self.connect_l1, self.connect_l2 = FrameConv(24, flow), FrameConv(24, flow)
        self.mid = nn.Sequential(Resnet3D(2 * c + flow, 4 * c), Attention(4 * c), Resnet3D(4 * c, 4 * c))
        self.norm_out, self.conv_out = Norm(4 * c), CausalConv(4 * c, 2 * latent)

    def forward(self, x: Tensor) -> Tensor:
        w1 = self.haar(x)
        w2 = self.haar(w1[:, :3])
        w3 = self.haar(w2[:, :3])
        h = self.down2(torch.cat([self.down1(w1), self.connect_l1(w2)], 1))
        h = self.mid(torch.cat([h, self.connect_l2(w3)], 1))
        return self.conv_out(self.norm_out(h))


class Decoder(nn.Module):
    def __init__(self, latent: int, c: int, flow: int, blocks: int, connect: int):
        super().__init__()
        self.haar, self.flow = Haar(), flow
        self.conv_in = CausalConv(latent, 4 * c)
        self.mid = nn.Sequential(Resnet3D(4 * c, 4 * c), Attention(4 * c), Resnet3D(4 * c, 4 * c + flow))
        self.up2 = nn.Sequential(
            *(Resnet3D(4 * c, 4 * c) for _ in range(blocks)), Upsample(4 * c), Resnet3D(4 * c, 4 * c + flow)
        )
        self.up1 = nn.Sequential(
            Resnet3D(4 * c, 2 * c),
            *(Resnet3D(2 * c, 2 * c) for _ in range(blocks - 1)),
            Upsample(2 * c),
            Resnet3D(2 * c, 2 * c),
        )
        self.layer = nn.Sequential(Resnet3D(2 * c, c), Resnet3D(c, c))
        self.connect_l1, self.connect_l2 = (
            nn.Sequential(*(Resnet3D(flow, flow) for _ in range(connect)), FrameConv(flow, 24)) for _ in range(2)
        )
        self.norm_out, self.conv_out = Norm(c), FrameConv(c, 24)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        low = self.haar.inverse(self.connect_l2(h[:, -self.flow :]))
        h = self.up2(h[:, : -self.flow])
        bands = self.connect_l1(h[:, -self.flow :])
        low = self.haar.inverse(torch.cat([bands[:, :3] + low, bands[:, 3:]], 1))
        h = self.layer(self.up1(h[:, : -self.flow]))
        bands = self.conv_out(self.norm_out(h))
        return self.haar.inverse(torch.cat([bands[:, :3] + low, bands[:, 3:]], 1))


class WFVAE(nn.Module):
    """encode: pixels (B, 3, T, H, W) -> moments (B, 2L, t, h, w); decode: latents (B, L, t, h, w) -> pixels.

    config: upstream's keys.
    """

    def __init__(self, config: dict):
        super().__init__()
        latent, c = config["latent_dim"], config["base_channels"]
        self.encoder = Encoder(latent, c, config["encoder_energy_flow_hidden_size"], config["encoder_num_resblocks"])
        self.decoder = Decoder(
            latent,
            c,
            config["decoder_energy_flow_hidden_size"],
            config["decoder_num_resblocks"],
            config["connect_res_layer_num"],
        )

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z)
