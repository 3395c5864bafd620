"""What a run writes: `logs/<version>/` and `model/<version>/`."""

import csv
import json
import os
import re

from utils import checkpoint, logging
from utils.attributes import ATTRIBUTES
from utils.errors import UserError
from utils.files import atomic

MODEL_ROOT = "model"
LOG_ROOT = "logs"
EPOCH_FILE = re.compile(r"model_(\d+)\.pt")

SCORES = ["train_loss", "val_top1", "val_acsa"]
COLUMNS = ["epoch", "lr", *(c for s in SCORES for c in [s, *(f"{s}_{key}" for key in ATTRIBUTES)]), "seconds"]


def epoch_files(folder):
    """Dict epoch -> path of the checkpoints `model_<epoch>.pt` in a folder, in order of epochs."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    found = {
        int(match[1]): os.path.join(folder, match[0]) for match in map(EPOCH_FILE.fullmatch, names) if match
    }
    return dict(sorted(found.items()))


class Run:
    """The files of one version. Nothing is written or removed before `open`.

    Raises: UserError if the version has checkpoints already and may not be overwritten.
    """

    def __init__(self, version, overwrite=False):
        self.model_dir = os.path.join(MODEL_ROOT, version)
        self.log_dir = os.path.join(LOG_ROOT, version)
        self.log_file = os.path.join(self.log_dir, f"{version}_training.log")
        self.metrics_file = os.path.join(self.log_dir, "metrics.csv")
        self.args_file = os.path.join(self.log_dir, "args.json")
        self.best_file = os.path.join(self.model_dir, "best.pt")
        self.best = None  # row of the best epoch so far
        if epoch_files(self.model_dir) and not overwrite:
            raise UserError(
                f"{self.model_dir} has checkpoints already: take another --version, "
                "or replace that version's files with --overwrite True"
            )

    def open(self, options):
        """Remove an earlier run's files, begin the log and the table, and keep the options."""
        os.makedirs(self.model_dir, exist_ok=True)
        os.makedirs(self.log_dir, exist_ok=True)
        for path in [
            *epoch_files(self.model_dir).values(),
            self.best_file,
            self.metrics_file,
            self.args_file,
        ]:
            if os.path.lexists(path):
                os.remove(path)
        logging.to_file(self.log_file)
        with atomic(self.args_file) as file:
            json.dump(options, file, indent=2, ensure_ascii=False)
            file.write("\n")
        with open(self.metrics_file, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(COLUMNS)

    def save_epoch(self, net, row, meta):
        """Write the epoch's checkpoint and its row; `best.pt` follows the best mean Top-1, the earliest of equals."""
        path = os.path.join(self.model_dir, f"model_{row['epoch']}.pt")
        checkpoint.save_checkpoint(path, net, dict(meta, **net.describe(), role=net.role, metrics=row))
        with open(self.metrics_file, "a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, COLUMNS).writerow(row)
        if self.best is None or row["val_top1"] > self.best["val_top1"]:
            self.best = row
            checkpoint.link(path, self.best_file)
        return path


def metrics_row(epoch, lr, losses, scores, seconds):
    """One row of metrics.csv, plain numbers by `COLUMNS`.

    Args: `losses` attribute -> mean training loss; `scores` from `utils.metrics.evaluate`; `seconds` of the epoch.
    """
    row = {"epoch": epoch, "lr": lr, "train_loss": sum(losses.values()), "seconds": round(seconds, 2)}
    row.update(val_top1=scores["mean_top1"], val_acsa=scores["mean_acsa"])
    for key in ATTRIBUTES:
        row[f"train_loss_{key}"] = losses[key]
        row[f"val_top1_{key}"] = scores["top1"][key]
        row[f"val_acsa_{key}"] = scores["acsa"][key]
    return {column: row[column] for column in COLUMNS}
