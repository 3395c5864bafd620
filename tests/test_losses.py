"""The losses besides the published ones: adjusted logits, the priors that they leave, what a divergence is divided by."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ATTRIBUTES

from utils.errors import UserError
from utils.losses import build_criterion, log_prior, log_shares, network_prior, soft_distillation
from utils.targets import Network, Teacher

SIZES = {"kind": 3, "one": 2}
LABELS = {"kind": np.array([0, 0, 0, 1, 1, 0, -1, -1]), "one": np.array([1] * 8)}  # no 2 of kind, no 0 of one
SHARES = {"kind": [4 / 6, 2 / 6, 1 / 6], "one": [1 / 8, 8 / 8]}  # what does not occur counts as one


def options(**given):
    defaults = dict(
        distils=False, distillation_type="soft", distillation_alpha=0.7, distillation_tau=2.0, ls=0.0,
        loss_weight=False, logit_adjustment=0.0, distillation_reduction="classes",
    )  # fmt: skip
    return SimpleNamespace(**{**defaults, **given})


def normal(values):
    values = np.array(values, np.float64)
    return pytest.approx(np.log(values / values.sum()).tolist(), abs=1e-6)


def test_shares():
    for key, values in log_shares(LABELS, SIZES).items():
        assert values.dtype == torch.float32 and values.exp().tolist() == pytest.approx(SHARES[key])
    nothing = log_shares({"kind": np.array([-1, -1])}, {"kind": 3})["kind"]
    assert torch.isfinite(nothing).all() and len(set(nothing.tolist())) == 1


@pytest.mark.parametrize("adjustment", [0.5, 1.0])
def test_adjusted_cross_entropy(adjustment):
    """-log of exp(z_y) * share_y^T / sum of exp(z_c) * share_c^T, a mean over the known labels; the teacher's part as it is."""
    torch.manual_seed(0)
    logits, other, taught = ({"kind": torch.randn(8, 3)} for _ in range(3))
    labels = {"kind": torch.from_numpy(LABELS["kind"])}
    sizes = {"kind": 3}
    odds = np.exp(logits["kind"].numpy()) * np.array(SHARES["kind"]) ** adjustment
    each = -np.log((odds / odds.sum(axis=1, keepdims=True))[range(6), LABELS["kind"][:6]])
    plain = build_criterion(options(logit_adjustment=adjustment), LABELS, sizes, "cpu")
    assert plain(logits, None, labels)["kind"].item() == pytest.approx(each.mean(), abs=1e-6)

    both = build_criterion(options(distils=True, logit_adjustment=adjustment), LABELS, sizes, "cpu")
    expected = 0.3 * each.mean() + 0.7 * soft_distillation(other["kind"], taught["kind"], 2.0).item()
    assert both((logits, other), taught, labels)["kind"].item() == pytest.approx(expected, abs=1e-6)
    assert build_criterion(options(), LABELS, sizes, "cpu").adjustment is None


def test_divided_by_the_batch():
    """Rather than by images times classes: an attribute of few classes counts no more than another."""
    torch.manual_seed(0)
    student, teacher = torch.randn(7, 5), torch.randn(7, 5)
    by_classes = soft_distillation(student, teacher, 2.0)
    p, q = ((x / 2).softmax(1) for x in (teacher, student))
    by_hand = 4 * (p * (p.log() - q.log())).sum() / 7
    by_batch = soft_distillation(student, teacher, 2.0, "batch")
    assert by_batch.item() == pytest.approx(by_hand.item(), abs=1e-6)
    assert by_batch.item() == pytest.approx(5 * by_classes.item(), rel=1e-5)
    assert soft_distillation(student, teacher, 2.0, "classes") == by_classes

    outputs, labels = ({"kind": student}, {"kind": student}), {"kind": torch.full((7,), -1)}
    losses = {
        name: build_criterion(options(distils=True, distillation_reduction=name), LABELS, {"kind": 5}, "cpu")(
            outputs, {"kind": teacher}, labels
        )["kind"].item()
        for name in ("classes", "batch")
    }
    assert losses["batch"] == pytest.approx(0.7 * by_hand.item(), abs=1e-6)
    assert losses["classes"] == pytest.approx(0.7 * by_hand.item() / 5, abs=1e-6)


def test_the_prior_that_is_left():
    kind = np.array(SHARES["kind"])
    assert log_prior(options(), LABELS, SIZES)["kind"] == normal(kind)
    assert log_prior(options(logit_adjustment=1.0), LABELS, SIZES)["kind"] == normal([1, 1, 1])
    assert log_prior(options(logit_adjustment=0.5), LABELS, SIZES)["kind"] == normal(kind**0.5)
    weighted = log_prior(options(loss_weight=True), LABELS, SIZES)
    assert weighted["kind"] == normal(kind * (1 - np.array([4 / 6, 2 / 6, 0])))
    assert np.isfinite(weighted["one"]).all()
    assert all(type(value) is float for values in weighted.values() for value in values)


def test_the_prior_of_both_heads():
    """They are averaged: one learned from the labels, the other from the teacher."""
    own, others = {"kind": [0.0, -1.0]}, {"kind": [-2.0, 1.0]}
    teacher, unsaid = SimpleNamespace(prior=others), SimpleNamespace(prior=None)
    assert network_prior(options(), own, None) is own
    assert network_prior(options(distils=True), own, teacher) == {"kind": [-1.0, 0.0]}
    assert network_prior(options(distils=True), own, unsaid) is None
    adjusted = options(distils=True, logit_adjustment=1.0)
    assert network_prior(adjusted, own, teacher) == own, "the teacher is brought to it"


def test_a_teacher_is_brought_to_a_prior():
    class Said(Teacher):
        def logits(self, data, poll=None):
            return {"kind": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}

    teacher = Said()
    with pytest.raises(
        UserError, match=r"--logit-adjustment: the teacher does not say .* prior\.<attribute>"
    ):
        teacher.bring_to({"kind": [0.0, 0.0]})
    teacher.prior = {"kind": [-1.0, 2.0]}
    assert teacher.teach(None)["kind"].tolist() == [[1, 2], [3, 4]]
    teacher.bring_to({"kind": [0.5, 0.0]})
    assert teacher.teach(None)["kind"].tolist() == [[2.5, 0], [4.5, 2]]


def test_a_teachers_prior_has_the_students_order_of_classes():
    turned = {key: SimpleNamespace(classes=one.classes[::-1]) for key, one in ATTRIBUTES.items()}

    class Net(torch.nn.Module):
        attributes = type("Turned", (dict,), {"sizes": ATTRIBUTES.sizes})(
            {key: SimpleNamespace(classes=one.classes, prompts=()) for key, one in turned.items()}
        )
        describe = staticmethod(dict)

    prior = {key: [float(-number) for number in range(size)] for key, size in ATTRIBUTES.sizes.items()}
    found = Network(lambda: (Net(), {"prior": prior}), ATTRIBUTES, None, None).prior
    assert found == {key: values[::-1] for key, values in prior.items()}
    assert Network(lambda: (Net(), {}), ATTRIBUTES, None, None).prior is None
    broken = {**prior, "daily": prior["daily"][1:]}
    assert Network(lambda: (Net(), {"prior": broken}), ATTRIBUTES, None, None).prior is None
