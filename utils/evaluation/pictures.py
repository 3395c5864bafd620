"""Pictures of an evaluation: confusion matrices, reliability diagrams, the most confident mistakes."""

import numpy as np

from utils.base.log import score
from utils.data.attributes import UNKNOWN
from utils.evaluation import plots
from utils.evaluation.plots import shortened_name

MISTAKES = 12  # photos of each attribute; half as many where there are many attributes
ACROSS = 6  # of the page of mistakes
MOST_NUMBERS, MOST_NAMES = 16, 60  # classes, for numbers in the cells and names at the sides
BLUE, RED, GREY, DARK = "#0072b2", "#c0392b", "#bbbbbb", "#222222"


def draw_confusion(result, attributes, path, title):
    """Row-normalised confusion matrices of all attributes, with the counts, into a PNG.

    Args: `result` from `utils.evaluation.metrics.report`; `attributes`; `title` of the page.
    """
    side = min(max(0.75 * max(attributes.sizes.values()), 3), 7) + 2  # inches, of which 2 are for the names
    figure, axes = plots.panels(title, len(attributes), min(len(attributes), 3), side, side)
    for ax, (key, attribute) in zip(axes, attributes.items()):
        figures, classes = result["attributes"][key], len(attribute.classes)
        counts = np.array(figures["matrix"])
        images = counts.sum(axis=1)
        shares = counts / np.maximum(images, 1)[:, None]
        ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for i, j in np.argwhere(counts) if classes <= MOST_NUMBERS else ():
            color = "white" if shares[i, j] > 0.55 else DARK
            text = f"{shares[i, j]:.2f}\n{counts[i, j]}"
            ax.text(j, i, text, ha="center", va="center", color=color, fontsize=min(10, 110 / classes))
        heading = f"Top-1 {score(figures['top1'])}, ACSA {score(figures['acsa'])}"
        ax.set_title(f"{shortened_name(key, 30)}\n{heading}", fontsize=11)
        names = [shortened_name(name, 24) for name in attribute.classes] if classes <= MOST_NAMES else []
        size = min(10, 350 / classes)
        ax.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
        counted = [f"{name} ({n})" for name, n in zip(names, images)]
        ax.set_yticks(range(len(names)), counted, fontsize=size)
        ax.set(xlabel="prediction", ylabel="label (images)")
    plots.save(figure, path)


def draw_reliability(result, attributes, path, title):
    """Reliability diagrams into a PNG: share of right predictions by confidence, and of the images.

    Args: as of `draw_confusion`.
    """
    figure, axes = plots.panels(title, len(attributes), min(len(attributes), 4), 3.9, 4.3)
    for ax, (key, classes) in zip(axes, attributes.sizes.items()):
        figures = result["attributes"][key]
        bins = {name: np.array(values, dtype=float) for name, values in figures["reliability"].items()}
        count, number = bins["count"], len(bins["count"])
        middles, images = (np.arange(number) + 0.5) / number, np.maximum(count.sum(), 1)
        ax.bar(middles, count / images, 0.94 / number, color=GREY, label="share of the images")
        ax.plot(bins["confidence"], bins["accuracy"], "o-", color=BLUE, label="share of right predictions")
        ax.plot([0, 1], [0, 1], "--", color=RED, linewidth=1.2, label="confidence = share right")
        ax.axvline(1 / classes, color=DARK, linestyle=":", linewidth=1, label="lowest confidence possible")
        ax.set_title(f"{shortened_name(key, 30)}: calibration error {score(figures['ece'])}", fontsize=11)
        ax.set(xlabel="confidence", xlim=(0, 1), ylim=(0, 1.02))
        ax.grid(alpha=0.25)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9)
    plots.save(figure, path)


def draw_mistakes(probabilities, attributes, labels, pixels, path, title):
    """A page of the wrong predictions with the highest probability, with their photos, into a PNG.

    Args: dict attribute -> probabilities `(N, classes)`; labels int64 `(N,)`; `pixels` of the photos; `title` of the page.
    """
    most = MISTAKES if len(attributes) <= 8 else ACROSS
    figure, axes = plots.panels(title, most * len(attributes), ACROSS, 2.05, 2.9)
    for block, (key, attribute) in zip(axes.reshape(-1, most), attributes.items()):
        chosen, wrong = confident_mistakes(probabilities[key], labels[key], most)
        heading = f"{shortened_name(key)}: {len(chosen)} of {wrong} mistakes, the most confident first"
        # In the space between the rows: as part of the layout it would move the photos apart.
        block[0].text(0, 1.19, heading, transform=block[0].transAxes, weight="bold", in_layout=False)
        names = [shortened_name(name, 13) for name in attribute.classes]
        for ax in block[len(chosen) :]:
            ax.axis("off")
            ax.set_box_aspect(1)
        for ax, index in zip(block, chosen):
            values, label = probabilities[key][index], labels[key][index]
            said = int(values.argmax())
            ax.imshow(pixels[index])
            ax.set(xticks=[], yticks=[])
            ax.set_title(f"{names[said]} {values[said]:.1%}", fontsize=9.5, color=RED, pad=3)
            ax.set_xlabel(f"label: {names[label]} {values[label]:.1%}", fontsize=9, labelpad=3)
    plots.save(figure, path)


def confident_mistakes(probabilities, labels, most):
    """(Indices of the `most` wrong predictions that are most confident, in that order; how many are wrong)."""
    wrong = np.flatnonzero((labels != UNKNOWN) & (probabilities.argmax(axis=1) != labels))
    order = np.argsort(-probabilities[wrong].max(axis=1), kind="stable")
    return wrong[order][:most], len(wrong)
