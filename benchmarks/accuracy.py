"""Trains students in several ways, and says which of them pay. Without photos, only writes tables and picture anew."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.accuracy_report import LABELS, WATCHED, newest, read_results, write_report
from utils.base import log
from utils.base.cli import Parser, cache_folder, exit_code, number
from utils.base.errors import Interrupted, UserError
from utils.base.files import atomic
from utils.base.signals import StopSignals
from utils.data.attributes import read_attributes
from utils.data.dataset import load_pixels, read_tables
from utils.data.tables import count_classes
from utils.evaluation.inference import load_classifier
from utils.evaluation.plots import read_metrics
from utils.losses import LOSS_VERSION

TRAIN = str(Path(__file__).parent.parent / "train.py")
SEED = 214  # the first
LITE0 = "lite0.pth"  # in a row's options: the file of --lite0

# Options of train.py, each with its value; of two of the same name the last one counts.
TEACHER = (
    f"--kd-learning True --distillation-type none --student tf_efficientnet_lite0 --student-weights {LITE0} "
    "--optimizer AdamW --lr 5e-4 --min-lr 1e-6 --weight-decay 0.05 --ls 0.1 --batch-size 32 --views {epochs} "
    "--scheduler True --schedule-by step --warmup-epoch 1 --decay-epoch {epochs}"
)
# train.sh's student, but for its weights and its teacher.
STUDENT = (
    "--lr 1e-3 --min-lr 4e-5 --cos-gamma 0.9 --warmup-epoch 5 --decay-epoch 30 --optimizer AdamW --batch-size 128 "
    "--weight-decay 0.01 --loss CE --ls 0.1 --kd-learning True --distillation-type soft --distillation-tau 4 "
    "--distillation-alpha 0.9 --loss-weight True --scheduler True --student-weights none"
)
VIEWS = (
    f"{STUDENT} --min-lr 1e-6 --batch-size 32 --weight-decay 0.05 --loss-weight False --views {{epochs}} "
    f"--schedule-by step --warmup-epoch 1 --decay-epoch {{epochs}}"
)
ALONE = "--distillation-type none"
TAUGHT = "--teacher {teacher}"
LOGITS = f"{TAUGHT} --distillation-tau 2 --distillation-alpha 0.7 --distillation-reduction batch"
ADJUSTED = "--logit-adjustment 1"
MUON = "--optimizer Muon --lr 3e-3"
BEST = f"{VIEWS} {LOGITS} {ADJUSTED} {MUON}"
SMALL = "--student mobilenetv4_conv_small"
UNSMOOTHED = "teacher without label smoothing"
UNTAUGHT = f"{VIEWS} {ALONE} {ADJUSTED} {MUON}"


class Row(NamedTuple):
    """One way to train."""

    data: str  # photos or skewed
    name: str
    options: str  # of train.py
    against: str = ""  # name of the row that it is compared with
    epochs: int = 10
    seeds: int = 99  # at most; 0: no longer made, what is in the results stays in the table
    drawn: bool = True  # in the picture
    taught_by: str = "teacher"  # name of the row that trains its teacher

    @property
    def teacher(self):
        """The row that trains its teacher; None without one."""
        named = {(row.data, row.name): row for row in ROWS}
        return named[self.data, self.taught_by] if "{teacher}" in self.options else None

    @property
    def command(self):
        """All options that say how it is trained, each once; no path and no seed is among them."""
        teacher = self.teacher and os.path.relpath(self.teacher.weights(SEED), "model")
        words = f"--epochs {self.epochs} {self.options.format(epochs=self.epochs, teacher=teacher)}".split()
        options = dict(zip(words[::2], words[1::2]))
        return " ".join(f"{name} {options[name]}" for name in sorted(options))

    @property
    def is_touched(self):
        """Whether LOSS_VERSION 2 trains it otherwise than 1: smoothed labels and adjusted logits, its own or its teacher's."""
        words = self.command.split()
        options = dict(zip(words[::2], words[1::2]))
        both = all(float(options.get(name, 0)) for name in ("--ls", "--logit-adjustment"))
        return both or (self.teacher is not None and self.teacher.is_touched)

    def version(self, seed):
        """Other options, another name: so a run never goes on with one of others."""
        name = re.sub(r"\W+", "-", f"{self.data} {self.name} {seed}")
        return f"{name}-{hashlib.sha256(self.command.encode()).hexdigest()[:6]}"

    def weights(self, seed):
        """File of its last epoch, in the folder of the work."""
        return os.path.join("model", self.version(seed), f"model_{self.epochs}.pt")


# fmt: off
ROWS = [
    Row("skewed", "teacher", f"{TEACHER} --logit-adjustment 1", epochs=6, seeds=1),
    Row("skewed", UNSMOOTHED, f"{TEACHER} --logit-adjustment 1 --ls 0", epochs=6, seeds=1, drawn=False),
    Row("skewed", "recipe", f"{STUDENT} {TAUGHT}"),
    Row("skewed", "views, schedule, batches of 32", f"{VIEWS} {ALONE}", "recipe"),
    Row("skewed", "+ teacher's logits", f"{VIEWS} {LOGITS}", "views, schedule, batches of 32"),
    Row("skewed", "+ adjusted logits", f"{VIEWS} {LOGITS} {ADJUSTED}", "+ teacher's logits"),
    Row("skewed", "+ Muon: best", BEST, "+ adjusted logits"),
    Row("skewed", "best, teacher without label smoothing", BEST, "+ Muon: best", taught_by=UNSMOOTHED),
    Row("skewed", "best, 10 epochs, smaller crops", f"{BEST} --crop-scale 0.4", "best, teacher without label smoothing", taught_by=UNSMOOTHED),
    Row("skewed", "best, --ls 0", f"{BEST} --ls 0", "best, teacher without label smoothing", taught_by=UNSMOOTHED),
    Row("skewed", "best, not adjusted", f"{VIEWS} {LOGITS} {MUON}", "best, teacher without label smoothing", taught_by=UNSMOOTHED),
    Row("skewed", "small student", f"{BEST} {SMALL}", taught_by=UNSMOOTHED, drawn=False),
    Row("skewed", "small student, --ls 0", f"{BEST} {SMALL} --ls 0", "small student", taught_by=UNSMOOTHED, drawn=False),
    Row("skewed", "small student, not adjusted", f"{VIEWS} {LOGITS} {MUON} {SMALL}", "small student", taught_by=UNSMOOTHED, drawn=False),
    Row("skewed", "+ averaged weights", f"{BEST} --ema 0.99", "+ Muon: best"),
    Row("skewed", "+ batches of 16", f"{BEST} --batch-size 16", "+ Muon: best"),
    Row("skewed", "best with mixup", f"{BEST} --mixup 0.5", "+ Muon: best", seeds=0),
    Row("skewed", "4 epochs in float32", f"{UNTAUGHT} --precision fp32", epochs=4, drawn=False),
    Row("skewed", "4 epochs in bf16", f"{UNTAUGHT} --precision bf16", "4 epochs in float32", epochs=4, drawn=False),
    Row("photos", "teacher", TEACHER, epochs=6, seeds=1),
    Row("photos", UNSMOOTHED, f"{TEACHER} --ls 0", epochs=6, seeds=1, drawn=False),
    Row("photos", "recipe", f"{STUDENT} {TAUGHT}"),
    Row("photos", "best without a teacher", UNTAUGHT, "recipe"),
    Row("photos", "best", BEST, "best without a teacher"),
    Row("photos", "best, teacher without label smoothing", BEST, "best without a teacher", taught_by=UNSMOOTHED),
    Row("photos", "best, 10 epochs, smaller crops", f"{BEST} --crop-scale 0.4", "best, teacher without label smoothing", taught_by=UNSMOOTHED),
    Row("photos", "best with mixup", f"{BEST} --mixup 0.5", "best", seeds=0),
    Row("photos", "best, 25 epochs", BEST, UNSMOOTHED, epochs=25, seeds=1, taught_by=UNSMOOTHED),
    Row("photos", "best, 60 epochs, smaller crops", f"{BEST} --crop-scale 0.4", UNSMOOTHED, epochs=60, seeds=1, taught_by=UNSMOOTHED),
]


def get_args_parser():
    p = Parser(prog="python -m benchmarks.accuracy", description=__doc__)
    p.add_argument("--photos", help="folder of a data set in the competition's layout", metavar="DIR")
    p.add_argument("--skewed", help="the same with the competition's shares of classes", metavar="DIR")
    p.add_argument("--lite0", help="of python -m benchmarks.lite0: what the teacher begins from", metavar="FILE.pth")
    p.add_argument("--work", default="./accuracy", help="folder for the runs' logs/ and model/", metavar="DIR")
    p.add_argument("--results", default="docs/accuracy.jsonl", help="a line a run; tables and picture go beside it, into .md and .png", metavar="FILE")
    p.add_argument("--only", default="", help="the rows whose names contain this", metavar="TEXT")
    p.add_argument("--seeds", type=number(int, 1), default=3, help=f"of each row, from {SEED} on", metavar="N")
    return p
# fmt: on


def main(argv=None):
    args = get_args_parser().parse_args(argv)
    args.work = os.path.join(args.work, f"loss-{LOSS_VERSION}")  # no run of another is taken for one of this
    log.start()
    given = [data for data in WATCHED if vars(args)[data]]
    for data in given:
        os.makedirs(args.work, exist_ok=True)
        for path in (args.results, os.path.join(args.work, "photos.jsonl")):
            add_labels(data, vars(args)[data], path)
    rows = [row for row in ROWS if row.data in given and args.only in row.name]
    runs = [(row, seed) for seed in range(SEED, SEED + args.seeds) for row in rows if seed < SEED + row.seeds]
    results = read_results(args.results)
    runs = [(row, seed) for row, seed in runs if seed not in newest(row, results)]
    for teacher in {row.teacher for row, _ in runs if row.teacher}:
        if not os.path.exists(os.path.join(args.work, teacher.weights(SEED))):
            train(teacher, SEED, args)
    for row, seed in sorted(runs, key=lambda run: run[0].epochs):
        train(row, seed, args)
        add(record(row, seed, args), args.results)
        write_report(args.results, ROWS)
    if not runs:
        write_report(args.results, ROWS)


def train(row, seed, args):
    """One run, which a signal has save itself."""
    options = (
        f"{row.command} --version {row.version(seed)} --seed {seed} --keep 1 --resume True --data-dir".split()
    )
    if LITE0 in options:
        if not os.path.isfile(args.lite0 or ""):
            raise UserError("the teacher needs --lite0 FILE.pth: python -m benchmarks.lite0 makes that file")
        options[options.index(LITE0)] = os.path.abspath(args.lite0)
    run_train(
        [*options, os.path.abspath(vars(args)[row.data])], args.work, "the same command goes on with this run"
    )


def run_train(options, work, after):
    """train.py in the folder of the work. A signal is passed on to it. Args: `after`, what one can do after a signal."""
    os.makedirs(work, exist_ok=True)
    with StopSignals() as signals:
        # In a session of its own: Ctrl-C on the terminal would reach it twice.
        child = subprocess.Popen([sys.executable, TRAIN, *options], cwd=work, start_new_session=True)
        try:
            code = child.wait()
        except Interrupted:
            child.terminate()
            child.wait()
            raise Interrupted(signals.received, after) from None
    if code:
        version = options[options.index("--version") + 1]
        raise UserError(f"{version}: train.py ended with exit code {code}, see its message above")


# --- the results -------------------------------------------------------------------------------------


def record(row, seed, args):
    """What is kept of a run: its epochs, and what its last one says of the validation photos."""
    metrics = read_metrics(os.path.join(args.work, "logs", row.version(seed)))
    classifier = load_classifier(os.path.join(args.work, row.weights(seed)))
    tables = read_tables(vars(args)[row.data], classifier.attributes, ["val"])
    gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if gpu else f"threads: {torch.get_num_threads()}"
    tables, pixels = load_pixels(tables, cache_folder())
    said = classifier.predict(pixels["val"], 32)
    return {
        **{"data": row.data, "row": row.name, "seed": seed, "options": row.command},
        "loss_version": LOSS_VERSION,
        "predicted": {key: digits(values.argmax(axis=1)) for key, values in said.items()},
        **{name: metrics[name].round(4).tolist() for name in ("val_top1", "val_acsa", "seconds")},
        "machine": f"{device}, torch {torch.__version__}, {classifier.meta['precision']}",
    }


def add(record, path):
    """Write a record into the results, in place of that of the same row and seed."""
    names = ("data", "row", "seed")
    others = [one for one in read_results(path) if any(one[name] != record[name] for name in names)]
    with atomic(path) as file:
        file.writelines(json.dumps(one) + "\n" for one in [*others, record])


def add_labels(data, folder, path):
    """Write into a file what the predictions are compared with. Raises: UserError if it has that of other photos."""
    tables = read_tables(folder, read_attributes(), ["train", "val"])
    train, val = (tables[split].labels for split in tables)
    labels = {
        "data": data,
        "row": LABELS,
        "seed": None,
        "photos": [len(one.names) for one in tables.values()],
    }
    labels["labels"] = {key: digits(values) for key, values in val.items()}
    labels["frequent"] = {key: str(count_classes(values, 1).argmax()) for key, values in train.items()}
    before = [one for one in read_results(path) if (one["data"], one["row"]) == (data, LABELS)]
    if not before:
        add(labels, path)
    elif before != [labels]:
        raise UserError(f"{path} is of other photos than {folder}; name another --results, or --work")


def digits(classes):
    """Numbers of classes as a string of one digit each: the competition has 6 at most."""
    return "".join(map(str, classes.tolist()))


if __name__ == "__main__":
    sys.exit(exit_code(main))
