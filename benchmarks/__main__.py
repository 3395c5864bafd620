"""Times the project against the published procedure, which benchmarks/reference.py writes anew."""

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from typing import NamedTuple

from utils.logging import logger, start
from utils.options import Parser, number

from benchmarks.timing import Job, Side, pair
from utils.dataset import read_tables
from utils.errors import UserError, exit_code
from utils.sample_data import make_sample

AGREEMENT = 1e-3  # of the two sides' losses, in float32

# ViT-B/32, the shape of FashionCLIP: 151,277,313 weights.
CLIP_CONFIG = {
    "text_config": dict(
        vocab_size=49408,
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=8,
        max_position_embeddings=77,
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=49407,
    ),
    "vision_config": dict(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        image_size=224,
        patch_size=32,
    ),
    "projection_dim": 512,
}


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


COLUMNS = "| {:34} | {:9} | {:>11} | {:>9} | {:>7} | {:>8} | {:>17} |"


# fmt: off
def get_args_parser():
    p = Parser(prog="python -m benchmarks", description=__doc__)
    p.add_argument("--data-dir", help="folder of a data set; without it photos are drawn", metavar="DIR")
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
    with tempfile.TemporaryDirectory() as folder:
        photos = read_tables(args.data_dir or draw_photos(folder, 2 * args.batch_size), ["train"])["train"]
        precisions = head(args)
        check_agreement(make_job(photos, 8, 8, "fp32", whole_greys=True))
        logger.info(
            COLUMNS.format(
                "work", "precision", "reference s", "project s", "ratio", "images/s", "peak GB ref / proj"
            )
        )
        logger.info(COLUMNS.format(*["---", "---", *["--:"] * 5]))
        for work in [work for work in WORKS if args.only in work.name]:
            images = min(work.batches * args.batch_size, len(photos.names))
            for precision in precisions if work.has_precision else ["fp32"]:
                job = make_job(photos, images, args.batch_size, precision)
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
    logger.info(
        f"python {platform.python_version()}  " + "  ".join(f"{name} {version(name)}" for name in packages)
    )
    logger.info(
        f"batches of {args.batch_size}; median of {args.turns} turns; photos: {args.data_dir or 'drawn'}"
    )
    chosen = facts["precision"] if args.precision == "auto" else args.precision
    return [chosen] if args.quick or chosen == "fp32" else ["fp32", chosen]


def check_agreement(job):
    """Both sides must compute the same: the losses of the first steps, in float32, on the same pixels."""
    for role in ("teacher", "student"):
        first, second = (Side(f"{side}_{role}", job) for side in ("reference", "project"))
        for side in (first, second):
            side.turn()
        pairs = zip(first.stop().outputs, second.stop().outputs)
        apart = max(abs(one[key] - other[key]) for one, other in pairs for key in one)
        logger.info(f"{role}: the losses of two steps differ by {apart:.1e} at most")
        if not apart <= AGREEMENT:
            raise UserError(
                f"{role}: the project and the published procedure differ by more than {AGREEMENT}"
            )


def make_job(photos, images, batch_size, precision, whole_greys=False):
    """The first photos of a data set, spread over it."""
    chosen = [index * len(photos.names) // images for index in range(images)]
    paths = photos.paths()
    labels = {key: values[chosen] for key, values in photos.labels.items()}
    return Job(
        [paths[i] for i in chosen], labels, batch_size, CLIP_CONFIG, precision, whole_greys=whole_greys
    )


def row(work, job, reference, project, ratio):
    images = len(job.paths)
    logger.info(
        COLUMNS.format(
            work.name,
            job.precision if work.has_precision else "",
            f"{reference.seconds:.3f}",
            f"{project.seconds:.3f}",
            f"{ratio:.2f}",
            f"{images / project.seconds:.1f}",
            f"{reference.peak / 1e9:.2f} / {project.peak / 1e9:.2f}",
        )
    )


def draw_photos(folder, images):
    """Photos of the size of real ones, 400 x 533."""
    make_sample(os.path.join(folder, "photos"), train=images, val=1)
    return os.path.join(folder, "photos")


def _processor():
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            return next(
                (line.split(": ")[1].strip() for line in file if line.startswith("model name")), "cpu"
            )
    return platform.processor() or platform.machine()


def _help_seconds():
    begin = time.perf_counter()
    subprocess.run([sys.executable, "train.py", "--help"], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin


if __name__ == "__main__":
    sys.exit(exit_code(main))
