"""Writes the views of the training photos as arrays, so that any network can be the teacher."""

import json
import os
import sys

import numpy as np
import torch

from utils.base.cli import Parser, exit_code
from utils.base.files import atomic
from utils.data.photo_cache import write_header
from utils.data.photos import SIZE
from utils.data.views import Views, view_options


# fmt: off
def get_args_parser():
    p = Parser(prog="python -m utils.tools.write_views", description="Write the views of the training photos as arrays, for a teacher of any kind.")
    p.add_argument("--output", required=True, help="new folder to write view_0.npy, view_1.npy ... into, uint8 (N, 224, 224, 3), and views.npz, to which the teacher's logits are added", metavar="DIR")
    p.data_options(p)
    p.unlabelled_option(p)
    p.view_options(p)
    return p


def main(argv=None):
    from utils.base import log
    from utils.data.attributes import read_attributes
    from utils.data.dataset import load_training_data, read_all_tables
    from utils.data.pixels import Images

    args = get_args_parser().parse_args(argv)
    log.start()
    attributes = read_attributes(args.attributes)
    tables, shares = read_all_tables(args, attributes), attributes.layout.shares
    tables, pixels = load_training_data(tables, args.cache_dir, shares, args.skip_unreadable)
    names, images = tables["train"].names, Images(pixels["train"], torch.device("cpu"))
    views = Views(view_options(args), tables["train"].boxes)
    os.makedirs(args.output)  # a new one: nothing of a user's is replaced
    for number in range(views.count):
        view = views.view(images, number)
        with atomic(os.path.join(args.output, f"view_{number}.npy"), binary=True) as file:
            write_header(file, np.uint8, (len(view), SIZE, SIZE, 3))
            for pixels in view.fetch(torch.arange(len(view)).split(256)):
                file.write(pixels.permute(0, 2, 3, 1).numpy().tobytes())
    with atomic(os.path.join(args.output, "views.npz"), binary=True) as file:
        np.savez(file, image_name=np.array(names), views=json.dumps(views.key))
    log.logger.info(f"{args.output}: {views.count} views of {len(names)} photos")


if __name__ == "__main__":
    sys.exit(exit_code(main))
