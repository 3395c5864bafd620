"""What is told of a run: its log's header, each epoch's lines and row, the curves, the end."""

import csv
import itertools
import os
import pathlib

from utils.base.errors import UserError
from utils.base.files import atomic
from utils.base.hardware import machine
from utils.base.log import logger, score, table
from utils.data.attributes import UNKNOWN
from utils.data.tables import count_classes
from utils.evaluation.metrics import CHOSEN, mean
from utils.evaluation.plots import COLUMNS, draw_curves, read_metrics, save
from utils.evaluation.predictions import table_text


def header(net, options, tables, precision, world, notes=()):
    """Everything that one needs to know to run it again. Args: `options` of train.py, a dict, and `notes` on them, lines; `tables`, of
    both parts."""
    say = logger.info
    say(f"training the {net.role}: {net.title}")
    for note in notes:
        say(note)
    say("options: " + "  ".join(f"--{name.replace('_', '-')} {value}" for name, value in options.items()))
    machine(world.device, precision, world.size)
    say(f"seed: {options['seed']}")
    for name, part in tables.items():
        say(f"{name}: {len(part.names)} images, per class {_class_counts(part, net.attributes.sizes)}")
    parameters = sum(parameter.numel() for parameter in net.parameters())
    size = sum(value.numel() * value.element_size() for value in net.state_dict().values())
    say(f"parameters: {parameters:,}, {size / 1e6:.1f} MB on disk")


def _class_counts(part, sizes):
    parts = []
    for key, size in sizes.items():
        counts = count_classes(part.labels[key], size)
        unknown = len(part.names) - counts.sum()
        parts.append(f"{key} {'/'.join(map(str, counts))}" + (f" ({unknown} not known)" if unknown else ""))
    return "  ".join(parts)


def class_counts(tables, sizes):
    """Part -> attribute -> list of ints: how many of its known labels are of each class."""
    return {
        name: {key: count_classes(table.labels[key], size).tolist() for key, size in sizes.items()}
        for name, table in tables.items()
    }


def write_classes(path, counts, attributes):
    """A table with a row for each class: attribute, class, and its photos in training and validation, of `class_counts`."""
    with atomic(path) as file:
        writer = csv.writer(file)
        writer.writerow(["attribute", "class", *counts])
        for key, attribute in attributes.items():
            each = zip(map(table_text, attribute.classes), *(part[key] for part in counts.values()))
            writer.writerows([table_text(key), *row] for row in each)


def columns(attributes):
    """Of metrics.csv."""
    scores = ([name, *(f"{name}_{key}" for key in attributes)] for name in COLUMNS)
    return ["epoch", "lr", *itertools.chain(*scores), "seconds"]


def metrics_row(state, losses, scores):
    """One row of metrics.csv, plain numbers by `columns`; None for an attribute that has no score.

    Args: `state`, TrainState; `losses` attribute -> mean training loss; `scores` from
        `utils.evaluation.metrics.scores`.
    """
    row = {"epoch": state.epoch, "lr": state.lr}
    totals = sum(losses.values()), scores["mean_top1"], scores["mean_acsa"]
    for name, total, parts in zip(COLUMNS, totals, (losses, scores["top1"], scores["acsa"])):
        row.update({name: total, **{f"{name}_{key}": value for key, value in parts.items()}})
    return {**row, "seconds": round(state.seconds(), 2)}


def epoch(row, matrices, attributes, epochs):
    """Confusion matrices (dict attribute -> array) and scores (of the row of metrics.csv) of one epoch."""
    lines = []
    for key, attribute in attributes.items():
        rows = [[f"  {i} {name}", *matrices[key][i]] for i, name in enumerate(attribute.classes)]
        lines += [f"{key}: rows are labels, columns predictions", *table(rows, ["", *range(len(rows))])]
    lines += score_table("validation", row, attributes)
    lines.append(
        f"epoch {row['epoch']}/{epochs} done: train loss {row['train_loss']:.4f}, "
        f"Top-1 {row['val_top1']:.4f}, ACSA {row['val_acsa']:.4f}, {row['seconds']:.1f} s"
    )
    for line in lines:
        logger.info(line)


def score_table(title, row, attributes):
    """Lines: Top-1 and ACSA of each attribute, and their means, from a row of metrics.csv."""
    rows = []
    for name, suffix in [*((key, f"_{key}") for key in attributes), ("mean", "")]:
        rows.append([name, score(row[f"val_top1{suffix}"]), score(row[f"val_acsa{suffix}"])])
    return table(rows, [title, "Top-1", "ACSA"])


def majority_top1(data):
    """Mean Top-1 on the validation images of always naming the training images' most frequent classes."""
    shares = []
    for key, labels in data["train"].labels.items():
        counts = count_classes(labels, 1)
        known = data["val"].labels[key][data["val"].labels[key] != UNKNOWN]
        shares.append((known == counts.argmax()).mean() if len(known) else None)
    return mean(shares)


def summary(run, data):
    """The best epoch, and where everything is."""
    best = run.best
    logger.info("")
    for line in score_table(f"best: epoch {best['epoch']}", best, data["train"].labels):
        logger.info(line)
    logger.info(CHOSEN)
    logger.info(f"always the most frequent classes: mean Top-1 {majority_top1(data):.4f}")
    size = os.path.getsize(run.best_file) / 1e6
    logger.info(f"best weights: {run.best_file} -> model_{best['epoch']}.pt ({size:.1f} MB)")
    logger.info(f"all epochs:   {run.model_dir}")
    logger.info(f"log:          {run.log_file}")
    logger.info(f"metrics:      {run.metrics_file}")
    logger.info(f"options:      {run.args_file}")


class Curves:
    """What can be watched of a run: curves.png and TensorBoard events, brought up to date after every epoch.

    Args: `log_dir`, the run's folder, with its metrics.csv; `tensorboard`, whether to write events, into log_dir/tensorboard;
        `score`, the column that best.pt follows.
    """

    def __init__(self, log_dir, tensorboard=False, score="val_top1"):
        self.folder, self.score = pathlib.Path(log_dir), score
        self.draws, self.tensorboard, self.writer = True, tensorboard, None

    def update(self, row):
        """Redraw the picture from metrics.csv, and write the events of `row`, the epoch's row of it."""
        picture = self.folder / "curves.png"
        if row["epoch"] == 1:
            # An earlier run of this version: its picture would pass for this run's, its events would be laid over them.
            for path in [picture, *self.folder.glob("tensorboard/events.out.tfevents.*")]:
                path.unlink(missing_ok=True)
        if self.draws:
            try:
                runs = {self.folder.name: read_metrics(str(self.folder))}
                save(draw_curves(runs, self.score), str(picture))
            except UserError as error:  # not worth stopping a run for
                self.draws = False
                logger.warning(f"warning: curves.png is not drawn: {error}")
        if self.tensorboard:
            self._write_events(row)

    def _write_events(self, row):
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=row["epoch"])
        for name, value in row.items():
            if name != "epoch" and value is not None:
                self.writer.add_scalar(tag(name), value, row["epoch"])
        self.writer.flush()


def tag(column):
    """TensorBoard's name of a column: val_top1_gender -> val_top1/gender, one group with val_top1."""
    group = next((name for name in COLUMNS if column.startswith(f"{name}_")), None)
    return f"{group}/{column[len(group) + 1 :]}" if group else column
