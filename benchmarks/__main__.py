"""Times the project against the published procedure, which benchmarks/reference.py writes anew."""

import sys
import tempfile

import numpy as np

from benchmarks import works
from benchmarks.timing import pair
from utils.base.cli import Parser, exit_code
from utils.base.hardware import choose_precision, machine
from utils.base.log import logger, start
from utils.data.attributes import read_attributes
from utils.data.dataset import read_tables
from utils.tools.sample import make_sample

FP32 = choose_precision("fp32", works.CPU)

TRAINING = works.reference_training, works.project_training
WORKS = [  # name, the two sides, role of the network, batches of photos
    ("read and letterbox photos, one core", (works.reference_letterbox, works.project_letterbox), "", 1),
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
    p.add_argument("--only", default="", help="the works whose names contain this", metavar="TEXT")
    p.switch(p, "--quick", "a check in a few minutes: batches of 8, two turns in place of three, only the precision that train.py would choose")
    return p
# fmt: on


def main(argv=None):
    args = get_args_parser().parse_args(argv)
    size, turns = (8, 2) if args.quick else (64, 3)
    start(shown="DEBUG")
    precision = choose_precision("auto", works.CPU)
    machine(works.CPU, precision)
    logger.info(f"batches of {size}, medians of {turns} turns, {args.data_dir or 'drawn photos'}\n{HEADER}")
    with tempfile.TemporaryDirectory() as folder:
        if not args.data_dir:
            make_sample(folder, train=2 * size, val=1)
        attributes = read_attributes()
        photos = read_tables(args.data_dir or folder, attributes, ["train"])["train"]
        for name, sides, role, batches in [work for work in WORKS if args.only in work[0]]:
            job = works.Job(photos, attributes, size, precision, role).spread(batches * size)
            if role and precision.name != "fp32" and not args.quick:
                row(name, sides, job._replace(precision=FP32), turns)
            row(name, sides, job, turns)


def row(name, sides, job, turns):
    """Measure, and print the medians."""
    reference, project = (np.array(side[-turns:]) for side in pair(*sides, job, turns))
    seconds = np.median([reference[:, 0], project[:, 0]], axis=1)
    peaks = f"{reference[-1, 1] / 1e9:.2f} / {project[-1, 1] / 1e9:.2f}"
    precision, speed = job.precision.name if job.role else "", len(job.photos.names) / seconds[1]
    logger.info(
        ROW.format(name, precision, *seconds, np.median(reference[:, 0] / project[:, 0]), speed, peaks)
    )


if __name__ == "__main__":
    sys.exit(exit_code(main))
