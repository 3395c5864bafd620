"""Going on after an interruption: `model/<version>/last.pt` holds all that training changes."""

import hashlib
import os
import signal
import time

import torch

from utils import checkpoint
from utils.attributes import ATTRIBUTES
from utils.engine import check_finite
from utils.errors import Interrupted, UserError
from utils.logging import logger
from utils.run import COLUMNS

# Options that may differ from those the run began with. All others decide what its numbers become, or what it reads.
MAY_CHANGE = {
    "cache_dir",
    "data_dir",
    "device",
    "epochs",
    "keep",
    "log_interval",
    "overwrite",
    "resume",
    "save_every_minutes",
    "save_teacher_logits",
    "tensorboard",
    "version",  # the folders were renamed
}

# What a last.pt holds under "progress".
KEYS = {
    "cuda_random_state",
    "data",
    "epoch",
    "losses",
    "optimizer",
    "order_state",
    "random_state",
    "rows",
    "scheduler",
    "seconds",
    "teacher_logits",
}


def data_fingerprint(tables):
    """Hash of a data set's names, labels and sizes of photos; not of the folder, which may move.

    Args: `tables` of `utils.dataset.read_tables`.
    """
    digest = hashlib.sha256()
    for split, table in tables.items():
        labels = {key: values.tolist() for key, values in table.labels.items()}
        digest.update(repr((split, table.names, labels, [size for size, _ in table.stamps])).encode())
    return digest.hexdigest()


def read(path, options):
    """Content of a `last.pt`, see `Progress.save`.

    Raises: UserError if it is none, or lists the options that are not those the run began with.
    """
    content = checkpoint.read_file(path)
    meta = checkpoint.split(content, path)[1]
    if not _is_state(meta, content.get("progress")):
        raise UserError(f"{path}: holds no state of a run, as last.pt must; begin anew with --overwrite True")
    before = meta["options"]
    differences = [
        f"--{name.replace('_', '-')} is {value}, was {before[name]}"
        for name, value in options.items()
        if name in before and name not in MAY_CHANGE and value != before[name]
    ]
    if differences:
        raise UserError(
            f"--resume: not the options that {os.path.dirname(path)} began with: {'; '.join(differences)}"
        )
    return content


def _is_state(meta, progress):
    """Whether a checkpoint's content is of the form that `Progress.save` writes, as far as it is used before `_restore`."""
    if not (isinstance(meta.get("options"), dict) and meta.get("precision") in ("fp32", "bf16")):
        return False
    if not (isinstance(progress, dict) and set(progress) >= KEYS and isinstance(progress["rows"], list)):
        return False
    rows, losses, logits = progress["rows"], progress["losses"], progress["teacher_logits"]
    return (
        all(isinstance(row, dict) and set(row) == set(COLUMNS) for row in rows)
        and all(isinstance(value, (int, float)) for row in rows for value in row.values())
        and type(progress["epoch"]) is int
        and torch.is_tensor(losses)
        and losses.shape[1:] == (len(ATTRIBUTES),)
        and (logits is None or (isinstance(logits, dict) and set(logits) == set(ATTRIBUTES)))
        and all(map(torch.is_tensor, (logits or {}).values()))
    )


def check_data(saved, fingerprint, data_dir):
    """UserError unless the data set is the one that the run began with."""
    if saved["progress"]["data"] != fingerprint:
        raise UserError(
            f"--resume: {data_dir} is not the data set that the run began with: names, labels or sizes of photos "
            "differ; name that one with --data-dir, or begin anew with --overwrite True"
        )


class Progress:
    """How far training is. Saved between two steps, it goes on to the same numbers.

    Args:
        run: `utils.run.Run`; its rows are part of it.
        net, optimizer, scheduler: on their device; scheduler may be None.
        signals: `utils.signals.StopSignals`.
        world: `utils.distributed.World`.
        args: options (seed, save_every_minutes).
        meta: of the checkpoints, plain values.
        constant: what else is kept with it, unchanged: tensors and plain values by name.
    """

    def __init__(self, run, net, optimizer, scheduler, signals, world, args, meta, constant):
        self.run, self.net, self.optimizer, self.scheduler = run, net, optimizer, scheduler
        self.signals, self.world, self.minutes = signals, world, args.save_every_minutes
        self.meta, self.constant = meta, constant
        self.shuffle = torch.Generator().manual_seed(args.seed)
        self.epoch = 1  # the running one
        self._begin_epoch()

    def _begin_epoch(self):
        self.losses = torch.zeros(0, len(ATTRIBUTES))  # of the epoch's finished steps
        self.order_state = self.shuffle.get_state()
        self.started = time.perf_counter()

    def begin(self, saved):
        """At the run's beginning: take over `saved`, the content of last.pt, or write the first one."""
        if saved:
            self._restore(saved)
            logger.info(
                f"resumed from {self.run.last_file}: epoch {self.epoch}, {len(self.losses)} steps done"
            )
        else:
            self.save()
        self.saved_at = time.monotonic()

    def order(self, images):
        """The running epoch's order of images, int64 `(images,)`; to be called once an epoch."""
        return torch.randperm(images, generator=self.shuffle)

    def seconds(self):
        """Spent on the running epoch, without steps that were lost and done again."""
        return time.perf_counter() - self.started

    def next_epoch(self):
        """The running epoch is finished, and its files are written."""
        self.epoch += 1
        self._begin_epoch()
        self.save()

    def poll(self):
        """To be called between two steps: saves if it is time to, and ends the run if a signal asked for it.

        Of several processes all call it equally often; a signal that one of them got ends all of them at this step.
        """
        received = self.world.largest(self.signals.received or 0)
        if received:
            self.save()
            self.world.largest(0)  # none ends before it is saved, since torchrun then ends the others
            raise Interrupted(
                signal.Signals(received),
                f"stopped in epoch {self.epoch}, after step {len(self.losses)}; "
                f"all is saved in {self.run.last_file}, go on with --resume True",
            )
        if time.monotonic() - self.saved_at >= 60 * self.minutes:
            self.save()
            logger.info(f"epoch {self.epoch}  step {len(self.losses)}  saved in {self.run.last_file}")

    def save(self):
        """Write last.pt: an epoch's checkpoint, and under "progress" whatever else training changes.

        Raises: NonFiniteLoss rather than keep weights that are lost.
        """
        check_finite(self.losses, self.epoch)
        self.saved_at = time.monotonic()
        if not self.run.writes:
            return
        progress = {
            "epoch": self.epoch,
            "losses": self.losses.cpu().clone(),
            "seconds": self.seconds(),
            "rows": self.run.rows,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler and self.scheduler.state_dict(),
            "order_state": self.order_state,
            "random_state": torch.get_rng_state(),
            "cuda_random_state": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
            **self.constant,
        }
        meta = dict(self.meta, epoch=self.epoch - 1)
        checkpoint.save_checkpoint(self.run.last_file, self.net, meta, progress=progress)

    def _restore(self, saved):
        progress = saved["progress"]
        checkpoint.load_state(self.net, saved["model"], self.run.last_file)
        try:  # a file of another make lacks something, or has it in another shape
            self.optimizer.load_state_dict(progress["optimizer"])
            if self.scheduler:
                self.scheduler.load_state_dict(progress["scheduler"])
            self.shuffle.set_state(progress["order_state"])
            self.epoch = progress["epoch"]
            self._begin_epoch()
            self.losses = progress["losses"]
            self.started -= progress["seconds"]
            torch.set_rng_state(progress["random_state"])
            if progress["cuda_random_state"] is not None and torch.cuda.is_initialized():
                torch.cuda.set_rng_state(progress["cuda_random_state"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{self.run.last_file}: not the state of this run ({error}); begin anew with --overwrite True"
            ) from error
