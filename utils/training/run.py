"""What a run writes: `logs/<version>/` and `model/<version>/`; and whether it may."""

import contextlib
import os
import shutil
import signal
import time

from utils.base import log
from utils.base.errors import DiskFull, Interrupted, UserError
from utils.base.files import failure, link, lock, remove_leftovers, write_csv, write_json
from utils.nets import checkpoint
from utils.nets.checkpoint import MODEL_ROOT, epoch_files
from utils.nets.hub import BEST
from utils.training.record import columns


@contextlib.contextmanager
def version_folder(version, world):
    """Lets no other process train a version meanwhile: its folder is locked, made if need be, and removed if nothing
    was written into it.

    Raises: UserError if another process has it; failure of `utils.base.files` if it cannot be made.
    """
    if not world.is_first:
        yield
        return
    folder = os.path.join(MODEL_ROOT, version)
    try:
        os.makedirs(folder, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        lock(descriptor, f"{folder}: another process is training this version; wait, or take another one")
    except OSError as error:
        raise failure(folder, error) from error
    try:
        yield
    finally:
        os.close(descriptor)
        with contextlib.suppress(OSError):  # it is not empty
            os.removedirs(folder)


class Run:
    """The files of one version. Nothing is written or removed before `open`.

    Args:
        version: its name.
        writes: whether this process does, of several the first one.
        best: "top1" or "acsa", which mean score best.pt follows.
        keep: number of the newest epochs whose checkpoints stay besides the best; None for all.
    """

    def __init__(self, version, writes=True, best="top1", keep=None):
        self.writes, self.score, self.keep = writes, f"val_{best}", keep
        self.model_dir, self.log_dir = os.path.join(MODEL_ROOT, version), os.path.join("logs", version)
        self.log_file = os.path.join(self.log_dir, f"{version}_training.log")
        self.args_file = os.path.join(self.log_dir, "args.json")
        self.best_file = os.path.join(self.model_dir, BEST)
        self.last_file = os.path.join(self.model_dir, "last.pt")
        self.is_begun = os.path.exists(self.last_file)
        self.rows, self.columns, self.meta, self.progress = [], [], {}, {}
        self.saved_at = time.monotonic()

    def check_free(self, resume, overwrite, sources=()):
        """UserError if the version has checkpoints that are neither to be resumed nor to be overwritten, or if one of the `sources`,
        paths from here or under model/ that the run reads, would go with them."""
        folder = os.path.realpath(self.model_dir)
        for source in filter(None, sources if overwrite else ()):
            paths = map(os.path.realpath, (source, os.path.join(MODEL_ROOT, source)))
            if any(path.startswith(f"{folder}{os.sep}") or path == folder for path in paths):
                problem = f"is in {self.model_dir}, which --overwrite removes"
                raise UserError(f"{source} {problem}; take another --version")
        # A best.pt alone may be one that somebody has put there, for --teacher.
        has_epochs = bool(epoch_files(self.model_dir)) or os.path.exists(self.best_file)
        if resume and has_epochs and not self.is_begun:
            problem = "has checkpoints but no last.pt, from which a run goes on: "
        elif (self.is_begun or has_epochs) and not (resume or overwrite):
            problem = "has checkpoints already: go on with that run with --resume True, "
        else:
            return
        way_out = "take another --version, or replace that version's files with --overwrite True"
        raise UserError(f"{self.model_dir} {problem}{way_out}")

    def check_room(self, net, epochs, averages=False):
        """Compare what the run's checkpoints will need with what is free, before anything is removed or written.

        Args: `averages`, whether last.pt holds the network's average, too. Raises: DiskFull with both figures.
        """
        weights = checkpoint.size(net.state_dict().values())
        last = (1 + averages) * weights + 2 * checkpoint.size(net.parameters())  # with Adam's two averages
        # With --keep, these many at once: the newest, the best, and one more until the next last.pt is written. And best.pt,
        # which is a copy where the file system has no links.
        files = 1 + (epochs if self.keep is None else min(epochs, self.keep + 2))
        folder = next(folder for folder in (self.model_dir, MODEL_ROOT, ".") if os.path.isdir(folder))
        present = [*epoch_files(self.model_dir).values(), self.last_file, self.best_file]
        present = sum(os.path.getsize(path) for path in present if os.path.exists(path))
        needed = files * weights + 2 * last - present  # last.pt is written beside the one before
        free = shutil.disk_usage(folder).free
        if needed > free:
            checkpoints = f"{files} checkpoints of {weights / 1e6:,.0f} MB, and last.pt"
            problem = f"{checkpoints}, need another {needed / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are free"
            raise DiskFull(f"{self.model_dir}: {problem}: make room, or keep fewer with --keep N")

    def open(self, options, attributes, rows):
        """Remove an earlier run's files, begin the log and the table, and keep the options. Of a resumed run log and
        checkpoints stay, and the table is written from its rows.

        Args: `options` of train.py, a dict; `rows` of the finished epochs.
        """
        self.rows, self.columns = rows, columns(attributes)
        if not self.writes:
            return
        try:
            for folder in (self.model_dir, self.log_dir):
                os.makedirs(folder, exist_ok=True)
                remove_leftovers(os.path.join(folder, ""))
            # last.pt goes first: half of an earlier run must not look like one that can be resumed.
            earlier = [self.last_file, *epoch_files(self.model_dir).values(), self.args_file]
            for path in [*([] if options["resume"] else earlier), self.best_file]:
                with contextlib.suppress(FileNotFoundError):
                    os.remove(path)
            log.to_file(self.log_file, append=options["resume"])
        except OSError as error:
            raise failure(error.filename, error) from error
        if options["resume"] and not self.is_begun:
            log.logger.info(f"--resume: there is no {self.last_file} yet, the run begins")
        write_json(self.args_file, options)
        self._write_rows()

    def _write_rows(self):
        """metrics.csv, and best.pt, which follows it."""
        rows = ([row.get(name) for name in self.columns] for row in self.rows)
        write_csv(os.path.join(self.log_dir, "metrics.csv"), self.columns, rows)
        if self.rows:
            link(self._epoch_file(self.best["epoch"]), self.best_file)

    def _epoch_file(self, epoch):
        return os.path.join(self.model_dir, f"model_{epoch}.pt")

    @property
    def best(self):
        """Row of the best epoch: the first with the highest score of --best, of those whose checkpoint was not removed."""
        kept = [row for row in self.rows if os.path.exists(self._epoch_file(row["epoch"]))]
        return max(kept or self.rows, key=lambda row: row[self.score])

    def describe(self, meta, **progress):
        """From now on checkpoints have this `meta`, and last.pt this among its progress, plain values."""
        self.meta, self.progress = meta, progress

    def finish_epoch(self, net, row):
        """Write an epoch's checkpoint, then its row, of `utils.training.record.metrics_row`, then best.pt."""
        if self.writes:
            meta = dict(self.meta, epoch=row["epoch"], metrics=row)
            checkpoint.save_checkpoint(self._epoch_file(row["epoch"]), net, meta)
        self.rows.append(row)
        if self.writes:
            self._write_rows()

    def save(self, state, targets):
        """Write last.pt: an epoch's checkpoint, and under "progress" whatever else training changes; then remove the
        checkpoints of all epochs but the newest and the best.

        Args: `TrainState`; `utils.training.teacher.Targets`. Raises: NonFiniteLoss rather than keep weights that are lost.
        """
        state.check_finite()
        self.saved_at = time.monotonic()
        if not self.writes:
            return
        progress = {**state.state_dict(), **targets.state_dict(), **self.progress, "rows": self.rows}
        meta = dict(self.meta, epoch=state.epoch - 1)
        checkpoint.save_checkpoint(self.last_file, state.net, meta, progress=progress)
        for epoch, path in epoch_files(self.model_dir).items() if self.keep else ():
            if epoch <= len(self.rows) - self.keep and epoch != self.best["epoch"]:
                os.remove(path)


def save_or_stop(run, state, targets, world, signals, minutes):
    """To be called between two steps: saves if the last time is `minutes` ago, and ends the run if a signal asked for it.

    Of several processes all call it equally often; a signal that one of them got ends all of them at this step.
    """
    received = world.all_reduce_max(signals.received or 0)
    where = f"epoch {state.epoch}, after step {len(state.losses)}"
    if received:
        run.save(state, targets)
        world.all_reduce_max(0)  # none ends before it is saved, since torchrun then ends the others
        way_out = f"all is saved in {run.last_file}, go on with --resume True"
        raise Interrupted(signal.Signals(received), f"stopped in {where}; {way_out}")
    if time.monotonic() - run.saved_at >= 60 * minutes:
        run.save(state, targets)
        log.logger.debug(f"{where}: saved in {run.last_file}")
