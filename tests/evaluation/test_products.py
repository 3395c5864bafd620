"""Several photos of one product give one answer."""

import numpy as np
import pytest

from utils.evaluation import metrics


def test_the_mean_of_log_probabilities():
    shares = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [1, 0]], np.float32)
    products, found = metrics.by_product({"a": shares}, ["y", "x", "y", "z"])
    assert products == ["y", "x", "z"]
    assert found["a"].dtype == np.float64
    # Odds of 9 and of 1 have a geometric mean of 3.
    assert found["a"].ravel() == pytest.approx([0.75, 0.25, 0.2, 0.8, 1, 0], abs=1e-6)


def test_no_photo():
    products, found = metrics.by_product({"a": np.empty((0, 3))}, [])
    assert products == [] and found["a"].shape == (0, 3)
    assert metrics.product_labels({"a": np.empty(0, int)}, [])["a"].shape == (0,)


def test_a_label_that_its_photos_agree_on():
    labels = {"a": np.array([2, -1, 0, 0, -1, 1, 0]), "b": np.zeros(7, int)}
    found = metrics.product_labels(labels, list("xxyyzpp"))
    assert found["a"].tolist() == [2, 0, -1, -1] and found["b"].tolist() == [0] * 4
