"""Layers and attention of all networks, as they are computed here."""

import functools

import torch
import torch.nn.functional as F
from torch import nn


def keep_norms_float(net):
    """Have a network's layer norms computed in float32, as autocast has it on GPUs. In bf16 a CPU adds up the gradients of
    weight and bias in bf16, too, over all rows: those of 50,000 rows were 16 % and 66 % wrong (PyTorch 2.14)."""
    for module in net.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))


def keep_convolutions_float(net):
    """On CPUs, have two kinds of convolutions computed in float32: depthwise ones, whose backward pass can take ten times as
    long in bf16 (oneDNN 3.12); and those of 3 x 3 and few channels that halve the picture, as at a network's beginning: in
    bf16 they save no time, and make a fifth of the error in TinyViT's gradients."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            is_depthwise = 1 < module.groups == module.in_channels
            halves = module.stride == (2, 2) and module.kernel_size == (3, 3) and module.in_channels <= 48
            if is_depthwise or halves:
                module.__class__ = _float_kind(type(module))


@functools.lru_cache(maxsize=None)
def _float_kind(kind):
    """The class of convolutions of a `kind` that are computed in float32 on CPUs."""

    class InFloat32(kind):
        def forward(self, x):
            if x.device.type != "cpu":
                return super().forward(x)
            with torch.autocast("cpu", enabled=False):
                if x.dtype == torch.float32:  # an exported graph would hold the casts
                    return super().forward(x)
                return super().forward(x.float()).to(x.dtype)

    return InFloat32


def attend(queries, keys, values, bias=None, causal=False):
    """softmax(queries keys^T / sqrt(d) + bias) values, heads apart.

    Computed in float32 on CPUs, whatever autocast says: there bf16 is slower, since the products are small.

    Args:
        queries, keys, values: `(B, heads, N, d)`; values may have another d, and queries another N.
        bias: float32 `(heads, N, N)`, trained with the rest, or None.
        causal: each row looks at none after it.
    Returns: `(B, heads, N, d)`.
    """
    if queries.device.type != "cpu":
        return _attend(queries, keys, values, bias, causal)
    with torch.autocast("cpu", enabled=False):
        return _attend(queries.float(), keys.float(), values.float(), bias, causal)


def _attend(queries, keys, values, bias, causal):
    # PyTorch 1.12 does not have the fused one, and the fused one does not train a bias.
    if bias is None and hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(queries, keys, values, is_causal=causal)
    scores = queries @ keys.transpose(-2, -1) * queries.shape[-1] ** -0.5
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(future, float("-inf"))
    if bias is not None:
        scores = scores + bias
    return scores.softmax(dim=-1) @ values


class Pointwise(nn.Conv2d):
    """A 1 x 1 convolution of few channels, computed where its stride leads. In the backward pass of a strided one oneDNN
    3.12 writes past its own memory (its issue 6035), and the process crashes or hangs."""

    def forward(self, x):
        rows, columns = self.stride
        return F.conv2d(x[:, :, ::rows, ::columns], self.weight, self.bias, groups=self.groups)


@functools.lru_cache(maxsize=None)
def lonely_kind(kind):
    """The class of batch norms of a `kind` that normalise a lone photo by their running figures in training, too, where it has
    one value a channel, as behind the pooling of MobileNetV4: an epoch's last batch may be one photo."""

    class Lonely(kind):
        def forward(self, x):
            training = self.training
            self.training = training and x[:, 0].numel() > 1
            try:
                return super().forward(x)
            finally:
                self.training = training

    return Lonely


class Normalize(nn.Module):
    """uint8 pixels `(B, 3, h, w)` -> float32 `(pixels / 255 - mean) / std`, memory layout kept."""

    def __init__(self, mean, std):
        super().__init__()
        mean, std = torch.tensor(mean).view(1, 3, 1, 1), torch.tensor(std).view(1, 3, 1, 1)
        self.register_buffer("shift", -mean / std, persistent=False)
        self.register_buffer("scale", 1 / (255 * std), persistent=False)

    def forward(self, pixels):
        return torch.addcmul(self.shift, pixels.float(), self.scale)
