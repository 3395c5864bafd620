"""From the stored bytes to what a network sees."""

import torch
from torch import nn

RESIDENT_SHARE = 0.5  # of a GPU's free memory


class Images:
    """Letterboxed images, by the batch on a device.

    A GPU gets all of them once, if they take at most half of its free memory (FASCODE is 2 GB); otherwise, and on
    CPUs, each batch is gathered from the array.

    Args: `array` uint8 `(N, 224, 224, 3)`, which may be memory-mapped and read-only.
    """

    def __init__(self, array, device):
        self.array = array
        self.device = device
        self.resident = None
        if device.type == "cuda" and array.nbytes <= RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
            self.resident = torch.empty(array.shape, dtype=torch.uint8, device=device)
            for first in range(0, len(array), 1024):  # in parts, since a copy of the file takes main memory
                part = array[first : first + 1024].copy()
                self.resident[first : first + 1024] = torch.from_numpy(part).to(device)

    def __len__(self):
        return len(self.array)

    def fetch(self, indices):
        """int64 tensor `(B,)` on the CPU -> uint8 `(B, 3, 224, 224)` on the device, channels last in memory."""
        if self.resident is None:
            return to_device(self.array[indices.numpy()], self.device)
        return self.resident[indices.to(self.device)].permute(0, 3, 1, 2)


def on_device(data, device):
    """The parts of a data set, dict split -> `utils.dataset.Split`, with `Images` as their pixels."""
    return {name: split._replace(pixels=Images(split.pixels, device)) for name, split in data.items()}


def to_device(pixels, device):
    """uint8 array `(B, 224, 224, 3)` -> tensor `(B, 3, 224, 224)`, channels last in memory."""
    return torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2)


class Normalize(nn.Module):
    """uint8 pixels `(B, 3, h, w)` -> float32 `(pixels / 255 - mean) / std`, memory layout kept."""

    def __init__(self, mean, std):
        super().__init__()
        mean, std = torch.tensor(mean).view(1, 3, 1, 1), torch.tensor(std).view(1, 3, 1, 1)
        self.register_buffer("shift", -mean / std, persistent=False)
        self.register_buffer("scale", 1 / (255 * std), persistent=False)

    def forward(self, pixels):
        return torch.addcmul(self.shift, pixels.float(), self.scale)
