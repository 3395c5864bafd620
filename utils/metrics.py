"""Figures of predictions against labels; how sure they are; paired tests of two networks on the same images.

Everything here takes arrays over the N images of one data set: labels and predictions int `(N,)`, probabilities
or logits float `(N, classes)`, hits (prediction == label) bool `(N,)`, or dicts of them by attribute. An image
whose label of an attribute is not known (-1) counts in no figure of that attribute.
"""

import numpy as np

from utils.attributes import UNKNOWN

# scikit-learn and scipy.stats are imported where they are used: they take a second, and training needs neither.

BINS = (
    15  # of the confidence, as in Guo et al., "On Calibration of Modern Neural Networks" (arXiv:1706.04599)
)
RESAMPLES = 2000  # of the bootstrap
FLIPS = 10000  # of the permutation test: p-values go down to 1 / 10001
FLIPS_AT_ONCE = 1_000_000  # as many signs are held in memory

# --- figures -----------------------------------------------------------------------------------------


def confusion_matrix(labels, predictions, classes):
    """Counts, int64 `(classes, classes)`: rows are labels, columns are predictions."""
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    known = labels != UNKNOWN
    pairs = labels[known] * classes + predictions[known]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def accuracies(hits, counts):
    """Top-1 and ACSA from the number of hits and of images of each class; None, None without any image.

    ACSA, the average class-specific accuracy, is the mean over the classes that occur.
    """
    occurs = counts > 0
    if not occurs.any():
        return None, None
    return float(hits.sum() / counts.sum()), float(np.mean(hits[occurs] / counts[occurs]))


def mean(values):
    """The mean of those that are not None; None if all are."""
    values = [value for value in values if value is not None]
    return float(np.mean(values)) if values else None


def confusion_matrices(logits, labels):
    """Attribute -> confusion matrix, from dicts of logits and of labels."""
    return {
        key: confusion_matrix(labels[key], np.asarray(values).argmax(axis=1), values.shape[1])
        for key, values in logits.items()
    }


def scores(matrix):
    """Metrics from the matrices.

    Args: `matrix` attribute -> matrix.
    Returns: {"matrix": {attribute: matrix}, "top1": {attribute: float}, "acsa": {attribute: float},
        "mean_top1": float, "mean_acsa": float}; an attribute without any label has None, and no part in the means.
    """
    pairs = {key: accuracies(np.diag(m), np.sum(m, axis=1)) for key, m in matrix.items()}
    each = {name: {key: pair[i] for key, pair in pairs.items()} for i, name in enumerate(("top1", "acsa"))}
    means = {f"mean_{name}": mean(score.values()) for name, score in each.items()}
    return dict(matrix=matrix, **each, **means)


def evaluate(logits, labels):
    """Metrics of one data set, see `scores`."""
    return scores(confusion_matrices(logits, labels))


def macro_f1(labels, predictions):
    """Mean of the classes' F1, over the classes that occur among the known labels or their predictions; None without any."""
    from sklearn.metrics import f1_score

    known = labels != UNKNOWN
    if not known.any():
        return None
    return float(f1_score(labels[known], predictions[known], average="macro", zero_division=0))


def calibration(probabilities, labels, bins=BINS):
    """How well the confidence (largest probability) tells the share of right predictions.

    Returns: {"ece": the gap between the two, the mean over the images, None without any; "count", "confidence",
        "accuracy": lists by bin of equal width, None in an empty one}.
    """
    probabilities, labels = probabilities[labels != UNKNOWN], labels[labels != UNKNOWN]
    confidence = probabilities.max(axis=1).astype(np.float64)
    hits = probabilities.argmax(axis=1) == labels
    # Bins are open at their lower end, as published: a confidence of exactly 1 belongs to the last.
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    sums = [np.bincount(index, weights=values, minlength=bins) for values in (confidence, hits)]
    ece = float(np.abs(sums[0] - sums[1]).sum() / len(labels)) if len(labels) else None
    means = [[float(s / n) if n else None for s, n in zip(values, count)] for values in sums]
    return {"ece": ece, "count": count.tolist(), "confidence": means[0], "accuracy": means[1]}


def evaluation(probabilities, labels):
    """Everything that evaluate.py reports of one network on one data set.

    Args: dicts attribute -> probabilities, labels.
    Returns: plain values: {"images", "mean_top1", "mean_top1_interval", "mean_acsa", "mean_acsa_interval",
        "mean_macro_f1", "mean_ece", "attributes": {attribute: {"images" with a known label, "top1", "acsa",
        "macro_f1", "ece", "matrix", "reliability"}}}; the intervals are [lower, upper] of 95 %. What has no label
        is None.
    """
    found = evaluate(probabilities, labels)
    predictions = {key: p.argmax(axis=1) for key, p in probabilities.items()}
    resampled = bootstrap(labels, {key: predictions[key] == labels[key] for key in labels})
    attributes = {}
    for key in labels:
        reliability = calibration(probabilities[key], labels[key])
        attributes[key] = {
            "images": int((labels[key] != UNKNOWN).sum()),
            "top1": found["top1"][key],
            "acsa": found["acsa"][key],
            "macro_f1": macro_f1(labels[key], predictions[key]),
            "ece": reliability.pop("ece"),
            "matrix": found["matrix"][key].tolist(),
            "reliability": reliability,
        }
    result = {"images": len(next(iter(labels.values())))}
    for name, values in resampled.items():
        result[name], result[f"{name}_interval"] = found[name], interval(values)
    for name in ("macro_f1", "ece"):
        result[f"mean_{name}"] = mean(figures[name] for figures in attributes.values())
    return {**result, "attributes": attributes}


# --- how sure they are -------------------------------------------------------------------------------


def bootstrap(labels, hits, resamples=RESAMPLES, seed=0):
    """Mean Top-1 and mean ACSA of data sets drawn from this one, with replacement, image by image.

    The same seed draws the same images, so that the figures of two networks can be subtracted pairwise.

    Args: dicts attribute -> labels, hits.
    Returns: {"mean_top1": float64 `(resamples,)`, "mean_acsa": likewise}; NaN where no known label was drawn.
    """
    rng = np.random.default_rng(seed)
    images = len(next(iter(labels.values())))
    # An image counts in one cell: its class, and whether it was a hit. The first two cells are for unknown labels.
    cells = [(2 * (labels[key] + 1) + hits[key], 2 * (int(labels[key].max()) + 2)) for key in labels]
    drawn_scores = []
    for _ in range(resamples):
        drawn = rng.integers(images, size=images)
        counts = [np.bincount(cell[drawn], minlength=size).reshape(-1, 2)[1:] for cell, size in cells]
        pairs = [accuracies(count[:, 1], count.sum(axis=1)) for count in counts]
        drawn_scores.append([mean(values) for values in zip(*pairs)])
    return dict(zip(("mean_top1", "mean_acsa"), np.array(drawn_scores, dtype=float).T))


def interval(values, level=0.95):
    """[lower, upper] end of the middle `level` of the values (percentile bootstrap); None if all are NaN."""
    values = values[~np.isnan(values)]
    ends = [50 * (1 - level), 50 * (1 + level)]
    return [float(end) for end in np.percentile(values, ends)] if len(values) else None


# --- two networks ------------------------------------------------------------------------------------


def compare(labels, first, second, seed=0):
    """How sure the difference (first - second) of two networks on the same images is.

    Args: dicts attribute -> labels, hits of the first network, hits of the second.
    Returns: {"mean_top1", "mean_acsa": {"difference", "interval" of 95 %, "p" of a permutation test},
        "attributes": {attribute: {"top1", "acsa": differences, "only_first", "only_second": images that one alone
        had right, "p" of an exact McNemar test of the Top-1}}}. All p-values are two-sided. What has no label is None.
    """
    resampled = [bootstrap(labels, hits, seed=seed) for hits in (first, second)]
    result = {}
    gains = {key: _gains(labels[key], first[key], second[key]) for key in labels}
    labelled = [pair for pair in gains.values() if pair is not None]
    for number, name in enumerate(("mean_top1", "mean_acsa")):
        by_image = np.sum([pair[number] for pair in labelled], axis=0) / max(len(labelled), 1)
        result[name] = {
            "difference": float(by_image.sum()) if labelled else None,
            "interval": interval(resampled[0][name] - resampled[1][name]),
            "p": sign_flip_test(by_image, seed=seed) if labelled else None,
        }
    result["attributes"] = {}
    for key, pair in gains.items():
        top1, acsa = (None, None) if pair is None else (float(values.sum()) for values in pair)
        known = labels[key] != UNKNOWN
        one, other = first[key][known], second[key][known]
        result["attributes"][key] = {
            "top1": top1,
            "acsa": acsa,
            "only_first": int((one & ~other).sum()),
            "only_second": int((other & ~one).sum()),
            "p": None if pair is None else mcnemar_test(one, other),
        }
    return result


def _gains(labels, first, second):
    """What each image adds to the difference in Top-1, and in ACSA, where a rare class counts more; None without a label."""
    known = labels != UNKNOWN
    if not known.any():
        return None
    difference = known * (first.astype(float) - second)
    count = np.bincount(labels[known])
    return difference / known.sum(), difference / (count[labels] * np.count_nonzero(count))


def sign_flip_test(differences, flips=FLIPS, seed=0):
    """Two-sided p-value of a paired permutation test: how often the sum of the images' differences would be
    as far from 0 if for each image a coin were tossed which of the two networks was which."""
    from scipy.stats import monte_carlo_test  # permutation_test is 100 times slower, and more in scipy 1.9

    differences = differences[differences != 0]
    if not len(differences):
        return 1.0
    rng = np.random.default_rng(seed)
    test = monte_carlo_test(
        differences,
        lambda size: differences * rng.choice(np.array([-1.0, 1.0]), size),
        lambda values, axis: np.abs(values.sum(axis=axis)).round(12),  # rounding is no difference
        vectorized=True,
        n_resamples=flips,
        batch=1 + FLIPS_AT_ONCE // len(differences),
        alternative="greater",
    )
    return float(test.pvalue)


def mcnemar_test(first, second):
    """Two-sided p-value of McNemar's exact test on two networks' hits: of the images that one alone had
    right, are as many the first's as the second's?"""
    from scipy.stats import binomtest

    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second).pvalue)
