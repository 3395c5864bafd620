"""Temperatures, thresholds, and where they are found again."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import beta

from utils.base.errors import UserError
from utils.base.files import digest_of
from utils.evaluation import confidence
from utils.evaluation.confidence import Sure, answers_needed, curve, find_measured, measure, steps


def two(shares):
    """Probabilities of two classes, of which the first has these shares."""
    return np.stack([shares, 1 - np.asarray(shares)], axis=1)


def test_the_temperature_is_found_again():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (4000, 3))
    labels = np.array([rng.choice(3, p=p) for p in softmax(logits / 2, axis=1)])
    labels[:100] = -1
    answers = softmax(logits, axis=1).astype(np.float32)
    found = measure({"a": answers}, {"a": labels})["a"]
    assert found["temperature"] == pytest.approx(2, rel=0.06)
    before, after = found["ece"]
    assert before > 0.1 and after < 0.03
    right = softmax(logits / 2, axis=1)
    assert confidence.softened(answers, 2) == pytest.approx(right, abs=1e-5)


@pytest.mark.parametrize(
    "answers, label", [(np.full((9, 3), 1 / 3), 0), (np.ones((9, 1)), 0), (two([0.9] * 9), -1)]
)
def test_no_temperature_lowers_the_loss(answers, label):
    found = measure({"a": answers}, {"a": np.full(9, label)})["a"]
    assert found["temperature"] == 1
    assert found["answered"] == {"0.90": 0, "0.95": 0, "0.99": 0}
    if label < 0:
        assert found["ece"] == [None, None] and found["steps"] == []


def test_answers_in_a_row():
    assert [answers_needed(share) for share in confidence.SHARES] == [36, 72, 368]
    for count in (71, 72):
        shares = np.linspace(0.6, 0.9, count)
        found = curve(two(shares), np.zeros(count, int))
        assert found[3, -1] == pytest.approx(0.025 ** (1 / count))
        sure = Sure({"a": {"temperature": 1, "steps": steps(found)}}, 0.95)
        assert sure.thresholds["a"] == (None if count == 71 else pytest.approx(0.6))
        assert sure({"a": two([0.5999, 0.6, 0.95])})["a"].tolist() == [False, count == 72, count == 72]


def test_the_curve_by_hand():
    """Equal answers are sure together; photos without a label are nowhere."""
    labels = np.array([0, 0, 1, 0, -1, 1])
    least, answered, right, lower = curve(two([0.8, 0.9, 0.8, 0.7, 0.99, 0.6]), labels)
    assert least == pytest.approx([0.9, 0.8, 0.7, 0.6])
    assert answered == pytest.approx([0.2, 0.6, 0.8, 1])
    assert right == pytest.approx([1, 2 / 3, 3 / 4, 3 / 5])
    assert lower == pytest.approx(
        [beta.ppf(0.025, hits, n - hits + 1) for hits, n in [(1, 1), (2, 3), (3, 4), (3, 5)]]
    )


def test_a_group_counts_once():
    labels = np.array([0, 0, 1, 0, 0])
    shares = [0.9, 0.8, 0.7, 0.65, 0.6]
    _, answered, right, lower = curve(two(shares), labels, ["a", "b", "a", "a", "b"])
    assert answered == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])
    hits, count = np.array([1, 2, 1.5, 1 + 2 / 3, 1 + 2 / 3]), np.array([1, 2, 2, 2, 2])
    assert right == pytest.approx(hits / count)
    assert lower == pytest.approx(beta.ppf(0.025, hits, count - hits + 1))
    # Copies of a photo show nothing new.
    copies = np.repeat(np.arange(50), 20)
    once, many = (curve(two(its), np.zeros(len(its), int), of) for its, of in [
        (np.linspace(0.6, 0.9, 50), None), (np.linspace(0.6, 0.9, 50)[copies], copies)
    ])  # fmt: skip
    assert once == pytest.approx(many)


def test_the_longest_part_that_shows_it():
    """Behind a mistake, so many more right ones show the share again; the steps rise, and are not many."""
    hits = np.ones(300, bool)
    hits[40] = hits[200:] = False
    shares = np.linspace(0.95, 0.55, 300)
    found = curve(two(shares), np.where(hits, 0, 1))
    thresholds = np.array(steps(found))
    assert (np.diff(thresholds, axis=0) > 0).all() and thresholds[0, 0] >= 0.5
    sure = Sure({"a": {"temperature": 1, "steps": thresholds.tolist()}}, 0.95)
    place = np.flatnonzero(found[3] >= 0.95)[-1]
    assert place > 200 and sure.thresholds["a"] == found[0, place]
    rng = np.random.default_rng(0)
    shares = rng.uniform(0.5, 1, 20_000)
    many = steps(curve(two(shares), (rng.uniform(size=20_000) > shares).astype(int)))
    assert 100 < len(many) <= 500


def test_so_many_are_right_indeed():
    """Where a share was shown, it is nearly always that of all photos of that kind."""
    rng, kept, answered = np.random.default_rng(0), 0, 0
    for _ in range(100):
        shares = 1 - rng.uniform(size=400) ** 2 / 2
        sure = Sure(measure({"a": two(shares)}, {"a": (rng.uniform(size=400) > shares).astype(int)}), 0.9)
        others = 1 - rng.uniform(size=20_000) ** 2 / 2
        is_sure = sure(sure.softened({"a": two(others)}))["a"]
        answered += is_sure.mean() / 100
        kept += others[is_sure].mean() >= 0.9 if is_sure.any() else 1
    assert kept >= 92 and answered > 0.5


# --- where they are found ----------------------------------------------------------------------------

MEASURED = {"a": {"temperature": 2.0, "steps": [[0.9, 0.8]], "ece": [0.1, 0.1], "answered": {}}}


@pytest.fixture
def network(tmp_path):
    """A network's file, and what evaluate.py would write for it."""
    path = tmp_path / "best.pt"
    path.write_bytes(b"weights")
    figures = tmp_path / "best_val" / "evaluation.json"
    figures.parent.mkdir()
    written = {"split": "val", "sure": {"weights": digest_of(path), "attributes": MEASURED}}
    return SimpleNamespace(path=str(path), meta={}, attributes=["a"]), figures, written


def test_found_beside_the_checkpoint(network):
    classifier, figures, written = network
    figures.write_text(json.dumps(written))
    assert find_measured(classifier) == MEASURED
    with pytest.raises(UserError, match=r"best\.pt was never evaluated.* --prior balanced first$"):
        find_measured(classifier, "balanced")
    balanced = figures.parent.with_name("best_val_balanced")
    balanced.mkdir()
    (balanced / figures.name).write_text(json.dumps(written))
    assert find_measured(classifier, "balanced") == MEASURED


def test_found_in_the_file(network):
    classifier, figures, written = network
    classifier.meta["sure"] = {"attributes": MEASURED}
    assert find_measured(classifier) == MEASURED
    with pytest.raises(UserError, match="never evaluated"):
        find_measured(classifier, "balanced")
    written["sure"]["attributes"] = {"a": {**MEASURED["a"], "temperature": 3.0}}
    figures.write_text(json.dumps(written))
    assert find_measured(classifier)["a"]["temperature"] == 3


def test_of_other_weights(network):
    classifier, figures, written = network
    figures.write_text(json.dumps(written))
    with open(classifier.path, "ab") as file:
        file.write(b"more")
    with pytest.raises(
        UserError,
        match=r"best\.pt was never evaluated, or .*evaluation\.json is of other weights; run evaluate\.py",
    ):
        find_measured(classifier)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-9],
        lambda text: "[]",
        lambda text: "\0\xff",
        lambda text: text.replace("weights", "weight"),
        lambda text: text.replace('"a"', '"b"'),
        lambda text: text.replace("2.0", '"warm"'),
        lambda text: text.replace("[[0.9, 0.8]]", "[0.9]"),
        lambda text: text.replace("[[0.9, 0.8]]", '[["0.9", 0.8]]'),
        lambda text: text.replace("[[0.9, 0.8]]", "null"),
    ],
)
def test_damaged(network, damage):
    classifier, figures, written = network
    figures.write_text(damage(json.dumps(written)), encoding="latin-1")
    with pytest.raises(UserError, match=r"cannot be read; run evaluate\.py --checkpoint .*best\.pt first"):
        find_measured(classifier)


def test_what_a_file_carries_wins_over_what_is_not_its(network):
    """It was exported anew beside the figures of the one before; or these are of photos that it has learned."""
    classifier, figures, written = network
    carried = {"a": {**MEASURED["a"], "temperature": 4.0}}
    classifier.meta = {"sure": {"attributes": carried}}
    for change in ({"split": "train"}, {"sure": {**written["sure"], "weights": "another's"}}):
        figures.write_text(json.dumps({**written, **change}))
        assert find_measured(classifier) == carried
    figures.write_text(json.dumps(written))
    assert find_measured(classifier) == MEASURED


def test_a_version_is_its_best(tmp_path):
    (tmp_path / "best.pt").touch()
    assert confidence.evaluation_folder(str(tmp_path)) == confidence.evaluation_folder(
        str(tmp_path / "best.pt")
    )


def test_never_evaluated(network):
    classifier, figures, _ = network
    with pytest.raises(
        UserError, match=r"was never evaluated.*; run evaluate\.py --checkpoint .*best\.pt first"
    ):
        find_measured(classifier)
    figures.write_text("{}")
    with pytest.raises(UserError, match="never evaluated"):
        find_measured(classifier)
    classifier.path = "zero-shot"
    with pytest.raises(UserError, match="train a network"):
        find_measured(classifier)
