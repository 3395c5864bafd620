"""From the stored bytes to what a network sees."""

import numpy as np
import torch

from utils.data.photos import SIZE

RESIDENT_SHARE = 0.5  # of a GPU's free memory


class Images:
    """Letterboxed images, by the batch on a device.

    A GPU gets all of them once, if they take at most half of its free memory (FASCODE is 2 GB); otherwise, and on
    CPUs, each batch is gathered from the arrays.

    Args: `arrays`, `utils.data.photo_cache.Pixels`, one after the other.
    """

    number = 0  # of the view, see `utils.data.views.View`

    def __init__(self, arrays, device):
        self.arrays = arrays
        self.device = device
        self.starts = np.cumsum([0, *map(len, arrays)])
        self.resident = None
        if device.type == "cuda" and self._bytes() <= RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
            self.resident = torch.empty((len(self), SIZE, SIZE, 3), dtype=torch.uint8, device=device)
            for rows in torch.arange(len(self)).split(1024):  # what is gathered takes main memory
                self.resident[rows.to(device)] = torch.from_numpy(self._gather(rows.numpy())).to(device)

    @property
    def key(self):
        """(Of the photos in their order, of the view: None)."""
        return [pixels.key for pixels in self.arrays], None

    def _bytes(self):
        return sum(array.nbytes for array in self.arrays)

    def __len__(self):
        return int(self.starts[-1])

    def fetch(self, indices):
        """int64 tensor `(B,)` on the CPU -> uint8 `(B, 3, 224, 224)` on the device, channels last in memory."""
        if self.resident is None:
            return to_device(self._gather(indices.numpy()), self.device)
        return self.resident[indices.to(self.device)].permute(0, 3, 1, 2)

    def _gather(self, rows):
        pixels = np.empty((len(rows), SIZE, SIZE, 3), np.uint8)
        for array, start in zip(self.arrays, self.starts):
            mine = (rows >= start) & (rows < start + len(array))
            pixels[mine] = array[rows[mine] - start]
        return pixels


def on_device(data, device):
    """The parts of a data set, dict split -> `utils.data.dataset.Split`, with `Images` as their pixels.

    Args: `data` of `utils.data.dataset.with_unlabelled`.
    """
    return {name: split._replace(pixels=Images(split.pixels, device)) for name, split in data.items()}


def to_device(pixels, device):
    """uint8 array `(B, 224, 224, 3)` -> tensor `(B, 3, 224, 224)`, channels last in memory."""
    return torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2)
