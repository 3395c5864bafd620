"""Cost as the work grows: the same steps of the student's training on 500, 2,000 and 11,203 drawn photos."""

import os
import sys
import tempfile
import time

from benchmarks.jobs import VIT_B_32, Job, training_photos
from benchmarks.timing import Side
from utils.attributes import read_attributes
from utils.cli import Parser, exit_code, number
from utils.dataset import load_pixels
from utils.log import logger, start

TITLES = ("photos", "letterbox ms each", "array GB", "training ms each", "memory GB", "memory + mapped GB")
COLUMNS = "| {:>6} | {:>17} | {:>8} | {:>16} | {:>9} | {:>18} |"


# fmt: off
def get_args_parser():
    p = Parser(prog="python -m benchmarks.growth", description=__doc__)
    p.add_argument("--photos", type=number(int, 1), nargs="+", default=[500, 2000, 11203], help="how many", metavar="N")
    p.add_argument("--batch-size", type=number(int, 1), default=64, help="images per step", metavar="N")
    p.add_argument("--turns", type=number(int, 1), default=3, help="of the steps", metavar="N")
    p.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the student")
    return p
# fmt: on


def main(argv=None):
    args = get_args_parser().parse_args(argv)
    start()
    attributes = read_attributes()
    with tempfile.TemporaryDirectory() as folder:
        table = training_photos(None, attributes, folder, max(args.photos))
        logger.info(
            f"{args.precision}, batches of {args.batch_size}, median of {args.turns} turns of 8 steps"
        )
        logger.info(COLUMNS.format(*TITLES))
        logger.info(COLUMNS.format(*["--:"] * len(TITLES)))
        for count in args.photos:
            row(table.rows(range(count)), attributes, os.path.join(folder, str(count)), args)


def row(photos, attributes, cache, args):
    """Measure with these photos, and print it."""
    count = len(photos.names)
    begin = time.perf_counter()
    array = load_pixels({"train": photos}, cache)["train"].pixels
    letterbox = time.perf_counter() - begin
    job = Job(photos, attributes, args.batch_size, VIT_B_32, args.precision, array.filename)
    side = Side("project_growing", job)
    for _ in range(args.turns):
        side.turn()
    result = side.stop()
    figures = (
        f"{1000 * letterbox / count:.2f}",
        f"{array.nbytes / 1e9:.2f}",
        f"{1000 * result.seconds / min(count, 8 * args.batch_size):.1f}",
        f"{result.anonymous / 1e9:.2f}",
        f"{result.peak / 1e9:.2f}",
    )
    logger.info(COLUMNS.format(count, *figures))


if __name__ == "__main__":
    sys.exit(exit_code(main))
