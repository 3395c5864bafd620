"""Cost as the work grows: the same steps of the student's training on 500, 2,000 and 11,203 drawn photos."""

import os
import sys
import tempfile
import time

from utils.logging import logger, start
from utils.options import Parser, number

from benchmarks.__main__ import CLIP_CONFIG
from benchmarks.timing import Job, Side
from utils.dataset import Table, load_pixels, read_tables
from utils.errors import exit_code
from utils.sample_data import make_sample

COLUMNS = "| {:>6} | {:>17} | {:>8} | {:>16} | {:>11} | {:>19} |"


def main(argv=None):
    p = Parser(prog="python -m benchmarks.growth", description=__doc__)
    p.add_argument(
        "--photos", type=number(int, 1), nargs="+", default=[500, 2000, 11203], help="how many", metavar="N"
    )
    p.add_argument("--batch-size", type=number(int, 1), default=64, help="images per step", metavar="N")
    p.add_argument("--turns", type=number(int, 1), default=3, help="of the steps", metavar="N")
    p.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the student")
    args = p.parse_args(argv)
    start()
    with tempfile.TemporaryDirectory() as folder:
        sample = os.path.join(folder, "photos")
        make_sample(sample, train=max(args.photos), val=1)
        table = read_tables(sample, ["train"])["train"]
        logger.info(
            f"{args.precision}, batches of {args.batch_size}, median of {args.turns} turns of 8 steps"
        )
        titles = [
            "photos",
            "letterbox ms each",
            "array GB",
            "training ms each",
            "memory GB",
            "memory + mapped GB",
        ]
        logger.info(COLUMNS.format(*titles))
        logger.info(COLUMNS.format(*["--:"] * len(titles)))
        for count in args.photos:
            row(count, table, folder, args)


def row(count, table, folder, args):
    part = Table(
        table.names[:count],
        {key: values[:count] for key, values in table.labels.items()},
        table.folder,
        table.stamps[:count],
    )
    begin = time.perf_counter()
    array = load_pixels({"train": part}, os.path.join(folder, str(count)))["train"].pixels
    letterbox = time.perf_counter() - begin
    side = Side(
        "project_growing",
        Job(part.paths(), part.labels, args.batch_size, CLIP_CONFIG, args.precision, array.filename),
    )
    for _ in range(args.turns):
        side.turn()
    result = side.stop()
    images = min(count, 8 * args.batch_size)
    logger.info(
        COLUMNS.format(
            count,
            f"{1000 * letterbox / count:.2f}",
            f"{array.nbytes / 1e9:.2f}",
            f"{1000 * result.seconds / images:.1f}",
            f"{result.anonymous / 1e9:.2f}",
            f"{result.peak / 1e9:.2f}",
        )
    )


if __name__ == "__main__":
    sys.exit(exit_code(main))
