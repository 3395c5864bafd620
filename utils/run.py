"""What a run writes: `logs/<version>/` and `model/<version>/`."""

import csv
import json
import os
import re
import shutil

from utils import checkpoint, logging
from utils.attributes import ATTRIBUTES
from utils.errors import DiskFull, UserError
from utils.files import atomic, failure, remove_leftovers

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

    Args: `writes` is False in all processes of a run but its first: they keep count of the epochs only.
    Raises: UserError if the version has checkpoints already that are neither to be overwritten nor to be resumed.
    """

    def __init__(self, version, overwrite=False, resume=False, writes=True):
        self.model_dir = os.path.join(MODEL_ROOT, version)
        self.log_dir = os.path.join(LOG_ROOT, version)
        self.log_file = os.path.join(self.log_dir, f"{version}_training.log")
        self.metrics_file = os.path.join(self.log_dir, "metrics.csv")
        self.args_file = os.path.join(self.log_dir, "args.json")
        self.best_file = os.path.join(self.model_dir, "best.pt")
        self.last_file = os.path.join(self.model_dir, "last.pt")
        self.rows = []  # of the finished epochs, as in metrics.csv
        self.resumes = resume
        self.writes = writes
        self.is_begun = os.path.exists(self.last_file)
        if (self.is_begun or epoch_files(self.model_dir)) and not (resume or overwrite):
            raise UserError(
                f"{self.model_dir} has checkpoints already: go on with that run with --resume True, "
                "take another --version, or replace that version's files with --overwrite True"
            )
        if resume and epoch_files(self.model_dir) and not self.is_begun:
            raise UserError(
                f"--resume: {self.model_dir} has checkpoints but no last.pt, from which a run goes on; "
                "take another --version, or replace that version's files with --overwrite True"
            )

    @property
    def best(self):
        """Row of the best epoch: the first with the highest mean Top-1."""
        return max(self.rows, key=lambda row: row["val_top1"])

    def check_room(self, net, epochs, keep):
        """Compare what the run's checkpoints will need with what is free, before anything is removed or written.

        Raises: DiskFull with both figures.
        """
        weights = checkpoint.size(net.state_dict().values())
        last = weights + 2 * checkpoint.size(net.parameters())  # with Adam's two averages
        # With --keep, these many at once: the newest, the best, and one more until the next last.pt is written.
        files = epochs if keep is None else min(epochs, keep + 2)
        present = [*epoch_files(self.model_dir).values(), self.last_file]
        present = sum(os.path.getsize(path) for path in present if os.path.exists(path))
        needed = files * weights + 2 * last - present  # last.pt is written beside the one before
        free = shutil.disk_usage(next(f for f in (self.model_dir, MODEL_ROOT, ".") if os.path.isdir(f))).free
        if needed > free:
            raise DiskFull(
                f"{self.model_dir}: {files} checkpoints of {weights / 1e6:,.0f} MB, and last.pt, need another "
                f"{needed / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are free: make room, or keep fewer with --keep N"
            )

    def open(self, options):
        """Remove an earlier run's files, begin the log and the table, and keep the options.

        To resume a run, set `rows` before: log and checkpoints stay, the table is written from the rows.
        """
        if not self.writes:
            return
        try:
            self._begin_files()
        except OSError as error:
            raise failure(error.filename, error) from error
        if self.resumes and not self.is_begun:
            logging.logger.info(f"--resume: there is no {self.last_file} yet, the run begins")
        with atomic(self.args_file) as file:
            json.dump(options, file, indent=2, ensure_ascii=False)
            file.write("\n")
        self._write_rows()

    def _begin_files(self):
        for folder in (self.model_dir, self.log_dir):
            os.makedirs(folder, exist_ok=True)
            remove_leftovers(folder)
        # last.pt goes first: half of an earlier run must not look like one that can be resumed.
        earlier = (
            [] if self.resumes else [self.last_file, *epoch_files(self.model_dir).values(), self.args_file]
        )
        for path in [*earlier, self.best_file]:
            if os.path.lexists(path):
                os.remove(path)
        logging.to_file(self.log_file, append=self.resumes)

    def _write_rows(self):
        """metrics.csv, and best.pt, which follows it."""
        with atomic(self.metrics_file) as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)
        if self.rows:
            checkpoint.link(self._epoch_file(self.best["epoch"]), self.best_file)

    def _epoch_file(self, epoch):
        return os.path.join(self.model_dir, f"model_{epoch}.pt")

    def save_epoch(self, net, row, meta):
        """Write the epoch's checkpoint, then its row, then `best.pt`."""
        if self.writes:
            meta = dict(meta, epoch=row["epoch"], metrics=row)
            checkpoint.save_checkpoint(self._epoch_file(row["epoch"]), net, meta)
        self.rows.append(row)
        if self.writes:
            self._write_rows()

    def prune(self, keep):
        """Remove the checkpoints of all epochs but the newest `keep` and the best; None keeps all."""
        if keep is None or not self.writes:
            return
        for epoch, path in epoch_files(self.model_dir).items():
            if epoch <= len(self.rows) - keep and epoch != self.best["epoch"]:
                os.remove(path)


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
