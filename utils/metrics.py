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


def confusion_matrices(logits, labels):
    """Dicts attribute -> float logits `(N, classes)`, and int labels `(N,)`; returns attribute -> matrix."""
    return {
        key: confusion_matrix(labels[key], np.asarray(logits[key]).argmax(axis=1), len(attribute.classes))
        for key, attribute in ATTRIBUTES.items()
    }


def evaluate(logits, labels):
    """Metrics of one data set, see `scores`."""
    return scores(confusion_matrices(logits, labels))


def scores(matrix):
    """Metrics from the matrices.

    Args: `matrix` attribute -> matrix.
    Returns: {"matrix": {attribute: matrix}, "top1": {attribute: float}, "acsa": {attribute: float},
        "mean_top1": float, "mean_acsa": float}.
    """
    each = {
        "top1": {key: top1(m) for key, m in matrix.items()},
        "acsa": {key: acsa(m) for key, m in matrix.items()},
    }
    means = {f"mean_{name}": float(np.mean(list(score.values()))) for name, score in each.items()}
    return dict(matrix=matrix, **each, **means)
