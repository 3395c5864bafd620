"""Writes the views of the training photos as arrays, so that any network can be the teacher."""

import json
import os
import sys

import numpy as np
import torch

from utils.base.cli import Parser, exit_code
from utils.base.errors import UserError
from utils.base.files import atomic, check_new
from utils.data.photos import SIZE
from utils.data.views import Views, view_options


# fmt: off
def get_args_parser():
    p = Parser(prog="python -m utils.tools.write_views", description="Write the views of the training photos as arrays, for a teacher of any kind.")
    p.add_argument("--output", required=True, help="folder to write view_0.npy, view_1.npy ... into, uint8 (N, 224, 224, 3), and views.npz, to which the teacher's logits are added", metavar="DIR")
    p.data_options(p)
    p.unlabelled_option(p)
    p.view_options(p)
    return p


def main(argv=None):
    from utils.base import log
    from utils.base.log import logger
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
    try:
        os.makedirs(args.output, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {args.output}: {error.strerror}; name another folder") from error
    arrays = [os.path.join(args.output, f"view_{number}.npy") for number in range(views.count)]
    told = os.path.join(args.output, "views.npz")
    for path in arrays:
        check_new(
            path, lambda head: head.startswith(b"\x93NUMPY") and f", {SIZE}, {SIZE}, 3)".encode() in head
        )
    # One to which logits were added is somebody's work.
    check_new(told, lambda head: head.startswith(b"PK") and np.load(told).files == ["image_name", "views"])
    for number, path in enumerate(arrays):
        view = views.view(images, number)
        with atomic(path, binary=True) as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(view), SIZE, SIZE, 3)}
            np.lib.format.write_array_header_1_0(file, header)
            for rows in torch.arange(len(view)).split(256):
                file.write(view.fetch(rows).permute(0, 2, 3, 1).numpy().tobytes())
    with atomic(told, binary=True) as file:
        np.savez(file, image_name=np.array(names), views=json.dumps(views.key))
    logger.info(f"{args.output}: {views.count} views of {len(names)} photos")


if __name__ == "__main__":
    sys.exit(exit_code(main))
