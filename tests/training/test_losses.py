"""The losses besides the published ones: adjusted logits, the priors that they leave, what a divergence is divided by."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ATTRIBUTES

from utils.base.errors import UserError
from utils.data.prior import prior_of, smoothed_of
from utils.losses import (
    build_criterion,
    check_learnable,
    class_shares,
    learned,
    learned_before,
    log_prior,
    log_shares,
    loss_options,
    soft_distillation,
)
from utils.training.teacher import AskedTeacher, Teacher

SIZES = {"kind": 3, "one": 2}
LABELS = {"kind": np.array([0, 0, 0, 1, 1, 0, -1, -1]), "one": np.array([1] * 8)}  # no 2 of kind, no 0 of one
SHARES = {"kind": [4 / 6, 2 / 6, 1 / 6], "one": [1 / 8, 8 / 8]}  # what does not occur counts as one


def words(**given):
    """Options of train.py."""
    defaults = dict(
        kd_learning=True, distils=False, distillation_type="soft", distillation_alpha=0.7, distillation_tau=2.0, ls=0.0,
        loss_weight=False, logit_adjustment=0.0, distillation_reduction="classes",
    )  # fmt: skip
    return SimpleNamespace(**{**defaults, **given})


def options(**given):
    return loss_options(words(**given))


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
    labels, sizes = {"kind": np.array([0, 0, 0, 1])}, {"kind": 2}
    own, others = normal([3, 1]), {"kind": [-2.0, 1.0]}
    teacher, unsaid = (SimpleNamespace(prior=prior, smoothed=[]) for prior in (others, None))

    def prior(teacher=None, **given):
        said = learned(options(**given), labels, sizes, teacher)["prior"]
        return said and said["kind"]

    taught = dict(distils=True, teacher=teacher)
    assert prior() == own
    assert prior(**taught) == pytest.approx([(a + b) / 2 for a, b in zip(np.log([0.75, 0.25]), [-2, 1])])
    assert prior(**taught, distillation_alpha=1.0) == others["kind"], "the class head learns nothing"
    assert prior(**taught, distillation_alpha=0.0) == own, "the distillation head learns nothing"
    assert prior(distils=True, teacher=unsaid) is None
    assert prior(distils=True, teacher=unsaid, distillation_alpha=0.0) == own, "it is not asked"
    assert prior(**taught, logit_adjustment=1.0) == normal([1, 1]), "the teacher is brought to it"


def optimum(targets, sizes, labels, **given):
    """Free logits for each of the photos' kinds (photos of a class are alike) at the optimum of the loss, and what
    their checkpoint says of them; `targets` of a teacher, by photo."""
    args = options(**given)
    said = learned(args, labels, sizes, SimpleNamespace(prior=None, smoothed=[]), targets)
    criterion = build_criterion(args, labels, sizes, "cpu", said["decided"])
    (key, size), y = next(iter(sizes.items())), torch.from_numpy(next(iter(labels.values())))
    tables = [torch.zeros(size, size, requires_grad=True) for _ in range(1 + (args.kind != "none"))]
    optimizer = torch.optim.LBFGS(
        tables, max_iter=500, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        outputs = tuple({key: table[y]} for table in tables)
        loss = criterion(outputs if args.kind != "none" else outputs[0], targets, {key: y})[key]
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    return [table.detach() for table in tables], {**said, "options": vars(words(**given))}


RARE = {"two": [980, 20], "six": [750, 120, 60, 40, 25, 5], "absent": [3, 3, 2, 1, 1, 0]}


@pytest.mark.parametrize("ls", [0.0, 0.1])
@pytest.mark.parametrize("adjustment", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("name", list(RARE))
def test_smoothed_and_adjusted_names_the_right_class(name, adjustment, ls):
    """Separable photos. The smoothing goes to the classes' shares, so that none of them is lifted above the right one."""
    counts = np.array(RARE[name])
    labels, sizes = {name: np.repeat(np.arange(len(counts)), counts)}, {name: len(counts)}
    (table,), said = optimum(None, sizes, labels, ls=ls, logit_adjustment=adjustment)
    seen = counts > 0
    assert table.argmax(dim=1)[seen].tolist() == np.flatnonzero(seen).tolist()
    assert smoothed_of(said, sizes) == []
    assert (table - torch.tensor(said["prior"][name])).argmax(dim=1)[seen].tolist() == np.flatnonzero(
        seen
    ).tolist()
    if ls and adjustment == 1 and all(counts):  # log((1 - ls) eta / share + ls), but for a constant
        shares, eta = counts / counts.sum(), np.eye(len(counts))
        expected = (1 - ls) * eta / shares + ls
        expected /= expected.sum(axis=1, keepdims=True)
        assert table.softmax(dim=1).numpy() == pytest.approx(expected, abs=3e-3)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("counts", [[980, 20], [94, 6], [50, 50], [750, 120, 60, 40, 25, 5], [5, 4, 3]])
def test_a_smoothed_prior_is_taken_off_or_refused(counts, weighted):
    """Either the answers are right on separable photos without it, or the checkpoint says that it cannot be taken off."""
    labels, sizes = {"a": np.repeat(np.arange(len(counts)), counts)}, {"a": len(counts)}
    (table,), said = optimum(None, sizes, labels, ls=0.1, loss_weight=weighted)
    right = (table - torch.tensor(prior_of(said, sizes)["a"])).argmax(dim=1).tolist() == list(
        range(len(counts))
    )
    assert smoothed_of(said, sizes) == ([] if right else ["a"])
    assert right == (min(counts) / max(counts) >= 0.1 / len(counts) / (0.9 + 0.1 / len(counts)))
    if not weighted:  # as it is told of an earlier version's
        assert smoothed_of({**said, "smoothed": None}, sizes) == ([] if right else ["a"])


@pytest.mark.parametrize("adjustment", [0.0, 0.5, 1.0])
def test_hard_distillation_learns_the_shares_of_decisions(adjustment):
    """A distillation head that sees nothing of the photos learns a prior; what is left of it is what the checkpoint says."""
    labels, sizes = {"a": np.repeat([0, 1], [90, 10])}, {"a": 2}
    decisions = np.repeat([0, 1], [70, 30])
    targets = {"a": torch.nn.functional.one_hot(torch.from_numpy(decisions)).float()}
    args = options(
        distils=True, distillation_type="hard", distillation_alpha=1.0, logit_adjustment=adjustment
    )
    said = learned(args, labels, sizes, SimpleNamespace(prior=None, smoothed=[]), targets)
    bias = torch.zeros(2, requires_grad=True)
    criterion = build_criterion(args, labels, sizes, "cpu", said["decided"])
    optimizer = torch.optim.LBFGS([bias], max_iter=200)

    def closure():
        optimizer.zero_grad()
        outputs = {"a": torch.zeros(100, 2)}, {"a": bias.expand(100, 2)}
        loss = criterion(outputs, targets, {"a": torch.from_numpy(labels["a"])})["a"]
        loss.backward()
        return loss

    optimizer.step(closure)
    assert said["prior"]["a"] == normal(np.array([70.0, 30.0]) ** (1 - adjustment))
    assert bias.log_softmax(0).tolist() == pytest.approx(said["prior"]["a"], abs=1e-3)
    old = {"prior": said["prior"], "options": vars(words(distils=True, distillation_type="hard"))}
    assert prior_of(said, sizes) and prior_of(old, sizes) is None, "earlier versions said another one"
    resumed = {**old, **learned_before(options(), old)}
    assert prior_of(resumed, sizes) is None, "and so does a run of one that was resumed"


def test_a_run_that_an_earlier_version_began():
    """It goes on unless its loss is another one now."""
    before = {"prior": {"kind": [0.0]}}
    for same in (
        options(),
        options(ls=0.1),
        options(logit_adjustment=1.0),
        options(distils=True, distillation_type="hard"),
    ):
        assert learned_before(same, before)["prior"] == before["prior"]
    smoothed = options(ls=0.1, logit_adjustment=1.0)
    hard = options(distils=True, distillation_type="hard", logit_adjustment=1.0)
    for changed in (smoothed, hard):
        with pytest.raises(UserError, match="--resume: an earlier version began this run"):
            learned_before(changed, before)
        now = learned(changed, LABELS, SIZES, None, {key: torch.eye(size) for key, size in SIZES.items()})
        assert learned_before(changed, now) == now


def test_shares_of_heads():
    """Only a head that learns something is asked."""
    labels = {"known": np.array([0, 1, -1]), "unknown": np.array([-1, -1, -1])}
    both = options(distils=True)
    assert class_shares(both, labels) == {"known": 0.5, "unknown": 0.0}
    assert class_shares(options(distils=True, distillation_alpha=1.0), labels) == {
        "known": 0.0,
        "unknown": 0.0,
    }
    known = {"known": labels["known"]}
    assert class_shares(options(distils=True, distillation_alpha=0.0), known) == {"known": 1.0}
    assert class_shares(options(), known) == {"known": 1.0}
    assert class_shares(options(), labels) == {"known": 1.0, "unknown": 1.0}, "prompts"
    for lacking in (options(), options(distils=True, distillation_alpha=0.0)):
        with pytest.raises(UserError, match=r"unknown: no training label"):
            check_learnable(lacking, labels)


def test_a_teacher_is_brought_to_a_prior():
    class Said(Teacher):
        def logits(self, data, poll=None):
            return {"kind": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}

    teacher = Said()
    with pytest.raises(
        UserError, match=r"--logit-adjustment: the teacher does not say .* prior\.<attribute>"
    ):
        teacher.shift_prior_to({"kind": [0.0, 0.0]})
    teacher.prior = {"kind": [-1.0, 2.0]}
    assert teacher.teach(None)["kind"].tolist() == [[1, 2], [3, 4]]
    teacher.shift_prior_to({"kind": [0.5, 0.0]})
    assert teacher.teach(None)["kind"].tolist() == [[2.5, 0], [4.5, 2]]


def test_a_teachers_prior_has_the_students_order_of_classes():
    turned = {key: SimpleNamespace(classes=one.classes[::-1]) for key, one in ATTRIBUTES.items()}

    class Net(torch.nn.Module):
        attributes = type("Turned", (dict,), {"sizes": ATTRIBUTES.sizes})(
            {key: SimpleNamespace(classes=one.classes, prompts=()) for key, one in turned.items()}
        )
        describe = staticmethod(dict)

    prior = {key: [float(-number) for number in range(size)] for key, size in ATTRIBUTES.sizes.items()}
    found = AskedTeacher(lambda: (Net(), {"prior": prior}), ATTRIBUTES, None, None).prior
    assert found == {key: values[::-1] for key, values in prior.items()}
    assert AskedTeacher(lambda: (Net(), {}), ATTRIBUTES, None, None).prior is None
    broken = {**prior, "daily": prior["daily"][1:]}
    assert AskedTeacher(lambda: (Net(), {"prior": broken}), ATTRIBUTES, None, None).prior is None
