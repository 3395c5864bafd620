"""Views of the training photos: crops, flips and colours, by number."""

import hashlib
from collections import namedtuple

import numpy as np
import torch
import torch.nn.functional as F

from utils.data.photos import SIZE
from utils.data.pixels import placed

NUMBERS = 8  # random ones, 0 to 1, that make a view: flip, four for the crop, three for the colours


# The values of `utils.base.cli.Parser.view_options`.
VIEW_OPTIONS = "views views_seed flip crop_scale crop_ratio crop_to_box color_jitter"
ViewOptions = namedtuple("ViewOptions", VIEW_OPTIONS)


def view_options(args):
    """Those of a command line."""
    return ViewOptions(*(getattr(args, name) for name in ViewOptions._fields))


class Views:
    """The views that the options ask for. View 0 is the photo itself; view k of row i is a pure function of
    (seed, k, i) and the options. That teacher and student see the very same ones, for many epochs,
    is what makes distillation work (Beyer et al., arXiv:2106.05237); kept as a seed as in TinyViT (arXiv:2207.10666, section 3).

    Args: `options`, ViewOptions; `boxes` of the training photos, see `utils.data.dataset.Table`.
    """

    def __init__(self, options, boxes=None):
        self.options, self.count = options, options.views
        self.boxes = torch.from_numpy(boxes) if options.crop_to_box else None
        # What all views depend on, besides the photos and their order; stands in files of logits.
        self.key = {name: value for name, value in options._asdict().items() if name != "views"}
        if options.crop_to_box:
            self.key["boxes"] = hashlib.sha256(boxes.tobytes()).hexdigest()

    def key_of(self, number):
        """What a view depends on besides the photos; None for the photos themselves."""
        return [self.key, number] if number else None

    def view(self, images, number):
        """A `View` of the training `utils.data.pixels.Images`, the number times which all begin again; for number 0 these themselves."""
        return View(self, number % self.count, images) if number % self.count else images


class View:
    """One view of some images, by the batch on a device, with what `utils.data.pixels.Images` has."""

    def __init__(self, views, number, images):
        self.number, self.images, self.device = number, images, images.device
        self.jitter = views.options.color_jitter
        self.key = images.key[0], views.key_of(number)
        # A row's numbers do not depend on how many rows there are.
        random = np.random.Generator(np.random.Philox(key=[views.options.views_seed, number]))
        numbers = torch.from_numpy(random.random((len(images), NUMBERS), dtype=np.float32))
        self.crops = _crops(numbers, views.options, views.boxes).to(self.device)
        self.colors = (1 + self.jitter * (2 * numbers[:, 5:] - 1)).to(self.device)

    def __len__(self):
        return len(self.images)

    def fetch(self, batches):
        """As `Images.fetch`: rounded to whole grey levels, so that all networks see the same."""
        return map(self._seen, placed(batches, self.device), self.images.fetch(batches))

    def _seen(self, rows, pixels):
        x, y = self.crops[rows].unbind(1)
        # By hand, since affine_grid multiplies matrices, in the precision of networks.
        edge = (2 * torch.arange(SIZE, device=self.device) + 1) / SIZE - 1
        x, y = torch.addcmul(x[:, :1], x[:, 1:], edge), torch.addcmul(y[:, :1], y[:, 1:], edge)
        shape = (len(x), SIZE, SIZE)
        grid = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], dim=3)
        pixels = F.grid_sample(pixels.float(), grid, align_corners=False)
        if self.jitter:
            pixels = _recolored(pixels, self.colors[rows])
        return pixels.round_().to(torch.uint8).contiguous(memory_format=torch.channels_last)


def _crops(numbers, options, boxes):
    """Where in the image each view lies: float32 `(N, 2, 2)`, along x and y its centre and half its length, where the
    image goes from -1 to 1; the length along x is negative where the view is mirrored.

    A crop's sides are `crop_scale` to 1 of the image's, their ratio up to `crop_ratio` or its inverse. With a box it
    lies between the box and the whole image, each edge somewhere on its own, and is filled up to a square.
    """
    flip, scale, ratio, x, y = numbers[:, :5].unbind(1)
    side = options.crop_scale + (1 - options.crop_scale) * scale
    ratio = options.crop_ratio ** (ratio - 0.5)
    sizes = torch.stack([side * ratio, side / ratio], dim=1).clamp(max=1)
    centres = (2 * torch.stack([x, y], dim=1) - 1) * (1 - sizes)
    if boxes is not None:
        edges = torch.tensor([-1.0, -1.0, 1.0, 1.0])  # of the image, left, top, right, bottom
        low, high = torch.lerp(edges, 2 * boxes / SIZE - 1, numbers[:, 1:5]).split(2, dim=1)
        has_box = ~torch.isnan(boxes[:, :1])
        sizes = torch.where(has_box, (high - low).amax(dim=1, keepdim=True) / 2, sizes)
        centres = torch.where(has_box, (low + high) / 2, centres)
    mirror = torch.where(flip < options.flip, -1.0, 1.0)
    sizes = torch.stack([mirror * sizes[:, 0], sizes[:, 1]], dim=1)
    return torch.stack([centres, sizes], dim=2)


def _recolored(pixels, factors):
    """Brightness, contrast and saturation, `(B, 3, h, w)` in 0..255, each times its factor, of `(B, 3)`."""
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)
    grey = pixels.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    pixels = pixels * brightness
    mean = (pixels * grey).sum(dim=1, keepdim=True).mean(dim=(2, 3), keepdim=True)
    pixels = torch.lerp(mean, pixels, contrast)
    return torch.lerp((pixels * grey).sum(dim=1, keepdim=True), pixels, saturation).clamp(0, 255)
