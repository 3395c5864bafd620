"""Learning curves from metrics.csv: one run, or several laid over each other.

python -m utils.plots logs/a logs/b --output curves.png
"""

import csv
import glob
import os
import sys

from utils.cli import Parser, exit_code
from utils.errors import UserError
from utils.files import atomic
from utils.log import logger

# matplotlib and tensorboard are imported where they are first used: training does without them.

DPI = 100  # dots per inch of every picture
SCORES = {"train_loss": "training loss", "val_top1": "validation Top-1", "val_acsa": "validation ACSA"}
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#777777")  # Okabe and Ito's
TOTAL = "#222222"


def new_figure(width, height):
    """An empty matplotlib figure with a canvas of its own, `width` x `height` inches: no global state.

    Raises: UserError if matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(f"matplotlib is needed for it ({error}): pip install matplotlib") from error
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
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
    try:
        with open(file, newline="", encoding="utf-8") as lines:
            # A line without an end is being written at this moment.
            reader = csv.DictReader([line for line in lines if line.endswith("\n")])
            rows = [
                {name: float(cell) for name, cell in row.items() if cell not in ("", None)} for row in reader
            ]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise UserError(f"{file}: not a metrics.csv as train.py writes it ({error})") from error
    absent = [name for name in ("epoch", "lr", *SCORES) if name not in (reader.fieldnames or [])]
    if absent:
        raise UserError(f"{file}: not a metrics.csv as train.py writes it (no column {', '.join(absent)})")
    if not rows:
        raise UserError(f"{file}: no epoch is finished yet")
    return {name: [row.get(name, float("nan")) for row in rows] for name in reader.fieldnames}


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
    figure = new_figure(10, 7)
    axes = figure.subplots(2, 2).flat
    best = max(range(len(columns["epoch"])), key=lambda i: columns["val_top1"][i])
    figure.suptitle(
        f"{shortened_name(name)}: best epoch {columns['epoch'][best]:.0f}, "
        f"mean Top-1 {columns['val_top1'][best]:.4f}, mean ACSA {columns['val_acsa'][best]:.4f}"
    )
    for (column, title), ax in zip(SCORES.items(), (axes[0], axes[2], axes[3])):
        for key, color in zip(attributes_in(columns), _cycle(COLORS)):
            if f"{column}_{key}" in columns:
                _line(ax, columns, f"{column}_{key}", color=color, label=key)
        total = "sum" if column == "train_loss" else "mean"
        _line(ax, columns, column, color=TOTAL, linewidth=2.2, label=total)
        _finish(ax, title, [columns], share=total == "mean")
        ax.axvline(columns["epoch"][best], color="#999999", linestyle=":", linewidth=1.2, label="best epoch")
        ax.legend(fontsize=9, framealpha=0.7)
    _line(axes[1], columns, "lr", color=TOTAL)
    _finish(axes[1], "learning rate", [columns])
    return figure


def _several_runs(runs):
    """A panel for each score of each attribute, a line for each run."""
    attributes = list(dict.fromkeys(key for columns in runs.values() for key in attributes_in(columns)))
    figure = new_figure(3.3 * (1 + len(attributes)), 11)
    grid = figure.add_gridspec(1 + len(SCORES), 1 + len(attributes))
    colors = dict(zip(runs, _cycle(COLORS)))
    for row, (column, title) in enumerate(SCORES.items()):
        for place, key in enumerate([None, *attributes]):
            ax = figure.add_subplot(grid[row, place])
            for name, columns in runs.items():
                _line(ax, columns, f"{column}_{key}" if key else column, color=colors[name])
            whole = "sum" if column == "train_loss" else "mean"
            _finish(ax, f"{title}, {key or whole}", list(runs.values()), share=column != "train_loss")
    ax = figure.add_subplot(grid[-1, :2])
    for name, columns in runs.items():
        best = max(columns["val_top1"])
        _line(
            ax,
            columns,
            "lr",
            color=colors[name],
            label=f"{shortened_name(name, 40)}: best mean Top-1 {best:.4f}",
        )
    _finish(ax, "learning rate", list(runs.values()))
    beside = figure.add_subplot(grid[-1, 2:])
    beside.axis("off")
    beside.legend(*ax.get_legend_handles_labels(), loc="center left", fontsize=10, frameon=False)
    return figure


def _cycle(colors, most=50):
    return [colors[i % len(colors)] for i in range(most)]


def shortened_name(name, most=60):
    """A name or path for a picture, its end if it is too long."""
    return name if len(name) <= most else "…" + name[-most + 1 :]


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
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                self.writes = False
                logger.warning("warning: --tensorboard True: no events are written: pip install tensorboard")
                return
            self.writer = SummaryWriter(os.path.join(self.log_dir, "tensorboard"), purge_step=row["epoch"])
        for column, value in row.items():
            if column != "epoch":
                self.writer.add_scalar(_tag(column), value, row["epoch"])
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
