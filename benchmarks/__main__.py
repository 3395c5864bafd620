"""Times the project against the published procedure, which benchmarks/reference.py writes anew."""

import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from typing import NamedTuple

from benchmarks.jobs import VIT_B_32, Job, spread, training_photos
from benchmarks.timing import Side, pair
from utils.attributes import read_attributes
from utils.cli import Parser, exit_code, number
from utils.errors import UserError
from utils.log import logger, start

AGREEMENT = 1e-3  # of the two sides' losses, in float32


class Work(NamedTuple):
    name: str
    reference: str  # side in benchmarks.works
    project: str
    batches: int  # of photos
    has_precision: bool


WORKS = [
    Work("read and letterbox photos, one core", "reference_letterbox", "project_letterbox", 1, False),
    Work("teacher, a training step", "reference_teacher", "project_teacher", 1, True),
    Work("student and soft teacher, an epoch", "reference_student", "project_student", 2, True),
    Work("validation of the teacher (*)", "plain_teacher", "project_validate_teacher", 2, True),
    Work("validation of the student (*)", "plain_student", "project_validate_student", 2, True),
]
TITLES = ("work", "precision", "reference s", "project s", "ratio", "images/s", "peak GB ref / proj")
COLUMNS = "| {:35} | {:9} | {:>11} | {:>9} | {:>5} | {:>8} | {:>18} |"


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
    attributes = read_attributes()
    with tempfile.TemporaryDirectory() as folder:
        photos = training_photos(args.data_dir, attributes, folder, 2 * args.batch_size)
        precisions = head(args)
        check_agreement(Job(spread(photos, 8), attributes, 8, VIT_B_32, "fp32", whole_greys=True))
        logger.info(COLUMNS.format(*TITLES))
        logger.info(COLUMNS.format(*["---", "---", *["--:"] * 5]))
        for work in [work for work in WORKS if args.only in work.name]:
            chosen = spread(photos, min(work.batches * args.batch_size, len(photos.names)))
            for precision in precisions if work.has_precision else ["fp32"]:
                job = Job(chosen, attributes, args.batch_size, VIT_B_32, precision)
                row(work, job, *pair(work.reference, work.project, job, args.turns))
    logger.info(
        "(*) the reference is nothing but a forward pass, in the project's precision, of batches that lie ready"
    )
    help_seconds = statistics.median(_help_seconds() for _ in range(args.turns))
    logger.info(f"python train.py --help: {help_seconds:.2f} s")


def head(args):
    """The conditions; returns the precisions to measure."""
    facts = Side("facts").stop().outputs[0]
    logger.info(f"{_processor()}, {facts['capability']}, {facts['threads']} threads")
    logger.info(f"precision auto: {facts['precision']} ({facts['reason']})")
    packages = ("torch", "transformers", "timm", "scikit-image", "numpy")
    versions = "  ".join(f"{name} {version(name)}" for name in packages)
    logger.info(f"python {platform.python_version()}  {versions}")
    logger.info(
        f"batches of {args.batch_size}; median of {args.turns} turns; photos: {args.data_dir or 'drawn'}"
    )
    chosen = facts["precision"] if args.precision == "auto" else args.precision
    return [chosen] if args.quick or chosen == "fp32" else ["fp32", chosen]


def check_agreement(job):
    """Both sides must compute the same: the losses of the first steps, in float32, on the same pixels."""
    for role in ("teacher", "student"):
        sides = [Side(f"{side}_{role}", job) for side in ("reference", "project")]
        for side in sides:
            side.turn()
        pairs = zip(*(side.stop().outputs for side in sides))
        apart = max(abs(one[key] - other[key]) for one, other in pairs for key in one)
        logger.info(f"{role}: the losses of two steps differ by {apart:.1e} at most")
        if not apart <= AGREEMENT:
            raise UserError(
                f"{role}: the project and the published procedure differ by more than {AGREEMENT}"
            )


def row(work, job, reference, project, ratio):
    """Print what was measured."""
    figures = (
        work.name,
        job.precision if work.has_precision else "",
        f"{reference.seconds:.3f}",
        f"{project.seconds:.3f}",
        f"{ratio:.2f}",
        f"{len(job.photos.names) / project.seconds:.1f}",
        f"{reference.peak / 1e9:.2f} / {project.peak / 1e9:.2f}",
    )
    logger.info(COLUMNS.format(*figures))


def _processor():
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(": ")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _help_seconds():
    begin = time.perf_counter()
    subprocess.run([sys.executable, "train.py", "--help"], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin


if __name__ == "__main__":
    sys.exit(exit_code(main))
