"""Pictures of an evaluation: confusion matrices, reliability diagrams, the most confident mistakes."""

import os

import numpy as np

from utils.base.log import score
from utils.data.attributes import UNKNOWN
from utils.data.photos import SIZE, fit, letterbox, photo_size, read_rgb
from utils.evaluation import plots
from utils.evaluation.confidence import curve, softened
from utils.evaluation.plots import shortened_name

MISTAKES = 12  # photos of each attribute; half as many where there are many attributes
ACROSS = 6  # of the page of mistakes
FEW, MOST = 20, 200  # classes: for all figures in the file's order, and in a matrix at all
A_POINT, MOST_POINTS = 20, 10  # photos of a point of the reliability, about, and points
BLUE, RED, GREY, DARK, LIGHT = "#0072b2", "#c0392b", "#bbbbbb", "#222222", "#e4e4e4"


def draw_confusion(result, attributes, path, title):
    """Confusion matrices of all attributes, as shares of each label's photos, into a PNG.

    Args: `result` from `utils.evaluation.metrics.report`; `attributes`; `title` of the page.
    """
    sides = [_side(min(classes, MOST)) + 2 for classes in attributes.sizes.values()]  # with room for names
    columns = min(len(sides), 3) if max(attributes.sizes.values()) <= FEW else 1
    heights = [max(sides[start : start + columns]) for start in range(0, len(sides), columns)]
    figure, axes = plots.panels(title, len(sides), columns, max(sides) + 0.6, heights)
    for ax, (key, attribute) in zip(axes, attributes.items()):
        image = _draw_matrix(ax, attribute, result["attributes"][key])
    figure.colorbar(image, ax=axes[:columns], label="% of the label's photos", shrink=0.6, panchor=False)
    plots.save(figure, path)


def _side(classes):
    """Inches of a matrix."""
    return min(max(0.75 * classes, 2.8), 8) if classes <= FEW else max(8, 0.17 * classes)


def _draw_matrix(ax, attribute, figures):
    """One matrix, of the `figures` of its attribute. Returns: matplotlib's image."""
    counts, classes = np.array(figures["matrix"]), len(attribute.classes)
    photos, few = counts.sum(axis=1), classes <= FEW
    order = np.arange(classes) if few else np.argsort(-photos, kind="stable")[:MOST]
    photos, counts = photos[order], counts[np.ix_(order, order)]
    shares = 100 * counts / np.maximum(photos, 1)[:, None]
    image = ax.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    cell = 72 * _side(len(order)) / len(order)  # points
    for i, j in np.argwhere(counts if few else shares > 10):
        text = f"{shares[i, j]:.0f}%\n{counts[i, j]}" if few else f"{shares[i, j]:.0f}"
        color = "white" if shares[i, j] > 55 else DARK
        ax.text(j, i, text, ha="center", va="center", color=color, fontsize=min(10, cell / 2.2))
    heading = f"Top-1 {score(figures['top1'])}, ACSA {score(figures['acsa'])}"
    ax.set_title(f"{shortened_name(attribute.title, 30)}\n{heading}", fontsize=11)
    names = [shortened_name(attribute.classes[i], 24) for i in order]
    counted = [f"{name} ({n})" for name, n in zip(names, photos)]
    ax.set_xticks(range(len(order)), names, rotation=90, fontsize=min(10, cell / 1.4))
    ax.set_yticks(range(len(order)), counted, fontsize=min(10, cell / 1.4))
    said = "in the file's order" if few else f"the most frequent of {classes} first"
    ax.set(xlabel="prediction", ylabel=f"label (photos), {said}", anchor="W")
    return image


def draw_reliability(result, probabilities, attributes, table, path, title):
    """Reliability diagrams into a PNG: share of right predictions by confidence, each point of equally many photos. Below them the
    share of right answers by how many are given, the surest first.

    Args: as of `draw_confusion`, whose `result` has "sure", too; dict attribute -> probabilities `(N, classes)`; `table` of the
        photos.
    """
    labels, curves = table.labels, len(attributes)
    figure, axes = plots.panels(title, 2 * curves, min(curves, 4), 3.9, 4.3)
    for ax, below, (key, attribute) in zip(axes, axes[curves:], attributes.items()):
        name, measured = shortened_name(attribute.title, 30), result["sure"]["attributes"][key]
        _draw_curve(below, name, measured, probabilities[key], labels[key], table.groups)
        known = labels[key] != UNKNOWN
        values, count = probabilities[key][known], np.count_nonzero(known)
        confidence, hits = values.max(axis=1), values.argmax(axis=1) == labels[key][known]
        weights = np.ones(count) / count
        ax.hist(confidence, 20, range=(0, 1), weights=weights, color=GREY, label="share of the photos")
        points = min(-(-count // A_POINT), MOST_POINTS)
        order = np.array_split(np.argsort(confidence), points) if count else []
        sure, right = ([part[photos].mean() for photos in order] for part in (confidence, hits))
        ax.plot(sure, right, "o-", color=BLUE, label="share of right predictions")
        ax.plot([0, 1], [0, 1], "--", color=RED, linewidth=1.2, label="confidence = share right")
        error = score(result["attributes"][key]["ece"])
        ax.set_title(f"{name}\ncalibration error {error}", fontsize=11)
        ax.set(xlabel="confidence", xlim=(0, 1), ylim=(0, 1.02))
        ax.grid(alpha=0.25)
    both = zip(*(ax.get_legend_handles_labels() for ax in axes[[0, curves]]))
    figure.legend(*map(sum, both, ([], [])), loc="outside lower center", ncols=2, fontsize=9)
    plots.save(figure, path)


def _draw_curve(ax, name, measured, probabilities, labels, groups):
    """Share of right answers by how many are given. Args: `measured`, an attribute's part of `utils.evaluation.confidence.measure`."""
    least, answered, right, lower = curve(softened(probabilities, measured["temperature"]), labels, groups)
    ax.plot(answered, right, color=BLUE, label="share of right answers")
    ax.plot(answered, lower, color=DARK, linewidth=1, label="the least that it is, at 95 %")
    marked = {text: share for text, share in measured["answered"].items() if share}
    ends, heights = list(marked.values()), list(map(float, marked))
    ax.vlines(ends, 0, heights, linestyles="--", color=RED, linewidth=1.2)
    ax.plot(ends, heights, "o", color=RED, label="--sure 0.90, 0.95, 0.99")
    said = [f"{text}: {end:.0%}, from {least[answered <= end].min():.3f} on" for text, end in marked.items()]
    ax.set_title("\n".join([name, *(said or ["nothing is sure"])]), fontsize=11)
    ax.set(xlabel="share of the photos with an answer", xlim=(0, 1), ylim=(right.min(initial=0.5), 1.01))
    ax.grid(alpha=0.25)


def draw_mistakes(probabilities, attributes, table, pixels, path, title):
    """A page of the wrong predictions with the highest probability, with their photos, into a PNG.

    Args: dict attribute -> probabilities `(N, classes)`; `table` of the photos, see `utils.data.dataset.Table`, and their
        letterboxed `pixels`; `title` of the page. Raises: OSError if a photo has gone since.
    """
    most = MISTAKES if len(attributes) <= 8 else ACROSS
    found = {key: confident_mistakes(probabilities[key], table.labels[key], most) for key in attributes}
    rows = [-(-len(chosen) // ACROSS) for chosen, _ in found.values()]
    heights = [0.4 + 2.9 * count for count in rows]
    said = "the most confident mistakes: above a photo the prediction, below it the label, and how probable"
    figure = plots.new_figure(f"{title}\n{said}", ACROSS * 2.05, sum(heights) + 0.6)
    blocks = figure.subfigures(len(rows), 1, squeeze=False, height_ratios=heights).ravel()
    for block, count, (key, attribute) in zip(blocks, rows, attributes.items()):
        chosen, wrong = found[key]
        known = np.count_nonzero(table.labels[key] != UNKNOWN)
        heading = f"{shortened_name(attribute.title)}: {wrong} of {known} labelled photos wrong"
        block.suptitle(heading, x=0.01, ha="left", fontsize=13)
        names = [shortened_name(name, 17) for name in attribute.classes]
        for place, index in enumerate(chosen, 1):
            values, label = probabilities[key][index], table.labels[key][index]
            said = int(values.argmax())
            ax = block.add_subplot(count, ACROSS, place)
            photo = _without_bars(pixels[index], table.photos.path(table.names[index]), table.exif)
            _draw_photo(ax, photo, table.names[index], f"{names[said]} {values[said]:.0%}", RED)
            ax.set_xlabel(f"label: {names[label]} {values[label]:.0%}", fontsize=9, labelpad=3)
    plots.save(figure, path)


def draw_doubts(doubts, answers, sheet, path, title):
    """A page of the first doubted cells, into a PNG: the photo, and of the cell's class and of the network's a typical photo each, of
    all that carry the class the one that is it most surely.

    Args: `doubts` of `utils.evaluation.fill.find_doubts`, from `answers` about a `sheet`; `title` of the page. Raises: OSError
        if a photo has gone since.
    """
    doubts, count, exif = doubts[:MISTAKES], -(-min(len(doubts), MISTAKES) // 2), sheet.attributes.layout.exif
    said = "the most doubted cells: the photo, and typical ones of the cell's class and of the network's"
    figure = plots.new_figure(f"{title}\n{said}", ACROSS * 2.05, 3.0 * count + 0.6)
    blocks = figure.subfigures(count, 2, squeeze=False, wspace=0.04).ravel()
    for block, (row, key) in zip(blocks, doubts):
        names = [shortened_name(name, 17) for name in sheet.attributes[key].classes]
        values, labels = answers[key], sheet.labels[key]
        label, instead = labels[row], int(values[row].argmax())
        heading = shortened_name(sheet.attributes[key].title, 30)
        block.suptitle(f"row {sheet.lines[row]}, {heading}: {names[label]}?", x=0.01, ha="left", fontsize=11)
        shown = [(f"{names[instead]} {values[row, instead]:.0%}", RED, row)]
        for number in (label, instead):
            carry = np.flatnonzero((labels == number) & (values[:, number] > 0))
            surest = sorted(carry[carry != row], key=lambda one: -values[one, number])
            shown += [(f"typical: {names[number]}", DARK, one) for one in surest[:1]]
        for place, (text, color, one) in enumerate(shown, 1):
            photo = _without_bars(letterbox(read_rgb(sheet.paths[one], exif)), sheet.paths[one], exif)
            _draw_photo(block.add_subplot(1, 3, place), photo, sheet.names[one], text, color)
    plots.save(figure, path)


def _draw_photo(ax, photo, name, heading, color):
    """A photo with a heading, and its name below."""
    ax.imshow(photo)
    ax.spines[:].set_color(LIGHT)
    ax.set(xticks=[], yticks=[], anchor="N")
    ax.set_title(heading, fontsize=9.5, color=color, pad=3)
    folder, name = os.path.split(name)
    file = f"{shortened_name(name, 26)}\n{shortened_name(folder, 26)}"
    ax.text(SIZE / 2, 1.12 * SIZE, file, ha="center", va="top", fontsize=7, color="#666666")


def _without_bars(pixels, path, exif):
    """A letterboxed photo on white instead of black. Args: its `path`, and `exif`, by which its size is known."""
    height, width, top, left = fit(*photo_size(path, exif))
    inside, photo = np.s_[top : top + height, left : left + width], np.full_like(pixels, 255)
    photo[inside] = pixels[inside]
    return photo


def confident_mistakes(probabilities, labels, most):
    """(Indices of the `most` wrong predictions that are most confident, in that order; how many are wrong)."""
    wrong = np.flatnonzero((labels != UNKNOWN) & (probabilities.argmax(axis=1) != labels))
    order = np.argsort(-probabilities[wrong].max(axis=1), kind="stable")
    return wrong[order][:most], len(wrong)
