"""What a run writes: `logs/<version>/` and `model/<version>/`; and whether it may."""

import contextlib
import csv
import errno
import fcntl
import json
import os
import shutil

from utils.base import log
from utils.base.errors import DiskFull, UserError
from utils.base.files import atomic, failure, has_links, remove_leftovers
from utils.data.dataset import unreadable
from utils.nets import checkpoint
from utils.nets.checkpoint import MODEL_ROOT, epoch_files, public_options
from utils.nets.hub import BEST
from utils.training import record
from utils.training.record import Curves, columns, metrics_row
from utils.training.resume import BEGIN_ANEW, MAY_CHANGE, NO_STATE, _is_state, data_fingerprint

LOG_ROOT = "logs"


@contextlib.contextmanager
def version_folder(version, world):
    """Lets no other process train a version meanwhile: its folder is locked, made if need be, and removed if nothing
    was written into it.

    Raises: UserError if another process has it; failure of `utils.base.files` if it cannot be made.
    """
    folder = os.path.join(MODEL_ROOT, version)
    if not world.is_first:
        yield
        return
    with contextlib.ExitStack() as at_end:
        try:
            os.makedirs(folder, exist_ok=True)
            descriptor = os.open(folder, os.O_RDONLY)
            at_end.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            way_out = "wait for its end, or take another --version"
            raise UserError(f"{folder}: another process is training this version; {way_out}") from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP):  # of a file system without locks
                raise failure(folder, error) from error
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # it is not empty
                os.removedirs(folder)


class Run:
    """The files of one version. Nothing is written or removed before `open`.

    Args:
        args: options of train.py; `defaults`, their values where none is given.
        world: `utils.training.distributed.World`; all processes but the first keep count of the epochs only.
    Raises: UserError if the version has checkpoints already that are neither to be overwritten nor to be resumed, or
        cannot be resumed with these options.
    """

    def __init__(self, args, defaults, world):
        version = args.version
        self.args, self.writes = args, world.is_first
        self.model_dir = os.path.join(MODEL_ROOT, version)
        self.log_dir = os.path.join(LOG_ROOT, version)
        self.log_file = os.path.join(self.log_dir, f"{version}_training.log")
        self.metrics_file = os.path.join(self.log_dir, "metrics.csv")
        self.args_file = os.path.join(self.log_dir, "args.json")
        self.best_file = os.path.join(self.model_dir, BEST)
        self.last_file = os.path.join(self.model_dir, "last.pt")
        self.is_begun = os.path.exists(self.last_file)
        self._check_version()
        saved = self._saved = self._read(defaults, world.size) if args.resume and self.is_begun else None
        progress = saved["progress"] if saved else {}
        self.began_with = saved["meta"] if saved else {}  # the meta of a resumed run
        self.teacher = progress.get("teacher")  # what a resumed run knows of it
        self.rows = progress.get("rows", [])  # of the finished epochs, as in metrics.csv
        self.is_finished = saved is not None and len(self.rows) >= args.epochs
        at = saved and (progress["epoch"], len(progress["losses"]), progress["data"])
        if world.agreed(at) != at:
            problem = "is not that of the first process; every machine needs its model/, to --resume"
            raise UserError(f"process {world.rank}: {self.last_file} {problem}")
        # Whether a resumed run has kept all that its teacher says.
        has_logits = progress.get("teacher_logits") is not None
        self.has_all_logits = has_logits and args.views == 1 and not args.save_teacher_logits

    def _check_version(self):
        # A best.pt alone may be one that somebody has put there, for --teacher.
        has_epochs = bool(epoch_files(self.model_dir)) or os.path.exists(self.best_file)
        if self.args.resume and has_epochs and not self.is_begun:
            problem = "has checkpoints but no last.pt, from which a run goes on: "
        elif (self.is_begun or has_epochs) and not (self.args.resume or self.args.overwrite):
            problem = "has checkpoints already: go on with that run with --resume True, "
        else:
            return
        way_out = "take another --version, or replace that version's files with --overwrite True"
        raise UserError(f"{self.model_dir} {problem}{way_out}")

    # --- a resumed run -------------------------------------------------------------------------------

    def _read(self, defaults, processes):
        """Content of last.pt, see `utils.training.state.TrainState.save`.

        Raises: UserError if it is none, or lists the options that are not those the run began with.
        """
        content = checkpoint.read_file(self.last_file)
        meta = checkpoint.split(content, self.last_file)[1]
        if not _is_state(meta, content.get("progress")):
            raise UserError(f"{self.last_file}: {NO_STATE}")
        before = public_options({**defaults, **meta["options"]})
        now = {**public_options(vars(self.args)), "processes": processes}
        before["processes"] = content["progress"].get("processes", processes)
        differences = [
            f"{'' if name == 'processes' else '--'}{name.replace('_', '-')} is {value}, was {before[name]}"
            for name, value in now.items()
            if name not in MAY_CHANGE and value != before[name]
        ]
        if differences:
            raise UserError(f"--resume: {self.model_dir} began with other options: {'; '.join(differences)}")
        return content

    def check_attributes(self, attributes):
        """UserError unless attributes are those that a resumed run began with."""
        before = self.began_with.get("attributes")
        if before is not None and before != attributes.to_meta():
            raise UserError(f"--resume: the attributes, or their prompts, are not the run's; {BEGIN_ANEW}")
        if any(set(row) != set(columns(attributes)) for row in self.rows):
            raise UserError(f"{self.last_file}: {NO_STATE}")

    def check_data(self, data, sizes):
        """UserError unless the data set is that which a resumed run began with, and the same photos can be read.

        Args: `data`, dict part -> `utils.data.dataset.Table`; `sizes`, attribute -> number of classes.
        """
        if not self._saved:
            return
        progress, logits = self._saved["progress"], self._saved["progress"]["teacher_logits"]
        shapes = {key: (len(data["train"].names), size) for key, size in sizes.items()}
        taught = logits and {key: tuple(logits[key].shape) for key in sizes}
        if progress["data"] != data_fingerprint(data) or (taught or shapes) != shapes:
            raise UserError(
                f"--resume: {self.args.data_dir} is not the data set that the run began with: names, labels, boxes or sizes "
                "of photos differ, or which can be read, or an earlier version held out another share; "
                f"name that one with --data-dir, or {BEGIN_ANEW}"
            )

    def take_saved(self):
        """Content of the last.pt of a resumed run, once, since it is large; None for a new one."""
        saved, self._saved = self._saved, None
        return saved

    # --- its files -----------------------------------------------------------------------------------

    @property
    def best(self):
        """Row of the best epoch: the first with the highest score of --best, of those whose checkpoint was not removed."""
        kept = [row for row in self.rows if os.path.exists(self._epoch_file(row["epoch"]))]
        return max(kept or self.rows, key=lambda row: row[f"val_{self.args.best}"])

    def check_room(self, net):
        """Compare what the run's checkpoints will need with what is free, before anything is removed or written.

        Raises: DiskFull with both figures.
        """
        weights = checkpoint.size(net.state_dict().values())
        last = weights + 2 * checkpoint.size(net.parameters())  # with Adam's two averages
        last += weights if self.args.ema else 0
        # With --keep, these many at once: the newest, the best, and one more until the next last.pt is written.
        files = self.args.epochs if self.args.keep is None else min(self.args.epochs, self.args.keep + 2)
        folder = next(folder for folder in (self.model_dir, MODEL_ROOT, ".") if os.path.isdir(folder))
        present = [*epoch_files(self.model_dir).values(), self.last_file]
        if not has_links(folder):  # best.pt is a copy
            files, present = files + 1, [*present, self.best_file]
        present = sum(os.path.getsize(path) for path in present if os.path.exists(path))
        needed = files * weights + 2 * last - present  # last.pt is written beside the one before
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise DiskFull(
                f"{self.model_dir}: {files} checkpoints of {weights / 1e6:,.0f} MB, and last.pt, need another "
                f"{needed / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are free: make room, or keep fewer with --keep N"
            )

    def open(self, data):
        """Remove an earlier run's files, begin the log and the table, and keep the options.

        Of a resumed run log and checkpoints stay, and the table is written from its rows.

        Args: `data`, dict part -> `utils.data.dataset.Table`, whose unreadable photos are listed.
        """
        if not self.writes:
            return
        try:
            self._begin_files()
        except OSError as error:
            raise failure(error.filename, error) from error
        if self.args.resume and not self.is_begun:
            log.logger.info(f"--resume: there is no {self.last_file} yet, the run begins")
        with atomic(self.args_file) as file:
            file.write(json.dumps(vars(self.args), indent=2, ensure_ascii=False) + "\n")
        self._write_rows(list(data["train"].labels))
        unreadable(data, os.path.join(self.log_dir, "unreadable.txt"))
        self.curves = Curves(self.log_dir, self.args.tensorboard)

    def _begin_files(self):
        for folder in (self.model_dir, self.log_dir):
            os.makedirs(folder, exist_ok=True)
            remove_leftovers(os.path.join(folder, ""))
        # last.pt goes first: half of an earlier run must not look like one that can be resumed.
        earlier = [self.last_file, *epoch_files(self.model_dir).values(), self.args_file]
        for path in [*([] if self.args.resume else earlier), self.best_file]:
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)
        log.to_file(self.log_file, append=self.args.resume)

    def _write_rows(self, attributes):
        """metrics.csv, and best.pt, which follows it."""
        with atomic(self.metrics_file) as file:
            writer = csv.DictWriter(file, columns(attributes))
            writer.writeheader()
            writer.writerows(self.rows)
        if self.rows:
            checkpoint.link(self._epoch_file(self.best["epoch"]), self.best_file)

    def _epoch_file(self, epoch):
        return os.path.join(self.model_dir, f"model_{epoch}.pt")

    def meta(self, state):
        """What a checkpoint says besides its weights: plain values, from which the network can be built again."""
        return {
            "options": public_options(vars(self.args)),
            "precision": state.precision.name,
            "attributes": state.net.attributes.to_meta(),
            **state.learned,
            **state.net.describe(),
        }

    def finish_epoch(self, state, lr, losses, scores):
        """Write the epoch's checkpoint, then its row, then `best.pt`; log it, and draw the curves.

        Args: `state`, TrainState; `lr`, the epoch's; `losses` attribute -> mean training loss; `scores` from
            `utils.evaluation.metrics.scores`.
        """
        row = metrics_row(state.epoch, lr, losses, scores, round(state.seconds(), 2))
        if self.writes:
            meta = dict(self.meta(state), epoch=row["epoch"], metrics=row)
            checkpoint.save_checkpoint(self._epoch_file(row["epoch"]), state.averaged, meta)
        self.rows.append(row)
        if self.writes:
            self._write_rows(losses)
            record.epoch(row, scores["matrix"], state.net.attributes, self.args.epochs)
            self.curves.update(row)

    def prune(self):
        """Remove the checkpoints of all epochs but the newest --keep and the best."""
        if self.args.keep is None or not self.writes:
            return
        for epoch, path in epoch_files(self.model_dir).items():
            if epoch <= len(self.rows) - self.args.keep and epoch != self.best["epoch"]:
                os.remove(path)
