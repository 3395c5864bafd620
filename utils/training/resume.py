"""A run that goes on: whether its last.pt is that of this run."""

import hashlib
import os
from typing import Any, Dict, NamedTuple

import torch

from utils.base.errors import UserError
from utils.nets import checkpoint
from utils.nets.checkpoint import LOCAL, public_options
from utils.nets.hub import BEST
from utils.training.record import columns

BEGIN_ANEW = "begin anew with --overwrite True"
NO_STATE = f"holds no state of a run; {BEGIN_ANEW}"
MAY_CHANGE = {*LOCAL, "epochs", "version"}  # options; a version's folders may be renamed
FACTS = {"names": "names", "labels": "labels", "stamps": "sizes", "boxes": "boxes"}  # fields of a `Table`
TEACHER = dict.fromkeys(("identity", "prior"))  # as of `utils.training.teacher.Teacher.fingerprint`


class Saved(NamedTuple):
    """Content of a last.pt; of a run that begins, nothing."""

    path: str = ""
    model: Dict[str, torch.Tensor] = {}
    meta: Dict[str, Any] = {}
    progress: Dict[str, Any] = {}

    @property
    def rows(self):
        """Of the finished epochs, as in metrics.csv."""
        return self.progress.get("rows", [])

    def check_options(self, options, defaults, processes):
        """UserError that lists the options that are not those the run began with.

        Args: `options` of train.py, a dict; `defaults` of those that an earlier version did not know; number of `processes`.
        """
        now = {**public_options(options), "processes": processes}
        before = public_options({**defaults, **self.meta["options"]})
        before["processes"] = self.progress.get("processes", processes)
        names = [name for name in now if name not in MAY_CHANGE and now[name] != before[name]]
        if {"views", "decay_epoch"} & {*names} and now["epochs"] != before["epochs"]:
            names = ["epochs", *names]  # which these two may follow
        if names:
            each = (f"--{name.replace('_', '-')} is {now[name]}, was {before[name]}" for name in names)
            said = "; ".join(each).replace("--processes", "processes")
            raise UserError(f"--resume: {self.path} began with other options: {said}; {BEGIN_ANEW}")

    def check_attributes(self, attributes):
        """UserError unless attributes are those that the run began with."""
        if self.meta.get("attributes") not in (None, attributes.to_meta()):
            raise UserError(f"--resume: the attributes, or their prompts, are not the run's; {BEGIN_ANEW}")
        if any(set(row) != set(columns(attributes)) for row in self.rows):
            raise UserError(f"{self.path}: {NO_STATE}")

    def check_data(self, tables, sizes):
        """UserError unless the data set is that which the run began with, and the same photos can be read.

        Args: `tables` of `utils.data.dataset.load_training_data`; `sizes`, attribute -> number of classes, of those that a
            teacher tells.
        """
        logits = self.progress.get("teacher_logits") or {}
        shapes = {key: (len(tables["train"].names), size) for key, size in sizes.items()}
        taught = {key: tuple(values.shape) for key, values in logits.items()} or shapes
        if not self.progress or (self.progress["data"] == fingerprint(tables) and taught == shapes):
            return
        before, differ = self.progress.get("facts"), ""
        if isinstance(before, dict):  # otherwise it is a run of an earlier version
            differ = ", ".join(name for name, now in facts(tables).items() if before.get(name) != now)
        ways = f"Name that one, or {BEGIN_ANEW}"
        if self.meta["role"] == "student":
            network = os.path.join(os.path.dirname(self.path), BEST)
            ways += f", or train on from the network: another --version, --student-weights {network}"
        other = f"other {differ or ' or '.join(FACTS.values())} of the photos which can be read"
        raise UserError(f"--resume: --data-dir is not the data set that the run began with: {other}. {ways}")

    def load(self, state, targets):
        """Once, since the tensors are large. Args: the run's `TrainState` and `Targets`. Raises: UserError for others' values."""
        checkpoint.load_state(state.net, state.net.own_names(self.model), self.path)
        try:
            targets.load_state_dict(self.progress)
            state.load_state_dict(self.progress)
        except Exception as error:  # what a crafted file raises depends on its content
            raise UserError(f"{self.path}: not the state of this run ({error}); {BEGIN_ANEW}") from error
        self.model.clear()
        self.progress.clear()


def read_last(path, world):
    """The Saved of a last.pt, an empty one where there is no such file. Raises: UserError if it is none, or not the first process's."""
    saved = Saved()
    if os.path.exists(path):
        content = checkpoint.read_file(path)
        saved = Saved(path, *checkpoint.split(content, path), content.get("progress"))
        if not _is_state(saved.meta, saved.progress):
            raise UserError(f"{path}: {NO_STATE}")
    progress = saved.progress
    at = progress and (progress["epoch"], len(progress["losses"]), progress["data"])
    if world.broadcast(at) != at:
        raise UserError(f"process {world.rank}: {path} is not that of the first process; all need its model/")
    return saved


def fingerprint(tables):
    """Hash of a data set's names, labels, sizes and boxes of the photos that can be read; not of the folder, which may move.

    Args: `tables`, dict part -> `utils.data.dataset.Table`.
    """
    digest = hashlib.sha256()
    for name, table in tables.items():
        labels = {key: values.tolist() for key, values in table.labels.items()}
        digest.update(repr((name, table.names, labels, [stamp[0] for stamp in table.stamps])).encode())
        if table.boxes is not None:  # with --crop-to-box only
            digest.update(table.boxes.tobytes())
    return digest.hexdigest()


def facts(tables):
    """A hash of each of these by itself, to tell which differs: dict such as "names in train" -> hash."""
    found = {}
    for part, table in tables.items():
        empty = table._replace(names=[], labels={}, stamps=[], boxes=None)
        for field, name in FACTS.items():
            found[f"{name} in {part}"] = fingerprint({part: empty._replace(**{field: getattr(table, field)})})
    return found


def _is_state(meta, progress):
    """Whether a checkpoint's content is of the form that `Run.save` writes, as far as it is used before it is loaded."""
    try:
        rows, losses, options = progress.get("rows"), progress.get("losses"), meta.get("options")
        plain = [rows, progress["data"], progress["epoch"], options.get("epochs"), options.get("batch_size")]
        numbers = [value for row in rows for value in row.values() if value is not None]
        numbers += [row[name] for row in rows for name in ("val_top1", "val_acsa")]  # these are never None
        logits, teacher = progress.get("teacher_logits") or {}, progress.get("teacher") or TEACHER
        return (
            list(map(type, plain)) == [list, str, int, int, int]
            and [row["epoch"] for row in rows] == list(range(1, len(rows) + 1))
            and {int, float}.issuperset(map(type, numbers))
            and losses.dim() == 2
            and all(map(torch.is_tensor, logits.values()))
            and teacher.keys() == TEACHER.keys()
            and meta["precision"] in ("fp32", "bf16")
            and meta["role"] in ("teacher", "student")
        )
    except Exception:  # what a crafted file raises depends on its content
        return False
