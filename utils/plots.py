"""Learning curves from metrics.csv: one run, or several laid over each other.

python -m utils.plots logs/a logs/b --output curves.png
"""

import glob
import io
import itertools
import os
import sys

import numpy as np

from utils.cli import Parser, exit_code
from utils.errors import UserError, first_line
from utils.files import atomic
from utils.log import logger

# matplotlib, pandas and tensorboard are imported where they are first used: training does without them.

DPI = 100  # dots per inch of a picture
MAX_SIDE = 20_000  # dots: a picture of very many attributes has fewer per inch
SCORES = {"train_loss": "training loss", "val_top1": "validation Top-1", "val_acsa": "validation ACSA"}
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#777777")  # Okabe and Ito's
TOTAL = "#222222"
LINES = ("-", "--", ":", "-.")  # where there are more lines than colours


def new_figure(width, height):
    """An empty matplotlib figure with a canvas of its own, `width` x `height` inches: no global state.

    Raises: UserError if matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(f"matplotlib is needed for it ({error}): pip install matplotlib") from error
    figure = Figure(
        figsize=(width, height), dpi=min(DPI, MAX_SIDE / max(width, height)), layout="constrained"
    )
    FigureCanvasAgg(figure)
    return figure


def save(figure, path):
    """Write a PNG whole or not at all, so that a viewer never sees half a picture."""
    with atomic(path, binary=True) as file:
        figure.savefig(file, format="png")


def read_metrics(path):
    """Columns of a metrics.csv, or of a log folder's: dict name -> list of float, one per epoch.

    Raises: UserError if there is none, or it is no table of epochs, or has no epoch yet.
    """
    file = os.path.join(path, "metrics.csv") if os.path.isdir(path) else path
    if not os.path.isfile(file):
        raise UserError(f"{path}: no metrics.csv there; name the log folder of a run, such as logs/student")
    import pandas as pd

    try:
        with open(file, encoding="utf-8") as lines:
            # A line without an end is being written at this moment.
            whole = "".join(line for line in lines if line.endswith("\n"))
        # An empty cell is NaN: the attribute has no score.
        columns = pd.read_csv(io.StringIO(whole), dtype=str).astype(float).to_dict("list")
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: not a metrics.csv as train.py writes it ({first_line(error)})") from error
    absent = [name for name in ("epoch", "lr", *SCORES) if name not in columns]
    if absent:
        raise UserError(f"{file}: not a metrics.csv as train.py writes it (no column {', '.join(absent)})")
    if not columns["epoch"]:
        raise UserError(f"{file}: no epoch is finished yet")
    return columns


def draw_curves(runs, path):
    """Learning curves of the runs into a PNG file.

    Args: `runs` dict name -> columns from `read_metrics`.
    Raises: UserError if matplotlib is not installed or the file cannot be written.
    """
    figure = _one_run(*next(iter(runs.items()))) if len(runs) == 1 else _several_runs(runs)
    save(figure, path)


def attributes_in(columns):
    """Names of the attributes in the columns of a metrics.csv."""
    return [column[len("train_loss_") :] for column in columns if column.startswith("train_loss_")]


def _one_run(name, columns):
    """Loss, learning rate, Top-1 and ACSA, a line for each attribute."""
    figure = new_figure(11.5, 7)
    axes = figure.subplots(2, 2).flat
    best = int(np.nan_to_num(columns["val_top1"]).argmax())
    figure.suptitle(
        f"{shortened_name(name)}: best epoch {columns['epoch'][best]:.0f}, "
        f"mean Top-1 {columns['val_top1'][best]:.4f}, mean ACSA {columns['val_acsa'][best]:.4f}"
    )
    for (column, title), ax in zip(SCORES.items(), (axes[0], axes[2], axes[3])):
        for key, style in zip(attributes_in(columns), _styles()):
            _line(ax, columns, f"{column}_{key}", label=shortened_name(key, 30), **style)
        _line(ax, columns, column, color=TOTAL, linewidth=2.2, label="sum, mean")
        _finish(ax, title, [columns], share=column != "train_loss")
        ax.axvline(columns["epoch"][best], color="#999999", linestyle=":", linewidth=1.2, label="best epoch")
    figure.legend(*axes[2].get_legend_handles_labels(), loc="outside right upper", fontsize=9)
    _line(axes[1], columns, "lr", color=TOTAL)
    _finish(axes[1], "learning rate", [columns])
    return figure


def _several_runs(runs):
    """A panel for each score of each attribute, a line for each run."""
    attributes = list(dict.fromkeys(key for columns in runs.values() for key in attributes_in(columns)))
    figure = new_figure(max(3.3 * (1 + len(attributes)), 7), 11 + 0.2 * len(runs))
    grid = figure.add_gridspec(1 + len(SCORES), 1 + len(attributes))
    styles = dict(zip(runs, _styles()))
    for row, (column, title) in enumerate(SCORES.items()):
        whole = "sum" if column == "train_loss" else "mean"
        suffixes = {"": whole, **{f"_{key}": shortened_name(key, 20) for key in attributes}}
        for place, (suffix, key) in enumerate(suffixes.items()):
            ax = figure.add_subplot(grid[row, place])
            for name, columns in runs.items():
                _line(ax, columns, f"{column}{suffix}", **styles[name])
            _finish(ax, f"{title}, {key}", list(runs.values()), share=column != "train_loss")
    ax = figure.add_subplot(grid[-1, :])
    for name, columns in runs.items():
        best = np.nan_to_num(columns["val_top1"]).max()
        _line(ax, columns, "lr", label=f"{shortened_name(name)}: best mean Top-1 {best:.4f}", **styles[name])
    _finish(ax, "learning rate", list(runs.values()))
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower left", fontsize=10, frameon=False)
    return figure


def _styles():
    """Colours and then kinds of line, without end."""
    return (dict(color=c, linestyle=kind) for kind, c in itertools.cycle(itertools.product(LINES, COLORS)))


def plain(text):
    """A text as matplotlib draws it and nothing else: `$` begins a formula, and `_` hides a line from the legend."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def shortened_name(name, most=60):
    """A name or path for a picture, its end if it is too long."""
    return plain(name if len(name) <= most else "…" + name[-most + 1 :])


def _line(ax, columns, column, **style):
    epochs = columns["epoch"]
    if column in columns:
        ax.plot(epochs, columns[column], marker="o" if len(epochs) <= 30 else "", markersize=3.5, **style)


def _finish(ax, title, tables, share=False):
    from matplotlib.ticker import MaxNLocator

    ax.set_title(title, fontsize=11)
    ax.set_xlabel("epoch", fontsize=9)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.tick_params(labelsize=9)
    ax.grid(alpha=0.25)
    first, last = (end(end(table["epoch"]) for table in tables) for end in (min, max))
    ax.set_xlim(
        first - 0.5 if first == last else first - 0.02 * (last - first), last + (0.02 * (last - first) or 0.5)
    )
    low, high = ax.get_ylim()
    if share:  # a flat line fills no panel: a range of at least 0.1, within 0 and 1
        middle, half = (low + high) / 2, max(high - low, 0.1) / 2
        ax.set_ylim(max(0, middle - half), min(1.005, middle + half))
    elif len(tables) == 1:
        ax.set_ylim(0, high)


class Curves:
    """What can be watched of a run: curves.png and TensorBoard events, brought up to date after every epoch.

    Neither is worth stopping a run for: what is missing is said once in the log.

    Args:
        log_dir: the run's folder, with its metrics.csv.
        tensorboard: whether to write events, into `log_dir/tensorboard`.
    """

    def __init__(self, log_dir, tensorboard=False):
        self.log_dir = log_dir
        self.draws = True
        self.writes = tensorboard
        self.writer = None

    def update(self, row):
        """Redraw the picture from metrics.csv, and write the events of `row`, the epoch's row of it."""
        if row["epoch"] == 1:
            self._remove_earlier_run()
        if self.draws:
            try:
                name = os.path.basename(os.path.abspath(self.log_dir))
                draw_curves({name: read_metrics(self.log_dir)}, os.path.join(self.log_dir, "curves.png"))
            except UserError as error:
                self.draws = False
                logger.warning(f"warning: curves.png is not drawn: {error}")
        if self.writes:
            self._write_events(row)

    def _remove_earlier_run(self):
        """Of this version: its picture would pass for this run's, its events would be laid over them."""
        events = os.path.join(glob.escape(self.log_dir), "tensorboard", "events.out.tfevents.*")
        for path in [os.path.join(self.log_dir, "curves.png"), *glob.glob(events)]:
            if os.path.exists(path):
                os.remove(path)

    def _write_events(self, row):
        if self.writer is None:
            try:
                from tensorboard.compat.proto.summary_pb2 import Summary
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                self.writes = False
                logger.warning("warning: --tensorboard True: no events are written: pip install tensorboard")
                return
            self.writer = SummaryWriter(os.path.join(self.log_dir, "tensorboard"), purge_step=row["epoch"])
            self.summary = Summary
        known = {column: value for column, value in row.items() if column != "epoch" and value is not None}
        # Not by add_scalar, which writes "_" for a blank: two attributes could have one tag then.
        values = [self.summary.Value(tag=_tag(column), simple_value=value) for column, value in known.items()]
        self.writer.file_writer.add_summary(self.summary(value=values), row["epoch"])
        self.writer.flush()


def _tag(column):
    """TensorBoard's name of a column: val_top1_gender -> val_top1/gender, one group with val_top1."""
    for score in SCORES:
        if column.startswith(f"{score}_"):
            return f"{score}/{column[len(score) + 1 :]}"
    return column


def main(argv=None):
    parser = Parser(prog="python -m utils.plots", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", help="log folder of a run, or a metrics.csv", metavar="LOGS")
    parser.add_argument("--output", default="curves.png", help="the picture, PNG", metavar="FILE")
    args = parser.parse_args(argv)
    names = [os.path.basename(os.path.abspath(run)) for run in args.runs]
    runs = {}
    for run, name in zip(args.runs, names):
        unique = names.count(name) == 1 and os.path.isdir(run)
        runs[name if unique else run] = read_metrics(run)
    draw_curves(runs, args.output)
    print(args.output)


if __name__ == "__main__":
    sys.exit(exit_code(main))
