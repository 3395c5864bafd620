"""How long the published procedure and this one take until a student has the score that the published recipe ends with.

The scores by epoch are those of benchmarks.accuracy, on `photos`, of its rows "recipe" and "best", which a small teacher
taught. Their times are measured here, with a teacher of FashionCLIP's shape and random weights: of the published procedure
those of a few steps and of validation, times their number; of this one that of the whole command, with nothing in the
cache, until the end of the epoch that first has the score.
"""

import os
import statistics
import sys
import tempfile
import time

import numpy as np

from benchmarks import works
from benchmarks.accuracy import ROWS, add_labels, run_train
from benchmarks.accuracy_report import read_results, runs_of, set_axes
from benchmarks.timing import process
from benchmarks.works import Job
from utils.base.cli import Parser, exit_code, new_file, number
from utils.base.errors import UserError
from utils.base.files import check_new
from utils.base.hardware import choose_precision, machine
from utils.base.log import logger, start
from utils.data.attributes import read_attributes
from utils.data.dataset import read_tables
from utils.evaluation import plots
from utils.nets.checkpoint import save_checkpoint


# fmt: off
def get_args_parser():
    p = Parser(prog="python -m benchmarks.time_to_score", description=__doc__.splitlines()[0])
    p.add_argument("--data-dir", required=True, help="folder of a data set in the competition's layout", metavar="DIR")
    p.add_argument("--results", default="docs/accuracy.jsonl", help="of benchmarks.accuracy: the scores by epoch", metavar="FILE")
    p.add_argument("--output", type=new_file, default="docs/time_to_score.png", help="picture to write", metavar="FILE")
    p.add_argument("--batch-size", type=number(int, 1), default=64, help="images per step of the published procedure; its recipe has 128", metavar="N")
    p.add_argument("--turns", type=number(int, 1), default=2, help="of two of its steps each, of which the median counts", metavar="N")
    return p
# fmt: on


def main(argv=None):
    args = get_args_parser().parse_args(argv)
    check_new(args.output, plots.is_figure)
    start()
    rows = {row.name: row for row in ROWS if row.data == "photos"}
    published, ours = (scores(rows[name], args.results) for name in ("recipe", "best"))
    add_labels("photos", args.data_dir, args.results)  # refuses other photos than the scores are of
    if ours.max() < published[-1]:
        raise UserError(f"{args.results}: best never has the recipe's last score, {published[-1]:.4f}")
    epochs = 1 + int(np.argmax(ours >= published[-1]))
    attributes = read_attributes()
    tables = read_tables(args.data_dir, attributes, ["train", "val"])
    precision = choose_precision("auto", works.CPU)
    machine(works.CPU, precision)
    job = Job(tables["train"], attributes, args.batch_size, precision, "student")
    each = reference_epoch(job, tables["val"], args.turns)
    ends = own_epochs(rows["best"], epochs, job, args)
    theirs = each * np.arange(1, 1 + len(published))
    logger.info(
        f"mean Top-1 {published[-1]:.4f}: published procedure {theirs[-1]:.0f} s, {len(published)} epochs of {each:.0f} s; "
        f"here {ends[-1]:.0f} s, {epochs} epochs of {np.diff(ends, prepend=0).round().astype(int).tolist()} s; "
        f"{theirs[-1] / ends[-1]:.1f} x"
    )
    plots.save(draw({"published procedure": (theirs, published), "here": (ends, ours[:epochs])}), args.output)


def scores(row, path):
    """Mean Top-1 by epoch, the mean over a row's seeds."""
    runs = runs_of(row, read_results(path))
    if not runs:
        raise UserError(
            f"{path}: no run of {row.name} on photos; benchmarks.accuracy makes it, see docs/accuracy.md"
        )
    return np.mean([run["val_top1"] for run in runs.values()], axis=0)


def reference_epoch(job, val, turns):
    """Seconds of an epoch of the published procedure: those of some of its photos, times all."""
    seconds = 0
    for prepare, photos, batches in (
        (works.reference_training, job.photos, 2),
        (works.reference_validation, val, 1),
    ):
        part = job._replace(photos=photos).spread(batches * job.batch_size)
        with process(prepare, part) as turn:
            turn()  # to warm up
            median = statistics.median(turn().seconds for _ in range(turns))
        seconds += median * len(photos.names) / len(part.photos.names)
    return seconds


def own_epochs(row, epochs, job, args):
    """Seconds from the command to the end of each epoch: the first ones of a run of train.py."""
    with tempfile.TemporaryDirectory() as work:
        net = works.new_teacher(job)
        os.makedirs(os.path.join(work, "model", "clip"))
        prior = {key: [0.0] * size for key, size in job.attributes.sizes.items()}
        meta = {**net.describe(), "attributes": job.attributes.to_meta(), "prior": prior}
        save_checkpoint(os.path.join(work, "model", "clip", "model_1.pt"), net, meta)
        options = f"{row.command} --epochs {epochs} --teacher clip/model_1.pt --version own --cache-dir cache"
        options = f"{options} --device cpu --precision {job.precision.name} --data-dir".split()
        begin = time.perf_counter()
        run_train([*options, os.path.abspath(args.data_dir)], work, "nothing is kept of it")
        whole = time.perf_counter() - begin
        seconds = plots.read_metrics(os.path.join(work, "logs", "own"))["seconds"].to_numpy()
    return whole - seconds.sum() + seconds.cumsum()


def draw(curves):
    """Score over time. Args: name -> (seconds, scores), arrays by epoch."""
    figure, (ax,) = plots.panels("", 1, 1, 7, 4)
    for (name, (seconds, values)), color in zip(curves.items(), plots.COLORS[1:]):
        ax.plot(seconds / 60, values, label=name, color=color, marker="o")
    ax.axhline(curves["published procedure"][1][-1], color=plots.COLORS[0], linestyle=":")
    set_axes(ax, "minutes", "mean Top-1")
    ax.legend()
    return figure


if __name__ == "__main__":
    sys.exit(exit_code(main))
