"""From the stored bytes to what a network sees."""

import torch
from torch import nn


class Normalize(nn.Module):
    """uint8 pixels `(B, 3, h, w)` -> float32 `(pixels / 255 - mean) / std`, memory layout kept."""

    def __init__(self, mean, std):
        super().__init__()
        mean, std = torch.tensor(mean).view(1, 3, 1, 1), torch.tensor(std).view(1, 3, 1, 1)
        self.register_buffer("shift", -mean / std, persistent=False)
        self.register_buffer("scale", 1 / (255 * std), persistent=False)

    def forward(self, pixels):
        return torch.addcmul(self.shift, pixels.float(), self.scale)
