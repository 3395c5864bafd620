"""From the stored bytes to what a network sees."""

import torch

from utils.data.photos import SIZE

RESIDENT_SHARE = 0.5  # of a GPU's free memory


class Images:
    """Letterboxed images, by the batch on a device.

    A GPU gets all of them once, if they take at most half of its free memory (FASCODE is 2 GB); otherwise, and on
    CPUs, each batch is gathered from the arrays.

    Args: `pixels`, `utils.data.photo_cache.Pixels`, or an array uint8 `(N, 224, 224, 3)`.
    """

    number = 0  # of the view, see `utils.data.views.View`

    def __init__(self, pixels, device):
        self.pixels, self.device, self.resident = pixels, device, None
        needed = len(pixels) * SIZE * SIZE * 3
        if device.type == "cuda" and needed <= RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
            self.resident = torch.empty((len(self), SIZE, SIZE, 3), dtype=torch.uint8, device=device)
            for rows in torch.arange(len(self)).split(1024):  # what is gathered takes main memory
                self.resident[rows.to(device)] = torch.from_numpy(pixels[rows.numpy()]).to(device)

    @property
    def key(self):
        """(Of the photos in their order, of the view: None)."""
        return self.pixels.key, None

    def __len__(self):
        return len(self.pixels)

    def fetch(self, indices):
        """int64 tensor `(B,)` on the CPU -> uint8 `(B, 3, 224, 224)` on the device, channels last in memory."""
        if self.resident is None:
            return to_device(self.pixels[indices.numpy()], self.device)
        return self.resident[indices.to(self.device)].permute(0, 3, 1, 2)


def to_device(pixels, device):
    """uint8 array `(B, 224, 224, 3)` -> tensor `(B, 3, 224, 224)`, channels last in memory."""
    return torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2)
