"""What the two sides of a work get. This module does not import torch."""

import os
from typing import NamedTuple

from utils.attributes import Attributes
from utils.dataset import Split, read_tables
from utils.sample_data import make_sample

# The shape of FashionCLIP, 151,277,313 weights: arguments of clip_model.clip_config.
VIT_B_32 = ((512, 2048, 12, 8), (768, 3072, 12, 12), 512, 49408)


class Job(NamedTuple):
    """What every side of a work gets."""

    photos: Split
    attributes: Attributes
    batch_size: int
    clip: tuple  # arguments of clip_model.clip_config
    precision: str  # of the project: "fp32" or "bf16"
    array: str = ""  # file of the letterboxed photos, where they are cached
    whole_greys: bool = False  # the reference sees the project's rounded pixels, for comparing losses

    def batches(self):
        """Ranges of the photos' indices."""
        indices = range(len(self.photos.names))
        return [indices[first : first + self.batch_size] for first in indices[:: self.batch_size]]


def training_photos(data_dir, attributes, folder, drawn):
    """The training photos of a data set; without one, photos of the size of real ones, 400 x 533, drawn into `folder`."""
    if data_dir is None:
        data_dir = os.path.join(folder, "photos")
        make_sample(data_dir, train=drawn, val=1)
    return read_tables(data_dir, attributes, ["train"])["train"]


def spread(photos, count):
    """That many photos of a data set, from its whole length."""
    return photos.rows([index * len(photos.names) // count for index in range(count)])
