"""From the stored bytes to what a network sees."""

import itertools
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import torch

from utils.data.photos import SIZE

RESIDENT_SHARE = 0.5  # of a GPU's free memory
AHEAD = 2  # batches that are gathered while the network computes


class Images:
    """Letterboxed images, by the batch on a device.

    A GPU gets all of them once, if they take at most half of its free memory (FASCODE is 2 GB); otherwise a thread gathers the
    next batches from the arrays. A CPU, which would compute meanwhile itself, has each gathered when it is its turn.

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

    def fetch(self, batches):
        """An iterator: of each batch uint8 `(B, 3, 224, 224)` on the device, channels last in memory. Args: a list of indices,
        int64 `(B,)`, on the CPU."""
        if self.resident is not None:
            return (self.resident[rows].permute(0, 3, 1, 2) for rows in placed(batches, self.device))
        gathered = (ahead if self.device.type == "cuda" else map)(self._gather, batches)
        return (to_device(pixels, self.device) for pixels in gathered)

    def _gather(self, rows):
        pixels = torch.from_numpy(self.pixels[rows.numpy()])
        return pixels.pin_memory() if self.device.type == "cuda" else pixels  # else the copy would wait


def ahead(function, items):
    """As `map`, but a thread works on the next `AHEAD` items meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        futures = (pool.submit(function, item) for item in items)
        waiting = deque(itertools.islice(futures, AHEAD))
        while waiting:
            value = waiting.popleft().result()
            waiting.extend(itertools.islice(futures, 1))
            yield value


def to_device(pixels, device):
    """uint8 array or tensor `(B, 224, 224, 3)` -> tensor `(B, 3, 224, 224)`, channels last in memory."""
    return torch.as_tensor(pixels).to(device, non_blocking=True).permute(0, 3, 1, 2)


def placed(batches, device):
    """Batches of indices on a device, copied at once. Args: a list of int64 tensors `(B,)`."""
    return torch.cat([torch.arange(0), *batches]).to(device).split(list(map(len, batches)))
