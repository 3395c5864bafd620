"""Learning curves from metrics.csv: one run, or several laid over each other."""

import logging
import os
import warnings
from typing import Any, Dict, NamedTuple
from unicodedata import east_asian_width

import numpy as np

from utils.base.errors import UserError, reason_of
from utils.base.files import atomic, read_json
from utils.evaluation.metrics import majority
from utils.evaluation.predictions import table_text

# matplotlib and tensorboard are imported where they are first used, since training does without them; pandas, since it is slow.

DPI = 100  # dots per inch of a picture
MAX_SIDE = 20_000  # dots: a picture of very many attributes has fewer per inch
# Of metrics.csv, besides epoch and lr; each also with an attribute's name behind it.
COLUMNS = {"train_loss": "training loss", "val_top1": "validation Top-1", "val_acsa": "validation ACSA"}
COLORS = "#222222 #0072b2 #d55e00 #009e73 #cc79a7 #e69f00 #56b4e9 #999999".split()  # Okabe and Ito's
# For letters that matplotlib's own font lacks; those that are installed are taken.
FONTS = "Noto Sans CJK KR,Noto Sans CJK JP,NanumGothic,Malgun Gothic,Apple SD Gothic Neo,Microsoft YaHei"
LINES = ("-", "--", ":", "-.")  # where there are more lines than colours


class Run(NamedTuple):
    """What is drawn of a run."""

    metrics: Any  # of metrics.csv, pandas.DataFrame of floats: a row for each epoch, NaN for no score
    score: str  # the column that best.pt follows
    majorities: Dict[str, float]  # column -> the same of always naming the most frequent class


def new_figure(title, width, height):
    """An empty matplotlib figure of so many inches, with the title over all.

    It knows nothing of pyplot; the fonts are set for all of matplotlib. Raises: UserError if matplotlib is not installed.
    """
    try:
        from matplotlib import font_manager, rcParams
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(f"matplotlib is needed for it ({error}): pip install matplotlib") from error
    installed = {font.name for font in font_manager.fontManager.ttflist}
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # of weights that a font lacks
    rcParams["font.family"] = ["sans-serif", *(name for name in FONTS.split(",") if name in installed)]
    size = max(width, 7), height  # the title fits
    figure = Figure(figsize=size, dpi=min(DPI, MAX_SIDE / max(size)), layout="constrained")
    figure.suptitle(title)
    return figure


def panels(title, count, columns, width, heights):
    """A figure with `count` axes in rows of `columns`; figure, axes. Raises: as `new_figure`.

    Args: `width` of each, inches; `heights`, one, or that of each row.
    """
    heights = np.broadcast_to(heights, -(-count // columns))
    figure = new_figure(title, columns * width, heights.sum() + 0.6)
    axes = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights).ravel()
    for ax in axes[count:]:
        ax.remove()
    return figure, axes[:count]


def save(figure, path):
    """Write a PNG whole or not at all, so that a viewer never sees half a picture."""
    with atomic(path, binary=True) as file, warnings.catch_warnings():
        # Of letters that no font has; docs/evaluation.md tells which one to install.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(file, format="png")


def is_figure(head):
    """Whether a file that begins with these bytes is a figure, and no photo."""
    return b"Matplotlib" in head


def shortened_name(name, most=60):
    """A name or path as matplotlib draws it and nothing else, without its middle if it is too long. Args: `most`, latin letters
    that there is room for; others may be twice as wide."""
    widths = [1 + (east_asian_width(letter) in "WF") for letter in name]
    if sum(widths) > most:
        start, end = (np.count_nonzero(np.cumsum(one) <= most // 2) for one in (widths, widths[::-1]))
        name = f"{name[:start]}…{name[len(name) - end :]}"
    # `$` begins a formula, and `_` hides a line from the legend.
    name = name.replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name


def read_run(path):
    """What is drawn of a run, from its log folder, or its metrics.csv there: Run.

    Raises: UserError if there is none, or it is no table of epochs, or has no epoch yet, or for what is beside it.
    """
    import pandas as pd

    path, folder = (path, os.path.dirname(path)) if os.path.isfile(path) else (f"{path}/metrics.csv", path)
    options, classes = (os.path.join(folder, name) for name in ("args.json", "classes.csv"))
    best = read_json(options, "options").get("best", "top1") if os.path.exists(options) else "top1"
    majorities = {}
    try:
        metrics = pd.read_csv(path, dtype=float)
        metrics[["epoch", "lr", *COLUMNS]]
        if os.path.exists(classes):  # old runs have none
            counts = pd.read_csv(classes, dtype={"attribute": str}, keep_default_na=False)
            shares = counts.groupby("attribute")["val"].agg(majority)
            majorities = {f"val_top1_{key}": shares[table_text(key)] for key in _attributes(metrics)}
            majorities["val_top1"] = shares.mean()
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"no metrics.csv as train.py writes it, or classes.csv beside it ({reason_of(error)})"
        raise UserError(f"{path}: {problem}; name the log folder of a run, such as logs/student") from error
    if metrics.empty:
        raise UserError(f"{path}: no epoch is finished yet")
    return Run(metrics, f"val_{best}", majorities)


def _attributes(metrics):
    return [c[len("train_loss_") :] for c in metrics if c.startswith("train_loss_")]


def draw_curves(runs):
    """Learning curves. One run: a panel for each score, a line for each attribute; several: a panel for each
    score of each attribute, a line for each run. Dashed: the Top-1 of always naming the most frequent class.

    Args: `runs` dict name -> Run.
    Returns: matplotlib Figure, for `save`. Raises: UserError if matplotlib is not installed.
    """
    attributes = [key for run in runs.values() for key in _attributes(run.metrics)]
    suffixes = {"": "all attributes", **{f"_{key}": shortened_name(key, 30) for key in attributes}}
    shown, one = [], len(runs) == 1  # (title, [(run, column) of a line]); a list, since titles may be equal
    for column, title in COLUMNS.items():
        lines = [[(run, column + suffix) for run in runs.values()] for suffix in suffixes]
        each = zip([f"{title},\n{name}" for name in suffixes.values()], lines)
        shown += [(title, [line for (line,) in lines])] if one else each
    shown.append(("learning rate", [(run, "lr") for run in runs.values()]))
    epochs, best = zip(*(_best_epoch(name, run) for name, run in runs.items()))
    title, labels, columns = (best[0], suffixes.values(), 2) if one else ("", best, len(suffixes))
    height = max(3, 0.13 * len(suffixes))  # the legend has room
    figure, axes = panels(title, len(shown), columns, max(3.4, 11 / columns), height)
    for ax, (title, lines) in zip(axes, shown):
        for number, ((run, column), label) in enumerate(zip(lines, labels)):
            kind, color = LINES[number // len(COLORS) % len(LINES)], COLORS[number % len(COLORS)]
            values = run.metrics.reindex(columns=[column])[column]  # NaN where a run lacks the attribute
            ax.plot(run.metrics["epoch"], values, label=label, marker=".", linestyle=kind, color=color)
            if column in run.majorities:
                ax.axhline(run.majorities[column], linestyle="--", linewidth=1, color=color)
        if one:
            ax.axvline(epochs[0], color="#999999", linestyle=":", linewidth=1.2, label="epoch of best.pt")
        ax.set_title(title, fontsize=11)
        ax.set_xlabel("epoch", fontsize=9)
        ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        ax.grid(alpha=0.25)
    if any(run.majorities for run in runs.values()):
        axes[0].plot([], [], "--", linewidth=1, color="#999999", label="always the most frequent class")
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside right center", fontsize=10, frameon=False)
    return figure


def _best_epoch(name, run):
    """(Number of the epoch that best.pt follows, what is told of it)."""
    row = run.metrics.loc[run.metrics[run.score].fillna(0).idxmax()]
    names = {"val_top1": "Top-1", "val_acsa": "ACSA"}
    scores = ", ".join(f"{names[one]} {row[one]:.4f}" for one in names)
    said = f"epoch {row['epoch']:.0f} has the best mean {names[run.score]}: {scores}"
    return row["epoch"], f"{shortened_name(name)}\n{said}"
