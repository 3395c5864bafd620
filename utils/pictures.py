"""Pictures of an evaluation: confusion matrices, reliability diagram, the most confident mistakes."""

import numpy as np

from utils import plots
from utils.attributes import ATTRIBUTES

MISTAKES = 12  # photos of each attribute
COLUMNS = 6  # of the page of mistakes
BLUE, RED, GREY = "#0072b2", "#c0392b", "#999999"


def draw_confusion(result, path, title):
    """Row-normalised confusion matrices of all attributes, with the counts, into a PNG.

    Args: `result` from `utils.statistics.evaluation`; `title` of the page.
    """
    sizes = [len(attribute.classes) for attribute in ATTRIBUTES.values()]
    figure = plots.new_figure(0.8 * sum(sizes) + 1.5 * len(sizes), 0.8 * max(sizes) + 2.2)
    figure.suptitle(title)
    figure.get_layout_engine().set(w_pad=0.12)
    panels = figure.subplots(1, len(sizes), gridspec_kw={"width_ratios": sizes}, squeeze=False)[0]
    for ax, (key, attribute) in zip(panels, ATTRIBUTES.items()):
        counts = np.array(result[key]["matrix"])
        rows = counts.sum(axis=1, keepdims=True)
        shares = counts / np.maximum(rows, 1)
        ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for i, j in np.ndindex(*counts.shape):
            if counts[i, j]:
                color = "white" if shares[i, j] > 0.55 else "#222222"
                ax.text(
                    j, i - 0.08, f"{shares[i, j]:.2f}", ha="center", va="center", fontsize=10, color=color
                )
                ax.text(j, i + 0.27, f"{counts[i, j]}", ha="center", va="center", fontsize=7.5, color=color)
        ax.set_title(f"{key}\nTop-1 {result[key]['top1']:.4f}, ACSA {result[key]['acsa']:.4f}", fontsize=11)
        places = range(len(attribute.classes))
        ax.set_xticks(places)
        ax.set_xticklabels(attribute.classes, rotation=45, ha="right", rotation_mode="anchor", fontsize=10)
        ax.set_yticks(places)
        ax.set_yticklabels([f"{name} ({n})" for name, n in zip(attribute.classes, rows[:, 0])], fontsize=10)
        ax.set_xlabel("prediction")
        ax.set_anchor("N")
    panels[0].set_ylabel("label (images)")
    plots.save(figure, path)


def draw_reliability(result, path, title):
    """Reliability diagrams into a PNG: share of right predictions by confidence, and how many images.

    Args: `result` from `utils.statistics.evaluation`; `title` of the page.
    """
    figure = plots.new_figure(3.9 * len(ATTRIBUTES), 5.7)
    figure.suptitle(title)
    grid = figure.subplots(
        2, len(ATTRIBUTES), sharex=True, squeeze=False, gridspec_kw={"height_ratios": (3, 1)}
    )
    for above, below, (key, attribute) in zip(*grid, ATTRIBUTES.items()):
        reliability = result[key]["reliability"]
        bins = len(reliability["count"])
        middles = (np.arange(bins) + 0.5) / bins
        accuracy = np.array(reliability["accuracy"], dtype=float)  # None becomes NaN
        confidence = np.array(reliability["confidence"], dtype=float)
        above.bar(middles, accuracy, 0.94 / bins, color=BLUE, alpha=0.75, label="share of right predictions")
        above.plot(
            confidence, accuracy, "o", color="#222222", markersize=3.5, label="at the bin's mean confidence"
        )
        above.plot([0, 1], [0, 1], "--", color=RED, linewidth=1.2, label="confidence = share right")
        above.set_ylim(0, 1.02)
        above.set_xlim(0, 1)
        above.set_title(f"{key}: calibration error {result[key]['ece']:.4f}", fontsize=11)
        below.bar(middles, reliability["count"], 0.94 / bins, color=GREY)
        below.set_xlabel("confidence")
        for ax in (above, below):
            ax.axvline(
                1 / len(attribute.classes), color=GREY, linestyle=":", linewidth=1
            )  # the least there can be
            ax.tick_params(labelsize=9)
            ax.grid(alpha=0.25)
    grid[0][0].set_ylabel("share right")
    grid[1][0].set_ylabel("images")
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    plots.save(figure, path)


def draw_mistakes(probabilities, data, path, title):
    """A page of the wrong predictions with the highest probability, with their photos, into a PNG.

    Args: dict attribute -> probabilities `(N, classes)`; a `utils.dataset.Split`; `title` of the page.
    """
    mistakes = {key: confident_mistakes(probabilities[key], data.labels[key], MISTAKES) for key in ATTRIBUTES}
    rows = [max(1, -(-len(chosen) // COLUMNS)) for chosen, _ in mistakes.values()]
    figure = plots.new_figure(2.05 * COLUMNS, 2.75 * sum(rows) + 0.6)
    figure.suptitle(title)
    parts = figure.subfigures(len(rows), 1, squeeze=False, height_ratios=rows)[:, 0]
    for part, height, (key, attribute) in zip(parts, rows, ATTRIBUTES.items()):
        chosen, wrong = mistakes[key]
        part.suptitle(f"{key}: {len(chosen)} of {wrong} mistakes, the most confident first", weight="bold")
        panels = part.subplots(height, COLUMNS, squeeze=False).flat
        for ax in panels[len(chosen) :]:
            ax.axis("off")
        for ax, index in zip(panels, chosen):
            values, label = probabilities[key][index], data.labels[key][index]
            said = int(values.argmax())
            ax.imshow(data.pixels[index])
            ax.set_xticks([])
            ax.set_yticks([])
            ax.set_title(f"{attribute.classes[said]} {values[said]:.1%}", fontsize=9.5, color=RED, pad=3)
            ax.set_xlabel(f"label: {attribute.classes[label]} {values[label]:.1%}", fontsize=9, labelpad=3)
    plots.save(figure, path)


def confident_mistakes(probabilities, labels, most):
    """(Indices of the `most` wrong predictions that are most confident, in that order; how many are wrong)."""
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    order = np.argsort(-probabilities[wrong].max(axis=1), kind="stable")
    return wrong[order][:most], len(wrong)
