"""What is told of a run: its log's header, each epoch's lines and row, the curves, the end."""

import itertools
import logging
import os
import pathlib
import shutil

from utils.base.errors import UserError
from utils.base.log import logger, right, score, table, wide
from utils.evaluation.metrics import CHOSEN, below_majority, majority, score_table
from utils.evaluation.plots import COLUMNS, draw_curves, read_run, save
from utils.evaluation.predictions import write_classes

BEST_SO_FAR = "best"  # at the end of an epoch's line


def header(net, counts, tables, options, notes):
    """What is trained, and on what; in the file also what one needs to know to run it again.

    Args: `counts` of `utils.data.dataset.class_counts` of the `tables`; `options` of train.py that are to be told, a dict, and
        `notes` on them, lines.
    """
    parameters = sum(parameter.numel() for parameter in net.parameters())
    size = sum(value.numel() * value.element_size() for value in net.state_dict().values())
    images = {part: len(table.names) for part, table in tables.items()}
    logger.info(f"training the {net.role}: {net.title}, {size / 1e6:.1f} MB")
    logger.info(f"photos: {images['train']:,} for training, {images['val']:,} for validation")
    for note in notes:
        logger.info(note)
    logger.debug(f"parameters: {parameters:,}")
    logger.debug("options: " + "  ".join(f"{name} {value}" for name, value in options.items()))
    for part, its in counts.items():
        for key, attribute in net.attributes.items():
            each = ", ".join(f"{name} {count}" for name, count in zip(attribute.classes, its[key]))
            unknown = images[part] - sum(its[key])
            logger.debug(f"{part}, {key}: {each}" + (f" ({unknown} not known)" if unknown else ""))


def write_counts(path, counts, attributes):
    """A table of each class's photos in training and validation, of `utils.data.dataset.class_counts`."""
    each = {key: (one.classes, *(part[key] for part in counts.values())) for key, one in attributes.items()}
    write_classes(path, counts, {key: zip(*columns) for key, columns in each.items()})


def columns(attributes):
    """Of metrics.csv."""
    scores = ([name, *(f"{name}_{key}" for key in attributes)] for name in COLUMNS)
    return ["epoch", "lr", *itertools.chain(*scores), "seconds"]


def metrics_row(state, losses, scores):
    """One row of metrics.csv, plain numbers by `columns`; None for an attribute that has no score.

    Args: `state`, TrainState; `losses` attribute -> mean training loss; `scores` from
        `utils.evaluation.metrics.scores`.
    """
    totals = sum(losses.values()), scores["mean_top1"], scores["mean_acsa"]
    each = zip(totals, (losses, scores["top1"], scores["acsa"]))
    numbers = itertools.chain(*([total, *parts.values()] for total, parts in each))
    return dict(zip(columns(losses), [state.epoch, state.lr, *numbers, round(state.seconds(), 2)]))


def epoch(scores, attributes):
    """Confusion matrices and scores of an epoch, for the file. Args: `scores` as of `metrics_row`."""
    lines = []
    for key, attribute in attributes.items():
        rows = [[f"  {i} {name}", *scores["matrix"][key][i]] for i, name in enumerate(attribute.classes)]
        lines += [f"{key}: rows are labels, columns predictions", *table(rows, ["", *range(len(rows))])]
    columns = {"Top-1": scores["top1"], "ACSA": scores["acsa"], "majority": scores["majority"]}
    for line in lines + score_table("validation", columns):
        logger.debug(line)


class EpochLines:
    """A heading, and a line for each epoch below it; the file has both each time.

    Args: `attributes`, of which as many have a column as the terminal has room for; `epochs` of the run.
    """

    def __init__(self, attributes, epochs):
        self.epochs, self.level, self.first = epochs, logging.INFO, max(5, len(f"{epochs}/{epochs}"))
        # Between the first and the last column: title, column of metrics.csv, width.
        self.columns = [("loss", "train_loss", 6), ("Top-1", "val_top1", 6), ("ACSA", "val_acsa", 6)]
        room = shutil.get_terminal_size((1000, 24)).columns  # of a pipe, whose lines have no end
        room -= self.first + len(f"    seconds    {BEST_SO_FAR}")
        for key in attributes:
            width = max(6, len(key) + wide(key))
            if sum(one + 2 for *_, one in self.columns) + width <= room:
                self.columns.append((key, f"val_top1_{key}", width))

    def add(self, row, is_best):
        """Tell of an epoch. Args: `row` of metrics.csv; `is_best`, whether none was better so far."""
        titles, names, _ = zip(*self.columns)
        self._say(self.level, ["epoch", *titles, "seconds"])
        cells = [f"{row['epoch']}/{self.epochs}", *(score(row[name], ".3f") for name in names)]
        self._say(logging.INFO, [*cells, f"{row['seconds']:.1f}"], BEST_SO_FAR if is_best else "")
        minutes = round((self.epochs - row["epoch"]) * row["seconds"] / 60)
        if minutes and self.level == logging.INFO:
            logger.info(f"about {minutes} min to go")
        self.level = logging.DEBUG

    def _say(self, level, cells, mark=""):
        widths = [self.first, *(width for *_, width in self.columns), len("seconds")]
        logger.log(level, "  ".join([*right(cells, widths), mark]).rstrip(), extra={"mark": mark})


def summary(run, counts):
    """The best epoch beside the majority, and where everything is. Args: `counts` of `utils.data.dataset.class_counts`."""
    best, majorities = run.best, {key: majority(numbers) for key, numbers in counts["val"].items()}
    logger.info("")
    top1, acsa = ({key: best[f"{name}_{key}"] for key in majorities} for name in ("val_top1", "val_acsa"))
    columns = {"Top-1": top1, "ACSA": acsa, "majority": majorities}
    for line in score_table(f"best: epoch {best['epoch']}", columns):
        logger.info(line)
    logger.info(CHOSEN)
    low = below_majority(top1, majorities)
    if low:
        logger.warning(f"warning: {low}")
    size = os.path.getsize(run.best_file) / 1e6
    logger.info(f"best weights: {run.best_file} -> model_{best['epoch']}.pt ({size:.1f} MB)")
    logger.info(f"log, scores by epoch, curves: {run.log_dir}")


class Curves:
    """What can be watched of a run: curves.png and TensorBoard events, brought up to date after every epoch.

    Args: `log_dir`, the run's folder, with its metrics.csv; `tensorboard`, whether to write events, into log_dir/tensorboard.
    """

    def __init__(self, log_dir, tensorboard=False):
        self.folder = pathlib.Path(log_dir)
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
                save(draw_curves({self.folder.name: read_run(str(self.folder))}), str(picture))
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
