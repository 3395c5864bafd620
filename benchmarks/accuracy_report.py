"""Tables and picture of the results of benchmarks.accuracy. A run's score is that of its last epoch."""

import itertools
import json
import os
from pathlib import Path

import numpy as np

from utils.base.errors import UserError
from utils.base.files import atomic
from utils.base.log import logger
from utils.evaluation import plots
from utils.losses import LOSS_VERSION

LABELS = "labels"  # in place of a row's name: the record of a data set's labels
SCORES = {"top1": "Top-1", "acsa": "ACSA"}
WATCHED = {"skewed": "acsa", "photos": "top1"}  # the data sets, and which score the picture shows
BEGIN, END = "<!-- tables -->", "<!-- end of the tables -->"
HEADER = """\
| | Top-1 | ACSA | seeds | against | gain in Top-1 | gain in ACSA | minutes |
| --- | --: | --: | --: | --- | --: | --: | --: |"""


def read_results(path):
    """List of dicts, see `benchmarks.accuracy.record` and `add_labels`; empty without a file."""
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write_report(path, rows):
    """Tables, between two comments of the page beside the results, and the picture. Args: `rows` of benchmarks.accuracy."""
    results, stem = read_results(path), os.path.splitext(path)[0]
    runs = {row: newest(row, results) or runs_of(row, results) for row in rows}
    found = {data: {row: runs[row] for row in rows if row.data == data} for data in WATCHED}
    found = {data: {row: runs for row, runs in one.items() if runs} for data, one in found.items()}
    found = {data: one for data, one in found.items() if one}
    if not found:
        raise UserError(f"{path}: no results of these rows yet; name photos with --photos or --skewed")
    plots.save(draw(found), f"{stem}.png")
    about = {one["data"]: one for one in results if one["row"] == LABELS}
    text = "\n\n".join("\n".join(table(about[data], one)) for data, one in found.items())
    logger.info(text)
    page = Path(f"{stem}.md")
    before, _, after = (page.read_text(encoding="utf-8") if page.exists() else "").partition(BEGIN)
    text += f"\n\n![Score over epoch and over time]({os.path.basename(stem)}.png)"
    with atomic(page) as file:
        file.write(f"{before}{BEGIN}\n{text}\n{END}" + (after.partition(END)[2] or "\n"))


def runs_of(row, results):
    """Dict seed -> record of a row's runs with its present options."""
    wanted = {"data": row.data, "row": row.name, "options": row.command}.items()
    return {one["seed"]: one for one in results if wanted <= one.items()}


def newest(row, results):
    """Those of them that were trained with the present loss, as far as it matters to the row."""
    new = [one for one in results if not row.is_touched or one.get("loss_version") == LOSS_VERSION]
    return runs_of(row, new)


# --- figures -----------------------------------------------------------------------------------------


def hits(predicted, labels):
    """0 and 1, float `(attributes, photos)`."""
    return np.array([[a == b for a, b in zip(predicted[key], labels[key])] for key in labels], dtype=float)


def weights(labels):
    """What a hit of each photo adds to the mean of a score: dict score -> float `(attributes, photos)`."""
    top1 = [[1 / len(text)] * len(text) for text in labels.values()]
    acsa = [[1 / (len(set(text)) * text.count(one)) for one in text] for text in labels.values()]
    return {"top1": np.array(top1) / len(labels), "acsa": np.array(acsa) / len(labels)}


def gain(new, old, weight):
    """(Paired difference of a score, its standard error). That of one seed is over the photos only.

    Args: hits `(seeds, attributes, photos)` of the same seeds; `weight` of the score, see `weights`.
    """
    gains = ((new - old) * weight).sum(axis=1)
    seeds, photos = gains.shape
    errors = [gains.mean(axis=0).std(ddof=1) * photos**0.5]
    if seeds > 1:
        errors.append(gains.sum(axis=1).std(ddof=1) / seeds**0.5)
    return gains.sum(axis=1).mean(), np.linalg.norm(errors)


# --- tables ------------------------------------------------------------------------------------------


def table(about, found):
    """Lines of one data set. Args: `about`, its record of labels; `found`, row -> seed -> record."""
    labels, weight, (train, val) = about["labels"], weights(about["labels"]), about["photos"]
    done = {
        row.name: {seed: hits(run["predicted"], labels) for seed, run in runs.items()}
        for row, runs in found.items()
    }
    machines = sorted({run["machine"] for runs in found.values() for run in runs.values()})
    yield f"**{about['data']}**: {train:,} photos for training, {val:,} for validation; {'; '.join(machines)}\n"
    yield HEADER
    frequent = {key: one * val for key, one in about["frequent"].items()}
    yield f"| always the most frequent classes | {shown_scores([hits(frequent, labels)], weight)} | | | | | |"
    for row, runs in found.items():
        scores = shown_scores(list(done[row.name].values()), weight)
        gains = shown_gains(done[row.name], done.get(row.against, {}), weight)
        minutes = np.mean([sum(run["seconds"]) for run in runs.values()]) / 60
        name = row.name if runs == newest(row, runs.values()) else f"{row.name} (older loss)"
        yield f"| {name} | {scores} | {len(runs)} | {row.against} | {gains} | {minutes:.1f} |"


def shown_scores(runs, weight):
    """Two cells: mean ± standard deviation over the seeds."""
    cells = []
    for name in SCORES:
        values = [(one * weight[name]).sum() for one in runs]
        spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
        cells.append(f"{np.mean(values):.4f}{spread}")
    return " | ".join(cells)


def shown_gains(new, old, weight):
    """Two cells: difference ± standard error, bold where it pays. Args: dicts seed -> hits."""
    seeds, cells = sorted(set(new) & set(old)), []
    if not seeds:
        return " | "
    new, old = (np.array([one[seed] for seed in seeds]) for one in (new, old))
    for name in SCORES:
        mean, error = gain(new, old, weight[name])
        bold = "**" if len(seeds) > 1 and mean > 2 * error else ""
        cells.append(f"{bold}{mean:+.4f} ± {error:.4f}{bold}")
    return " | ".join(cells)


# --- picture -----------------------------------------------------------------------------------------


def draw(found):
    """Score over epoch and over time, a line a row, the mean over its seeds. Args: data set -> row -> seed -> record."""
    figure, axes = plots.panels("", 2 * len(found), 2, 5.5, 4.2)
    for (data, rows), left, right in zip(found.items(), axes[::2], axes[1::2]):
        styles = itertools.product(plots.LINES, plots.COLORS)
        for (row, runs), (line, color) in zip(rows.items(), styles):
            if not row.drawn:
                continue
            names = (f"val_{WATCHED[data]}", "seconds")
            scores, seconds = (np.mean([run[name] for run in runs.values()], axis=0) for name in names)
            style = dict(label=row.name, linestyle=line, color=color, marker="o", markersize=3)
            left.plot(range(1, 1 + len(scores)), scores, **style)
            right.plot(seconds.cumsum() / 60, scores, **style)
        for ax, unit in ((left, "epoch"), (right, "minutes")):
            set_axes(ax, unit, f"{data}: {SCORES[WATCHED[data]]}")
        right.legend(fontsize=7)
    return figure


def set_axes(ax, unit, title):
    """Scores over time: the latter by its logarithm, in plain numbers."""
    ax.set(title=title, xlabel=unit, xscale="log")
    ax.xaxis.get_major_locator().set_params(subs=(1, 2, 5))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter("")
    ax.grid(alpha=0.25)
