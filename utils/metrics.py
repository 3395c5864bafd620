"""Confusion matrix, Top-1 and ACSA, from logits once per epoch."""

import numpy as np

from utils.attributes import ATTRIBUTES


def confusion_matrix(labels, predictions, classes):
    """Counts, int64 `(classes, classes)`: rows are labels, columns are predictions."""
    pairs = np.asarray(labels) * classes + np.asarray(predictions)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def top1(matrix):
    """Share of the predictions that are right."""
    return float(np.trace(matrix) / np.sum(matrix))


def acsa(matrix):
    """Average class-specific accuracy: the mean of the classes' recalls, over the classes that occur."""
    matrix = np.asarray(matrix)
    counts = matrix.sum(axis=1)
    occurs = counts > 0
    return float(np.mean(np.diag(matrix)[occurs] / counts[occurs]))


def evaluate(logits, labels):
    """Metrics of one data set.

    Args: dicts attribute -> float logits `(N, classes)`, and int labels `(N,)`.
    Returns: {"matrix": {attribute: matrix}, "top1": {attribute: float}, "acsa": {attribute: float},
        "mean_top1": float, "mean_acsa": float}.
    """
    matrix = {
        key: confusion_matrix(labels[key], np.asarray(logits[key]).argmax(axis=1), len(attribute.classes))
        for key, attribute in ATTRIBUTES.items()
    }
    scores = {
        "top1": {key: top1(m) for key, m in matrix.items()},
        "acsa": {key: acsa(m) for key, m in matrix.items()},
    }
    means = {f"mean_{name}": float(np.mean(list(score.values()))) for name, score in scores.items()}
    return dict(matrix=matrix, **scores, **means)
