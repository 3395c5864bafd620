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

from benchmarks.accuracy_report import LABELS, read_results, write_report
from utils import log
from utils.attributes import read_attributes
from utils.cli import Parser, StopSignals, cache_folder, exit_code, number
from utils.dataset import count_classes, load_pixels, read_tables
from utils.errors import Interrupted, UserError
from utils.files import atomic
from utils.inference import load_classifier
from utils.plots import read_metrics

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
TAUGHT = "--teacher {teacher}"
VIEWS = f"{STUDENT} --views {{epochs}} --batch-size 32 --schedule-by step --warmup-epoch 1 --decay-epoch {{epochs}}"
ALONE = "--distillation-type none"
TOGETHER = f"{TAUGHT} --distillation-tau 2 --distillation-alpha 0.7 --distillation-reduction batch"
ADJUSTED = "--loss-weight False --logit-adjustment 1"
AVERAGED = "--ema 0.99"


class Row(NamedTuple):
    """One way to train."""

    data: str  # photos or skewed
    name: str
    options: str  # of train.py
    against: str = ""  # name of the row that it is compared with
    epochs: int = 10
    seeds: int = 99  # at most; 0: no longer made, what is in the results stays in the table

    @property
    def command(self):
        """All options that say how it is trained, each once; no path and no seed is among them."""
        teacher = "{teacher}" in self.options and teacher_of(self)
        teacher = teacher and f"{teacher.version(SEED)}/model_{teacher.epochs}.pt"
        words = f"--epochs {self.epochs} {self.options.format(epochs=self.epochs, teacher=teacher)}".split()
        return " ".join(
            f"{name} {value}" for name, value in sorted(dict(zip(words[::2], words[1::2])).items())
        )

    def version(self, seed):
        """Other options, another name: so a run never goes on with one of others."""
        name = re.sub(r"\W+", "-", f"{self.data} {self.name} {seed}")
        return f"{name}-{hashlib.sha256(self.command.encode()).hexdigest()[:6]}"


# fmt: off
ROWS = [
    Row("skewed", "teacher", f"{TEACHER} --logit-adjustment 1", epochs=6, seeds=1),
    Row("skewed", "recipe", f"{STUDENT} {TAUGHT}"),
    Row("skewed", "views and schedule", f"{VIEWS} {ALONE}", "recipe"),
    Row("skewed", "teacher on the same views", f"{VIEWS} {TOGETHER}", "views and schedule"),
    Row("skewed", "logit adjustment", f"{VIEWS} {TOGETHER} {ADJUSTED}", "teacher on the same views"),
    Row("skewed", "averaged weights", f"{VIEWS} {TOGETHER} {ADJUSTED} {AVERAGED}", "logit adjustment"),
    Row("photos", "teacher", TEACHER, epochs=6, seeds=1),
    Row("photos", "recipe", f"{STUDENT} {TAUGHT}"),
    Row("photos", "best without a teacher", f"{VIEWS} {ALONE} {AVERAGED}", "recipe"),
    Row("photos", "best", f"{VIEWS} {TOGETHER} {AVERAGED}", "best without a teacher"),
    Row("photos", "best, 60 epochs", f"{VIEWS} {TOGETHER} {AVERAGED}", "teacher", epochs=60, seeds=1),
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
    log.start()
    folders = {name: os.path.abspath(vars(args)[name]) for name in ("photos", "skewed") if vars(args)[name]}
    rows = [row for row in ROWS if row.data in folders and args.only in row.name]
    todo = [(row, seed) for seed in range(SEED, SEED + args.seeds) for row in rows if seed < SEED + row.seeds]
    todo = [one for one in todo if not is_made(*one, args.results)]
    todo.sort(key=lambda one: one[0].epochs)
    check(folders, [row for row, _ in todo], args)
    for data, folder in folders.items():
        add_labels(data, folder, args.results)
    for row, seed in todo:
        if not is_made(row, seed, args.results):  # by another process, meanwhile
            make(row, seed, folders[row.data], args)
            write_report(args.results, ROWS)
    write_report(args.results, ROWS)


def check(folders, rows, args):
    """UserError before hours of work rather than after them."""
    for name, folder in folders.items():
        if not os.path.isdir(folder):
            raise UserError(f"--{name} {folder}: no such folder")
    teachers = {teacher_of(row) for row in rows if row.name == "teacher" or "{teacher}" in row.options}
    absent = [one for one in teachers if not os.path.exists(weights(one, SEED, args.work))]
    if absent and not args.lite0:
        raise UserError("the teacher needs --lite0 FILE.pth, which python -m benchmarks.lite0 makes")
    if absent and not os.path.isfile(args.lite0):
        raise UserError(f"--lite0 {args.lite0}: no such file; python -m benchmarks.lite0 makes it")


def teacher_of(row):
    """The row that trains the teacher of a row."""
    return next(one for one in ROWS if (one.data, one.name) == (row.data, "teacher"))


# --- the runs ----------------------------------------------------------------------------------------


def make(row, seed, folder, args):
    """Train a row's network, or go on with it, and add what it says of the validation photos to the results."""
    teacher = teacher_of(row)
    if "{teacher}" in row.options and not os.path.exists(weights(teacher, SEED, args.work)):
        train(teacher, SEED, folder, args)
    train(row, seed, folder, args)
    columns = {"top1": "val_top1", "acsa": "val_acsa", "seconds": "seconds"}
    epochs = read_metrics(os.path.join(args.work, "logs", row.version(seed)))
    classifier = load_classifier(weights(row, seed, args.work))
    data = load_pixels(read_tables(folder, classifier.attributes, ["val"]), cache_folder())["val"]
    said = classifier.predict(data.pixels, 32)
    record = {
        **key(row, seed),
        "predicted": {name: digits(values.argmax(axis=1)) for name, values in said.items()},
        "epochs": [
            {name: round(one[c], 4) for name, c in columns.items()} for one in epochs.to_dict("records")
        ],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "precision": classifier.meta["precision"],
    }
    add(record, args.results)


def train(row, seed, folder, args):
    """One run of train.py in the folder of the work. A signal is passed on to it, which then saves itself."""
    options = [os.path.abspath(args.lite0) if word == LITE0 else word for word in row.command.split()]
    options += ["--version", row.version(seed), "--seed", str(seed), "--data-dir", folder]
    os.makedirs(args.work, exist_ok=True)
    command = [sys.executable, TRAIN, *options, "--keep", "1", "--resume", "True"]
    with StopSignals() as signals:
        # In a session of its own: Ctrl-C on the terminal would reach it twice.
        child = subprocess.Popen(command, cwd=args.work, start_new_session=True)
        try:
            code = child.wait()
        except Interrupted:
            child.terminate()
            child.wait()
            raise Interrupted(signals.received, "the same command goes on with this run") from None
    if code:
        raise UserError(
            f"{row.data}, {row.name}: train.py ended with exit code {code}, see its message above"
        )


def weights(row, seed, work):
    """File of a run's last epoch."""
    return os.path.join(work, "model", row.version(seed), f"model_{row.epochs}.pt")


# --- the results -------------------------------------------------------------------------------------


def key(row, seed):
    return {"data": row.data, "row": row.name, "seed": seed, "options": row.command}


def is_made(row, seed, path):
    """Whether the results have that run, made with these options."""
    return any(key(row, seed).items() <= record.items() for record in read_results(path))


def add(record, path):
    """Write a record into the results, in place of that of the same row and seed."""
    names = ("data", "row", "seed")
    others = [one for one in read_results(path) if any(one[name] != record[name] for name in names)]
    with atomic(path) as file:
        file.writelines(json.dumps(one) + "\n" for one in [*others, record])


def add_labels(data, folder, path):
    """Write into the results what the predictions are compared with. Raises: UserError if they are of other photos."""
    tables = read_tables(folder, read_attributes(), ["train", "val"])
    frequent = {name: int(count_classes(one, 1).argmax()) for name, one in tables["train"].labels.items()}
    record = {"data": data, "row": LABELS, "seed": None, "frequent": frequent}
    record["labels"] = {name: digits(one) for name, one in tables["val"].labels.items()}
    record["photos"] = [len(tables["train"].names), len(tables["val"].names)]
    before = [one for one in read_results(path) if (one["data"], one["row"]) == (data, LABELS)]
    if before and before != [record]:
        raise UserError(f"{path} holds results of other photos than {folder}; name another --results")
    if not before:
        add(record, path)


def digits(classes):
    """Numbers of classes as a string of one digit each: the competition has 6 at most."""
    return "".join(map(str, classes.tolist()))


if __name__ == "__main__":
    sys.exit(exit_code(main))
