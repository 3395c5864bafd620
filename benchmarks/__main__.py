"""Times the project against the published procedure, which benchmarks/reference.py writes anew."""

import platform
import re
import statistics
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Callable, NamedTuple

import torch

from benchmarks import works
from benchmarks.timing import SETTLING, pair
from utils.attributes import read_attributes
from utils.cli import Parser, exit_code, number
from utils.dataset import read_tables
from utils.errors import UserError
from utils.hardware import choose_precision
from utils.log import logger, start
from utils.sample_data import make_sample

AGREEMENT = 1e-3  # of the two sides' losses, in float32
FP32 = choose_precision("fp32", works.CPU)


class Work(NamedTuple):
    name: str
    reference: Callable  # side in benchmarks.works
    project: Callable
    role: str  # of the network; "" without one
    batches: int  # of photos


LETTERBOX = works.reference_letterbox, works.project_letterbox
TRAINING = works.reference_training, works.project_training
VALIDATION = works.plain_passes, works.project_validation
WORKS = [
    Work("read and letterbox photos, one core", *LETTERBOX, "", 1),
    Work("teacher, a training step", *TRAINING, "teacher", 1),
    Work("student and soft teacher, an epoch", *TRAINING, "student", 2),
    Work("validation of the teacher (*)", *VALIDATION, "teacher", 2),
    Work("validation of the student (*)", *VALIDATION, "student", 2),
]
HEADER = """\
| work                                | precision | reference s | project s | ratio | images/s | peak GB ref / proj |
| ---                                 | ---       |         --: |       --: |   --: |      --: |                --: |"""
ROW = "| {:35} | {:9} | {:11.3f} | {:9.3f} | {:5.2f} | {:8.1f} | {:>18} |"
NOTE = (
    "(*) the reference is nothing but a forward pass, in the project's precision, of batches that lie ready"
)


# fmt: off
def get_args_parser():
    p = Parser(prog="python -m benchmarks", description=__doc__)
    p.add_argument("--data-dir", help="folder of a data set in the competition's layout; without it photos are drawn", metavar="DIR")
    p.add_argument("--batch-size", type=number(int, 1), default=64, help="images per step", metavar="N")
    p.add_argument("--turns", type=number(int, 1), default=3, help="of the two sides, in alternation", metavar="N")
    p.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of the project, besides fp32; auto: as train.py chooses")
    p.add_argument("--only", default="", help="the works whose names contain this", metavar="TEXT")
    p.add_argument("--profile", choices=("reference", "project"), help="only show, by operator, where the time of this side goes", metavar="SIDE")
    p.switch(p, "--quick", "a check in a few minutes: batches of 8, two turns, only the precision that train.py would choose")
    return p
# fmt: on


def main(argv=None):
    args = get_args_parser().parse_args(argv)
    if args.quick:
        args.batch_size, args.turns = 8, 2
    start()
    precision = choose_precision(args.precision, works.CPU)
    head(args, precision)
    attributes = read_attributes()
    with tempfile.TemporaryDirectory() as folder:
        if not args.data_dir:
            make_sample(f"{folder}/photos", train=2 * args.batch_size, val=1)
        photos = read_tables(args.data_dir or f"{folder}/photos", attributes, ["train"])["train"]
        whole = works.Job(photos, attributes, args.batch_size, precision)
        if not args.profile:
            check_agreement(whole)
            logger.info(HEADER)
        for work in [work for work in WORKS if args.only in work.name]:
            job = whole.spread(work.batches * args.batch_size)._replace(role=work.role)
            if args.profile:
                profile(getattr(work, args.profile), job)
                continue
            if work.role and precision.name != "fp32" and not args.quick:
                row(work, job._replace(precision=FP32), args.turns)
            row(work, job, args.turns)
    logger.info(NOTE)


def head(args, precision):
    """The conditions."""
    cpu = Path("/proc/cpuinfo")
    model = re.search("model name\\s*: (.*)", cpu.read_text()) if cpu.exists() else None
    capability = re.search("capability usage: (.*)", torch.__config__.show())
    packages = ("torch", "transformers", "timm", "scikit-image", "numpy")
    versions = "  ".join(f"{name} {version(name)}" for name in packages)
    logger.info(
        f"{model[1] if model else platform.machine()}, {capability[1]}, {torch.get_num_threads()} threads\n"
        f"python {platform.python_version()}  {versions}\n"
        f"precision {args.precision}: {precision.name} ({precision.reason})\n"
        f"batches of {args.batch_size}; median of {args.turns} turns; photos: {args.data_dir or 'drawn'}"
    )


def profile(side, job):
    """Print torch.profiler's table of the work done once."""
    run = side(job)
    for _ in range(1 + SETTLING):
        run()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as record:
        run()
    logger.info(record.key_averages().table(sort_by="self_cpu_time_total", row_limit=20))


def check_agreement(job):
    """Both sides must compute the same: the losses of the first steps, in float32, on the same pixels."""
    job = job.spread(8)._replace(batch_size=8, precision=FP32, read=works.read_rounded)
    for role in ("teacher", "student"):
        steps = list(zip(*pair(*TRAINING, job._replace(role=role), turns=1)))
        apart = max(abs(one.losses[key] - other.losses[key]) for one, other in steps for key in one.losses)
        logger.info(f"{role}: the losses of {len(steps)} steps differ by {apart:.1e} at most")
        if not apart <= AGREEMENT:
            raise UserError(
                f"{role}: the project and the published procedure differ by more than {AGREEMENT}"
            )


def row(work, job, turns):
    """Measure, and print the medians."""
    sides = [side[-turns:] for side in pair(work.reference, work.project, job, turns)]
    reference, project = (statistics.median(turn.seconds for turn in side) for side in sides)
    ratio = statistics.median(one.seconds / other.seconds for one, other in zip(*sides))
    precision = job.precision.name if work.role else ""
    speed, peaks = len(job.photos.names) / project, " / ".join(f"{side[-1].peak / 1e9:.2f}" for side in sides)
    logger.info(ROW.format(work.name, precision, reference, project, ratio, speed, peaks))


if __name__ == "__main__":
    sys.exit(exit_code(main))
