"""Confusion matrix, Top-1 and ACSA, from logits once per epoch. Labels that are not known (-1) do not count."""

import numpy as np

from utils.attributes import UNKNOWN


def confusion_matrix(labels, predictions, classes):
    """Counts, int64 `(classes, classes)`: rows are labels, columns are predictions."""
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    known = labels != UNKNOWN
    pairs = labels[known] * classes + predictions[known]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def top1(matrix):
    """Share of the predictions that are right; None without any."""
    total = np.sum(matrix)
    return float(np.trace(matrix) / total) if total else None


def acsa(matrix):
    """Average class-specific accuracy: the mean of the classes' recalls, over the classes that occur; None without any."""
    matrix = np.asarray(matrix)
    counts = matrix.sum(axis=1)
    occurs = counts > 0
    return float(np.mean(np.diag(matrix)[occurs] / counts[occurs])) if occurs.any() else None


def mean(values):
    """The mean of those that are not None; None if all are."""
    values = [value for value in values if value is not None]
    return float(np.mean(values)) if values else None


def confusion_matrices(logits, labels):
    """Dicts attribute -> float logits `(N, classes)`, and int labels `(N,)`; returns attribute -> matrix."""
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
    each = {
        "top1": {key: top1(m) for key, m in matrix.items()},
        "acsa": {key: acsa(m) for key, m in matrix.items()},
    }
    means = {f"mean_{name}": mean(score.values()) for name, score in each.items()}
    return dict(matrix=matrix, **each, **means)


def evaluate(logits, labels):
    """Metrics of one data set, see `scores`."""
    return scores(confusion_matrices(logits, labels))
