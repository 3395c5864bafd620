"""Learning curves from metrics.csv: one run, or several laid over each other."""

import os
import warnings

from utils.base.errors import UserError, first_line
from utils.base.files import atomic

# matplotlib and tensorboard are imported where they are first used, since training does without them; pandas, since it is slow.

DPI = 100  # dots per inch of a picture
MAX_SIDE = 20_000  # dots: a picture of very many attributes has fewer per inch
# Of metrics.csv, besides epoch and lr; each also with an attribute's name behind it.
COLUMNS = {"train_loss": "training loss", "val_top1": "validation Top-1", "val_acsa": "validation ACSA"}
COLORS = "#222222 #0072b2 #d55e00 #009e73 #cc79a7 #e69f00 #56b4e9 #999999".split()  # Okabe and Ito's
# For letters that matplotlib's own font lacks; those that are installed are taken.
FONTS = "Noto Sans CJK KR,Noto Sans CJK JP,NanumGothic,Malgun Gothic,Apple SD Gothic Neo,Microsoft YaHei"
LINES = ("-", "--", ":", "-.")  # where there are more lines than colours


def panels(title, count, columns, width, height):
    """A matplotlib figure with `count` axes in rows of `columns`, each `width` x `height` inches; figure, axes.

    It knows nothing of pyplot; the fonts are set for all of matplotlib. Raises: UserError if matplotlib is not installed.
    """
    try:
        from matplotlib import font_manager, rcParams
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(f"matplotlib is needed for it ({error}): pip install matplotlib") from error
    installed = {font.name for font in font_manager.fontManager.ttflist}
    rcParams["font.family"] = ["sans-serif", *(name for name in FONTS.split(",") if name in installed)]
    rows = -(-count // columns)
    size = max(columns * width, 7), rows * height + 0.6  # the title fits
    figure = Figure(figsize=size, dpi=min(DPI, MAX_SIDE / max(size)), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
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
    """A name or path as matplotlib draws it and nothing else, without its middle if it is too long."""
    if len(name) > most:
        name = f"{name[: most // 2]}…{name[-(most // 2) :]}"
    # `$` begins a formula, and `_` hides a line from the legend.
    name = name.replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name


def read_metrics(path):
    """A metrics.csv, or that of a log folder: pandas.DataFrame of floats, a row for each epoch, NaN for no score.

    Raises: UserError if there is none, or it is no table of epochs, or has no epoch yet.
    """
    import pandas as pd

    try:
        table = pd.read_csv(os.path.join(path, "metrics.csv") if os.path.isdir(path) else path, dtype=float)
        table[["epoch", "lr", *COLUMNS]]
    except (OSError, ValueError, KeyError) as error:
        way_out = "name the log folder of a run, such as logs/student"
        raise UserError(
            f"{path}: no metrics.csv as train.py writes it ({first_line(error)}); {way_out}"
        ) from error
    if table.empty:
        raise UserError(f"{path}: no epoch is finished yet")
    return table


def draw_curves(runs, score="val_top1"):
    """Learning curves. One run: a panel for each score, a line for each attribute; several: a panel for each
    score of each attribute, a line for each run.

    Args: `runs` dict name -> table from `read_metrics`; `score`, the column whose best epoch is marked.
    Returns: matplotlib Figure, for `save`. Raises: UserError if matplotlib is not installed.
    """
    tables, best = list(runs.values()), []
    for name, table in runs.items():
        row, names = table.loc[table[score].fillna(0).idxmax()], {"val_top1": "Top-1", "val_acsa": "ACSA"}
        scores = ", ".join(f"{names[one]} {row[one]:.4f}" for one in names)
        best.append(
            f"{shortened_name(name)}: epoch {row['epoch']:.0f} has the best mean {names[score]}: {scores}"
        )
    start = len("train_loss_")
    attributes = [c[start:] for table in tables for c in table if c.startswith("train_loss_")]
    suffixes = {"": "all attributes", **{f"_{key}": shortened_name(key, 30) for key in attributes}}
    one = len(runs) == 1
    shown = []  # (title, [(table, column) of a line]); a list, since titles may be equal
    for column, title in COLUMNS.items():
        lines = [[(table, column + suffix) for table in tables] for suffix in suffixes]
        each = zip([f"{title}, {name}" for name in suffixes.values()], lines)
        shown += [(title, [line for (line,) in lines])] if one else each
    shown.append(("learning rate", [(table, "lr") for table in tables]))
    title, labels, columns = (best[0], suffixes.values(), 2) if one else ("", best, len(suffixes))
    height = 3 + 0.06 * len(labels)  # there are about four rows, and the legend is below them
    figure, axes = panels(title, len(shown), columns, max(3.4, 11 / columns), height)
    for ax, (title, lines) in zip(axes, shown):
        for number, ((table, column), label) in enumerate(zip(lines, labels)):
            values = table.reindex(columns=[column])[column]  # NaN where a run does not have the attribute
            kind, color = LINES[number // len(COLORS) % len(LINES)], COLORS[number % len(COLORS)]
            ax.plot(table["epoch"], values, label=label, marker=".", linestyle=kind, color=color)
        if one:
            ax.axvline(
                row["epoch"], color="#999999", linestyle=":", linewidth=1.2, label=f"best {names[score]}"
            )
        ax.set_title(title, fontsize=11)
        ax.set_xlabel("epoch", fontsize=9)
        ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        ax.grid(alpha=0.25)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", fontsize=10, frameon=False)
    return figure
