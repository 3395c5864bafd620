"""Several photos of one product give one answer."""

import numpy as np
import pytest
from scipy.special import softmax

from utils.evaluation import metrics
from utils.evaluation.confidence import Sure, measure


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


def test_each_photo_has_its_products_answer():
    shares = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    found = metrics.product_answers({"a": shares}, ["y", "x", "y"])["a"]
    assert found.ravel() == pytest.approx([0.75, 0.25, 0.2, 0.8, 0.75, 0.25], abs=1e-6)


def test_top1_by_product():
    """A product counts once: by the share of its labelled photos that its answer is right for, also where these disagree."""
    shares = np.array([[0.9, 0.1]] * 3 + [[0.2, 0.8]] * 2)
    labels = np.array([0, 1, -1, 1, 1])
    found = metrics.report({"a": shares}, {"a": labels}, list("xxxyy"))["products"]
    assert found == {"count": 2, "top1": {"a": 0.75}, "mean_top1": 0.75}
    unknown = metrics.report({"a": shares}, {"a": np.full(5, -1)}, list("xxxyy"))["products"]
    assert unknown == {"count": 2, "top1": {"a": None}, "mean_top1": None}


def test_thresholds_hold_where_some_products_are_mixed():
    """An answer for a product is wrong for the photos of it that have another label."""
    rng = np.random.default_rng(0)

    def draw(products):
        groups = np.repeat(np.arange(products), 3)
        truth = rng.integers(0, 3, products)[groups]
        one_differs = (rng.random(products) < 0.2)[groups] & (np.arange(3 * products) % 3 == 0)
        truth = np.where(one_differs, (truth + 1) % 3, truth)
        logits = rng.normal(0, 1.5, (3 * products, 3)) + 4 * np.eye(3)[truth]
        return {"kind": softmax(logits, axis=1)}, {"kind": truth}, groups

    held = []
    for _ in range(10):
        sure = Sure(measure(*draw(400)), 0.9, products=True)
        values, labels, groups = draw(2000)
        said = sure.softened(metrics.product_answers(values, groups))
        chosen = sure(said)["kind"]
        hits = said["kind"].argmax(axis=1)[chosen] == labels["kind"][chosen]
        held.append(chosen.mean() > 0.3 and hits.mean() >= 0.9)
    assert sum(held) >= 9
