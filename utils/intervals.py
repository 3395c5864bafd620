"""Macro-F1, calibration, bootstrap intervals, and paired tests of two networks on the same images.

Everything here takes arrays over the N images of one data set: labels and predictions int `(N,)`,
probabilities float `(N, classes)`, hits (prediction == label) bool `(N,)`, or dicts of them by attribute.
"""

import numpy as np

from utils import metrics

BINS = (
    15  # of the confidence, as in Guo et al., "On Calibration of Modern Neural Networks" (arXiv:1706.04599)
)
RESAMPLES = 2000  # of the bootstrap
FLIPS = 10000  # of the permutation test: p-values go down to 1 / 10001


def macro_f1(labels, predictions):
    """Mean of the classes' F1, over the classes that occur among the labels or the predictions."""
    from sklearn.metrics import f1_score  # takes a second to import

    return float(f1_score(labels, predictions, average="macro", zero_division=0))


def calibration(probabilities, labels, bins=BINS):
    """How well the confidence (largest probability) tells the share of right predictions.

    Returns: {"ece": the gap between the two, the mean over the images, "count", "confidence", "accuracy":
        lists by bin of equal width, None in an empty one}.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    hits = probabilities.argmax(axis=1) == labels
    # Bins are open at their lower end, as published: a confidence of exactly 1 belongs to the last.
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    sums = [np.bincount(index, weights=values, minlength=bins) for values in (confidence, hits)]
    gap = np.abs(sums[0] - sums[1]).sum() / len(labels)
    means = [[float(s / n) if n else None for s, n in zip(values, count)] for values in sums]
    return {"ece": float(gap), "count": count.tolist(), "confidence": means[0], "accuracy": means[1]}


def bootstrap(labels, hits, resamples=RESAMPLES, seed=0):
    """Mean Top-1 and mean ACSA of data sets drawn from this one, with replacement, image by image.

    The same seed draws the same images, so that the figures of two networks can be subtracted pairwise.

    Args: dicts attribute -> labels, hits.
    Returns: {"mean_top1": float64 `(resamples,)`, "mean_acsa": likewise}.
    """
    rng = np.random.default_rng(seed)
    images = len(next(iter(labels.values())))
    # An image counts in one cell: its class, and whether it was a hit.
    cells = [(2 * labels[key] + hits[key], 2 * (int(labels[key].max()) + 1)) for key in labels]
    scores = np.zeros((resamples, 2))
    for score in scores:
        drawn = rng.integers(images, size=images)
        for cell, size in cells:
            missed, hit = np.bincount(cell[drawn], minlength=size).reshape(-1, 2).T
            occurs = missed + hit > 0
            score += hit.sum() / images, np.mean(hit[occurs] / (missed + hit)[occurs])
    return dict(zip(("mean_top1", "mean_acsa"), scores.T / len(cells)))


def interval(values, level=0.95):
    """[lower, upper] end of the middle `level` of the values (percentile bootstrap)."""
    return [float(end) for end in np.percentile(values, [50 * (1 - level), 50 * (1 + level)])]


def compare(labels, first, second, seed=0):
    """How sure the difference (first - second) of two networks on the same images is.

    Args: dicts attribute -> labels, hits of the first network, hits of the second.
    Returns: {"mean_top1", "mean_acsa": {"difference", "interval" of 95 %, "p" of a permutation test},
        attribute: {"top1", "acsa": differences, "only_first", "only_second": images that one alone had right,
        "p" of an exact McNemar test of the Top-1}}. All p-values are two-sided.
    """
    result = {}
    resampled = [bootstrap(labels, hits, seed=seed) for hits in (first, second)]
    for name, shares in (("mean_top1", _top1_shares), ("mean_acsa", _acsa_shares)):
        parts = [shares(labels[k]) * (first[k].astype(float) - second[k]) for k in labels]
        by_image = np.sum(parts, axis=0) / len(labels)
        result[name] = {
            "difference": float(by_image.sum()),
            "interval": interval(resampled[0][name] - resampled[1][name]),
            "p": sign_flip_test(by_image, seed=seed),
        }
    for key in labels:
        difference = first[key].astype(float) - second[key]
        result[key] = {
            "top1": float((_top1_shares(labels[key]) * difference).sum()),
            "acsa": float((_acsa_shares(labels[key]) * difference).sum()),
            "only_first": int((difference > 0).sum()),
            "only_second": int((difference < 0).sum()),
            "p": mcnemar_test(first[key], second[key]),
        }
    return result


def _top1_shares(labels):
    """What a hit adds to the Top-1, by image."""
    return np.full(len(labels), 1 / len(labels))


def _acsa_shares(labels):
    """What a hit adds to the ACSA, by image: a hit in a rare class more."""
    count = np.bincount(labels)
    return 1 / (count[labels] * np.count_nonzero(count))


def sign_flip_test(differences, flips=FLIPS, seed=0):
    """Two-sided p-value of a paired permutation test: how often the sum of the images' differences would be
    as far from 0 if for each image it were a coin's toss which of the two networks was which."""
    differences = differences[differences != 0]
    observed = abs(differences.sum()) - 1e-12  # rounding is no difference
    rng, extreme = np.random.default_rng(seed), 0
    for first in range(0, flips, 500):  # 500 at a time: memory
        coins = rng.integers(2, size=(min(500, flips - first), len(differences)), dtype=np.int8)
        extreme += np.count_nonzero(np.abs((2 * coins - 1) @ differences) >= observed)
    return (extreme + 1) / (flips + 1)


def mcnemar_test(first, second):
    """Two-sided p-value of McNemar's exact test on two networks' hits: of the images that one alone had
    right, are as many the first's as the second's?"""
    from scipy.stats import binomtest

    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second).pvalue)


def evaluation(probabilities, labels):
    """Everything that evaluate.py reports of one network on one data set.

    Args: dicts attribute -> probabilities, labels.
    Returns: plain values: {"images", "mean_top1", "mean_top1_interval", "mean_acsa", "mean_acsa_interval",
        "mean_macro_f1", "mean_ece", attribute: {"top1", "acsa", "macro_f1", "ece", "matrix", "reliability"}};
        the intervals are [lower, upper] of 95 %.
    """
    scores = metrics.evaluate(probabilities, labels)
    predictions = {key: p.argmax(axis=1) for key, p in probabilities.items()}
    resampled = bootstrap(labels, {key: predictions[key] == labels[key] for key in labels})
    by_attribute = {}
    for key in labels:
        reliability = calibration(probabilities[key], labels[key])
        by_attribute[key] = {
            "top1": scores["top1"][key],
            "acsa": scores["acsa"][key],
            "macro_f1": macro_f1(labels[key], predictions[key]),
            "ece": reliability.pop("ece"),
            "matrix": scores["matrix"][key].tolist(),
            "reliability": reliability,
        }
    result = {"images": len(next(iter(labels.values())))}
    for name in resampled:
        result[name] = scores[name]
        result[f"{name}_interval"] = interval(resampled[name])
    for name in ("macro_f1", "ece"):
        result[f"mean_{name}"] = float(np.mean([figures[name] for figures in by_attribute.values()]))
    return {**result, **by_attribute}
