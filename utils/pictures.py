"""Pictures of an evaluation: confusion matrices, reliability diagrams, the most confident mistakes."""

import numpy as np

from utils import plots
from utils.attributes import UNKNOWN
from utils.errors import excerpt
from utils.report import score

MISTAKES = 12  # photos of each attribute; half as many where there are many attributes
COLUMNS = 6  # of the page of mistakes
WIDTH = 18  # inches, of a row of confusion matrices
MOST_NUMBERS, MOST_NAMES = 16, 60  # classes, for numbers in the cells and names at the sides
BLUE, RED, GREY, DARK = "#0072b2", "#c0392b", "#999999", "#222222"


def draw_confusion(result, attributes, path, title):
    """Row-normalised confusion matrices of all attributes, with the counts, into a PNG.

    Args: `result` from `utils.metrics.evaluation`; `attributes`; `title` of the page.
    """
    sides = {key: min(max(0.8 * classes, 3.2), 9) for key, classes in attributes.sizes.items()}  # inches
    rows, used = [[]], 0
    for key, side in sides.items():
        used += side + 1.5
        if used > WIDTH and rows[-1]:
            rows.append([])
            used = side + 1.5
        rows[-1].append(key)
    heights = [max(sides[key] for key in row) + 1.9 for row in rows]
    width = max(7, *(sum(sides[key] + 1.5 for key in row) for row in rows))  # 7: the title fits
    figure = plots.new_figure(width, sum(heights) + 0.4)
    figure.suptitle(title)
    parts = figure.subfigures(len(rows), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, row in zip(parts, rows):
        widths = [sides[key] + 1.5 for key in row]
        rest = max(width - sum(widths), 0.01)
        panels = part.subplots(1, len(row) + 1, squeeze=False, width_ratios=[*widths, rest])[0]
        panels[-1].axis("off")
        for ax, key in zip(panels, row):
            _confusion_panel(ax, key, attributes[key].classes, result["attributes"][key])
    plots.save(figure, path)


def _confusion_panel(ax, key, classes, figures):
    counts = np.array(figures["matrix"])
    rows = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(rows, 1)
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    few = len(classes) <= MOST_NUMBERS
    for i, j in zip(*np.nonzero(counts)) if few else ():
        style = dict(ha="center", va="center", color="white" if shares[i, j] > 0.55 else DARK)
        scale = min(1, 11 / len(classes))
        ax.text(j, i - 0.08, f"{shares[i, j]:.2f}", fontsize=10 * scale, **style)
        ax.text(j, i + 0.27, f"{counts[i, j]}", fontsize=7.5 * scale, **style)
    ax.set_title(
        f"{plots.plain(excerpt(key, 30))}\nTop-1 {score(figures['top1'])}, ACSA {score(figures['acsa'])}",
        fontsize=11,
    )
    places = range(len(classes) if len(classes) <= MOST_NAMES else 0)
    names = [plots.plain(excerpt(classes[place], 24)) for place in places]
    size = 10 if few else 7
    ax.set_xticks(places)
    ax.set_xticklabels(
        names,
        rotation=45 if few else 90,
        ha="right",
        rotation_mode="anchor",
        va="top" if few else "center",
        fontsize=size,
    )
    ax.set_yticks(places)
    ax.set_yticklabels([f"{name} ({n})" for name, n in zip(names, rows[:, 0])], fontsize=size)
    ax.set_xlabel("prediction")
    ax.set_ylabel("label (images)")
    ax.set_anchor("N")


def draw_reliability(result, attributes, path, title):
    """Reliability diagrams into a PNG: share of right predictions by confidence, and how many images.

    Args: as of `draw_confusion`.
    """
    columns = min(len(attributes), 4)
    rows = -(-len(attributes) // columns)
    figure = plots.new_figure(max(3.9 * columns, 6), 5.3 * rows + 0.4)
    figure.suptitle(title)
    grid = figure.add_gridspec(rows, columns)
    for place, (key, classes) in zip(grid, attributes.sizes.items()):
        parts = place.subgridspec(2, 1, height_ratios=(3, 1))
        above = figure.add_subplot(parts[0])
        below = figure.add_subplot(parts[1], sharex=above)
        figures = result["attributes"][key]
        _reliability_panel(above, below, figures["reliability"])
        above.set_title(
            f"{plots.plain(excerpt(key, 30))}: calibration error {score(figures['ece'])}", fontsize=11
        )
        for ax in (above, below):
            ax.axvline(1 / classes, color=GREY, linestyle=":", linewidth=1)  # the least there can be
            ax.tick_params(labelsize=9)
            ax.grid(alpha=0.25)
    figure.legend(*above.get_legend_handles_labels(), loc="outside lower center", ncols=columns, fontsize=9)
    plots.save(figure, path)


def _reliability_panel(above, below, reliability):
    bins = len(reliability["count"])
    middles = (np.arange(bins) + 0.5) / bins
    accuracy = np.array(reliability["accuracy"], dtype=float)  # None becomes NaN
    confidence = np.array(reliability["confidence"], dtype=float)
    above.bar(middles, accuracy, 0.94 / bins, color=BLUE, alpha=0.75, label="share of right predictions")
    above.plot(confidence, accuracy, "o", color=DARK, markersize=3.5, label="at the bin's mean confidence")
    above.plot([0, 1], [0, 1], "--", color=RED, linewidth=1.2, label="confidence = share right")
    above.set_ylim(0, 1.02)
    above.set_xlim(0, 1)
    above.set_ylabel("share right")
    below.bar(middles, reliability["count"], 0.94 / bins, color=GREY)
    below.set_xlabel("confidence")
    below.set_ylabel("images")


def draw_mistakes(probabilities, attributes, data, path, title):
    """A page of the wrong predictions with the highest probability, with their photos, into a PNG.

    Args: dict attribute -> probabilities `(N, classes)`; a `utils.dataset.Split`; `title` of the page.
    """
    most = MISTAKES if len(attributes) <= 8 else COLUMNS
    mistakes = {key: confident_mistakes(probabilities[key], data.labels[key], most) for key in attributes}
    rows = [max(1, -(-len(chosen) // COLUMNS)) for chosen, _ in mistakes.values()]
    figure = plots.new_figure(2.05 * COLUMNS, 2.75 * sum(rows) + 0.6)
    figure.suptitle(title)
    parts = figure.subfigures(len(rows), 1, squeeze=False, height_ratios=rows)[:, 0]
    for part, height, (key, attribute) in zip(parts, rows, attributes.items()):
        chosen, wrong = mistakes[key]
        name = plots.plain(excerpt(key, 60))
        part.suptitle(f"{name}: {len(chosen)} of {wrong} mistakes, the most confident first", weight="bold")
        panels = part.subplots(height, COLUMNS, squeeze=False).flat
        for ax in panels[len(chosen) :]:
            ax.axis("off")
        names = [plots.plain(excerpt(name, 13)) for name in attribute.classes]
        for ax, index in zip(panels, chosen):
            values, label = probabilities[key][index], data.labels[key][index]
            said = int(values.argmax())
            ax.imshow(data.pixels[index])
            ax.set_xticks([])
            ax.set_yticks([])
            ax.set_title(f"{names[said]} {values[said]:.1%}", fontsize=9.5, color=RED, pad=3)
            ax.set_xlabel(f"label: {names[label]} {values[label]:.1%}", fontsize=9, labelpad=3)
    plots.save(figure, path)


def confident_mistakes(probabilities, labels, most):
    """(Indices of the `most` wrong predictions that are most confident, in that order; how many are wrong)."""
    wrong = np.flatnonzero((labels != UNKNOWN) & (probabilities.argmax(axis=1) != labels))
    order = np.argsort(-probabilities[wrong].max(axis=1), kind="stable")
    return wrong[order][:most], len(wrong)
