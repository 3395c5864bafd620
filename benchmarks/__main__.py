"""Times the project against the published procedure, which benchmarks/reference.py writes anew."""

import statistics
import sys
import tempfile

from benchmarks import works
from benchmarks.timing import pair
from utils.base.cli import Parser, exit_code, number
from utils.base.hardware import choose_precision, machine, product_seconds
from utils.base.log import logger, start
from utils.data.attributes import read_attributes
from utils.data.dataset import read_tables
from utils.tools.sample import make_sample

FP32 = choose_precision("fp32", works.CPU)

LETTERBOX = works.reference_letterbox, works.project_letterbox
TRAINING = works.reference_training, works.project_training
WORKS = [  # name, the two sides, role of the network, batches of photos
    ("read and letterbox photos, one core", LETTERBOX, "", 1),
    ("teacher, a training step", TRAINING, "teacher", 1),
    ("student and soft teacher, an epoch", TRAINING, "student", 2),
]
HEADER = """\
| work                                | precision | reference s | project s | ratio | images/s | peak GB ref / proj |
| ---                                 | ---       |         --: |       --: |   --: |      --: |                --: |"""
ROW = "| {:35} | {:9} | {:11.3f} | {:9.3f} | {:5.2f} | {:8.1f} | {:>18} |"


# fmt: off
def get_args_parser():
    p = Parser(prog="python -m benchmarks", description=__doc__)
    p.add_argument("--data-dir", help="folder of a data set in the competition's layout; without it photos are drawn", metavar="DIR")
    p.add_argument("--batch-size", type=number(int, 1), default=64, help="images per step", metavar="N")
    p.add_argument("--turns", type=number(int, 1), default=3, help="of the two sides, in alternation", metavar="N")
    p.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of the project, besides fp32; auto: as train.py chooses")
    p.add_argument("--only", default="", help="the works whose names contain this", metavar="TEXT")
    p.switch(p, "--quick", "a check in a few minutes: batches of 8, two turns, only the precision that train.py would choose")
    return p
# fmt: on


def main(argv=None):
    args = get_args_parser().parse_args(argv)
    if args.quick:
        args.batch_size, args.turns = 8, 2
    start()
    precision = choose_precision(args.precision, works.CPU)
    machine(works.CPU, precision)
    photos = args.data_dir or "drawn photos"
    logger.info(f"batches of {args.batch_size}, medians of {args.turns} turns, {photos}")
    with tempfile.TemporaryDirectory() as folder:
        if not args.data_dir:
            make_sample(folder, train=2 * args.batch_size, val=1)
        attributes = read_attributes()
        photos = read_tables(args.data_dir or folder, attributes, ["train"])["train"]
        whole = works.Job(photos, attributes, args.batch_size, precision)
        say_peak()
        logger.info(HEADER)
        for name, sides, role, batches in [work for work in WORKS if args.only in work[0]]:
            job = whole.spread(batches * args.batch_size)._replace(role=role)
            if role and precision.name != "fp32" and not args.quick:
                row(name, sides, job._replace(precision=FP32), args.turns)
            row(name, sides, job, args.turns)


def say_peak():
    """What the machine can do in matrix products, with all threads: the limit for networks."""
    side = 1024
    seconds = product_seconds(works.CPU, side, side)
    fp32, bf16 = (2 * side**3 / each / 1e9 for each in seconds.values())
    logger.info(f"products of {side} x {side}: {fp32:.1f} GFLOP/s in fp32, {bf16:.1f} in bf16")


def row(name, sides, job, turns):
    """Measure, and print the medians."""
    reference, project = (side[-turns:] for side in pair(*sides, job, turns))
    seconds = [statistics.median(turn.seconds for turn in side) for side in (reference, project)]
    ratio = statistics.median(one.seconds / other.seconds for one, other in zip(reference, project))
    peaks = f"{reference[-1].peak / 1e9:.2f} / {project[-1].peak / 1e9:.2f}"
    precision, speed = job.precision.name if job.role else "", len(job.photos.names) / seconds[1]
    logger.info(ROW.format(name, precision, *seconds, ratio, speed, peaks))


if __name__ == "__main__":
    sys.exit(exit_code(main))
