"""Trains students in several ways and compares their scores. Without a folder, only tells those that are there."""

import itertools
import json
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

import train
from benchmarks import recipe
from utils.base import log
from utils.base.cli import Parser, exit_code, number
from utils.base.files import atomic
from utils.evaluation import plots
from utils.losses import LOSS_VERSION

SEED = 214  # the first
SCORES = "val_top1", "val_acsa"
HEADER = "||Top-1|ACSA|seeds|machine|\n|---|--:|--:|--:|---|"

# Options of train.py; of two of the same name the last one counts.
TEACHER = (
    f"{recipe('best-teacher')} --kd-learning True --distillation-type none --student lite0 "
    "--lr 5e-4 --min-lr 1e-6 --weight-decay 0.05 --batch-size 32 --epochs 6"
)
STUDENT = f"{recipe('student')} --student-weights none"
BEST = f"{recipe('best')} --student-weights none --epochs 10 --batch-size 32 --optimizer Muon --lr 3e-3"
ADAMW = f"{BEST} --optimizer AdamW --lr 1e-3"
ALONE = "--distillation-type none --teacher none"
TAUGHT_BY = "--teacher photos-teacher-214/model_6.pt"
SMOOTHED = "--teacher photos-smoothed-teacher-214/model_6.pt"
SKEWED = "--teacher skewed-teacher-214/model_6.pt"
SHOP = "--attributes ../shop/shop.json --student lite0"


class Row(NamedTuple):
    """One way to train."""

    data: str  # photos, skewed or shop, a folder in that of the work
    name: str
    options: str
    seeds: int = 99  # at most
    drawn: bool = False  # in the picture

    @property
    def version(self):
        """Of its runs, before the seed."""
        return re.sub(r"\W+", "-", f"{self.data} {self.name}")

    @property
    def command(self):
        """Its options, each once."""
        words = self.options.split()
        options = dict(zip(words[::2], words[1::2]))
        return " ".join(f"{name} {options[name]}" for name in sorted(options) if name != "--seed")


# fmt: off
ROWS = [  # teachers before their students
    Row("skewed", "teacher", f"{TEACHER} --ls 0.1", seeds=1),
    Row("skewed", "recipe", f"{STUDENT} {SKEWED}"),
    Row("skewed", "views, schedule, batches of 32", f"{ADAMW} --logit-adjustment 0 {ALONE}"),
    Row("skewed", "+ teacher's logits", f"{ADAMW} --logit-adjustment 0 {SKEWED}"),
    Row("skewed", "+ adjusted logits", f"{ADAMW} {SKEWED}"),
    Row("skewed", "+ Muon = best", f"{BEST} {SKEWED}"),
    Row("skewed", "unsmoothed teacher", TEACHER, seeds=1),
    Row("skewed", "best, unsmoothed teacher", f"{BEST} --teacher skewed-unsmoothed-teacher-214/model_6.pt"),
    Row("skewed", "the same, crops of 0.85", f"{BEST} --teacher skewed-unsmoothed-teacher-214/model_6.pt --crop-scale 0.85"),
    Row("skewed", "the same, batches of 16", f"{BEST} --teacher skewed-unsmoothed-teacher-214/model_6.pt --crop-scale 0.85 --batch-size 16 --lr 2e-3"),
    Row("photos", "smoothed teacher", f"{TEACHER} --logit-adjustment 0 --ls 0.1", seeds=1),
    Row("photos", "teacher", f"{TEACHER} --logit-adjustment 0", seeds=1),
    Row("photos", "recipe", f"{STUDENT} {SMOOTHED}", drawn=True),
    Row("photos", "best without a teacher", f"{BEST} {ALONE}", drawn=True),
    Row("photos", "best, smoothed teacher", f"{BEST} {SMOOTHED}", drawn=True),
    Row("photos", "best", f"{BEST} {TAUGHT_BY}", drawn=True),
    Row("photos", "best, crops of 0.85", f"{BEST} {TAUGHT_BY} --crop-scale 0.85"),
    Row("photos", "the same, batches of 16", f"{BEST} {TAUGHT_BY} --crop-scale 0.85 --batch-size 16 --lr 2e-3"),
    Row("photos", "best, 60 epochs, smaller crops", f"{BEST} {TAUGHT_BY} --epochs 60 --crop-scale 0.4", seeds=1, drawn=True),
    Row("shop", "own", f"{recipe('own')} {SHOP}"),
    Row("shop", "best, as long", f"{recipe('best')} {SHOP} --epochs 10 --batch-size 32 --lr 5e-4 --teacher shop-own-214/best.pt"),
]


def get_args_parser():
    p = Parser(prog="python -m benchmarks.accuracy", description=__doc__)
    p.add_argument("folder", nargs="?", help="with photos/ and skewed/ of benchmarks.photos, and shop/ of benchmarks.shop, with its shop.json; it gets the runs", metavar="FOLDER")
    p.add_argument("--results", default="docs/accuracy.jsonl", help="a line a run; beside it goes the picture, .png", metavar="FILE")
    p.add_argument("--only", default="", help="train the rows whose data and name contain this, such as 'shop own'", metavar="TEXT")
    p.add_argument("--machine", default="", help="what the table calls this machine", metavar="TEXT")
    p.add_argument("--seeds", type=number(int, 1), default=3, help=f"of each row, from {SEED} on", metavar="N")
    return p
# fmt: on


def main(argv=None):
    args = get_args_parser().parse_args(argv)
    path = os.path.abspath(args.results)
    lines = Path(path).read_text(encoding="utf-8").splitlines() if os.path.exists(path) else []
    results = {(one["data"], one["row"], one["seed"]): one for one in map(json.loads, lines)}
    if args.folder:
        # No run of another loss is taken for one of this.
        runs = os.path.join(args.folder, f"loss-{LOSS_VERSION}")
        os.makedirs(runs, exist_ok=True)
        os.chdir(runs)
        for seed, row in itertools.product(range(SEED, SEED + args.seeds), ROWS):
            if seed < SEED + row.seeds and args.only in f"{row.data} {row.name}":
                results[row.data, row.name, seed] = {**make(row, seed), "machine": args.machine}
                with atomic(path) as file:
                    file.writelines(json.dumps(one) + "\n" for one in results.values())
    log.start()
    report(results.values(), os.path.splitext(path)[0] + ".png")


def make(row, seed):
    """Train, or do what is still to be done of it. Returns: what is kept of the run, plain values."""
    version = f"{row.version}-{seed}"
    own = f"--version {version} --seed {seed} --data-dir ../{row.data} --keep 1 --resume True"
    train.main([*row.command.split(), *own.split()])
    metrics = plots.read_run(f"logs/{version}").metrics
    scores = {name: metrics[name].round(4).tolist() for name in SCORES}
    about = {"data": row.data, "row": row.name, "seed": seed, "options": row.command}
    return {**about, **scores, "loss_version": LOSS_VERSION}


# --- the report --------------------------------------------------------------------------------------


def report(results, picture):
    """Print the tables, and draw Top-1 on photos by epoch. Args: `results`, dicts of `make`; `picture`, file to write."""
    figure, (ax,) = plots.panels("", 1, 1, 8, 5)
    tables, colors = {row.data: [HEADER] for row in ROWS}, iter(plots.COLORS[1:])
    for row in ROWS:
        wanted = {"data": row.data, "row": row.name, "options": row.command}.items()
        runs = [one for one in results if wanted <= one.items()]
        if runs:
            tables[row.data].append(line(row, runs))
        if runs and row.drawn:
            values = np.mean([one["val_top1"] for one in runs], axis=0)
            ax.plot(range(1, 1 + len(values)), values, ".-", label=row.name, color=next(colors))
    for data, lines in tables.items():
        log.logger.info("\n".join([f"\n**{data}**\n", *lines]))
    ax.set(title="photos: Top-1", xlabel="epoch", ylim=(0.5, 0.87))
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.grid(alpha=0.25)
    ax.legend(*ax.get_legend_handles_labels())
    plots.save(figure, picture)


def line(row, runs):
    """Of a table: scores of the last epoch, mean ± standard deviation over the seeds."""
    is_older = any(one["loss_version"] != LOSS_VERSION for one in runs)
    cells = [f"{row.name} (older loss)" if is_older else row.name]
    for name in SCORES:
        values = [one[name][-1] for one in runs]
        spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
        cells.append(f"{np.mean(values):.4f}{spread}")
    machines = "; ".join(sorted({one["machine"] for one in runs}))
    return f"|{'|'.join(cells)}|{len(runs)}|{machines}|"


if __name__ == "__main__":
    sys.exit(exit_code(main))
