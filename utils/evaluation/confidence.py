"""How sure an answer is: probabilities made honest by a temperature, and the threshold above which a wanted share is right.

Selective classification (Geifman & El-Yaniv, arXiv:1705.08500): of the answers to photos whose labels are known, sorted by
probability, a top part is kept of which the wanted share is right, by the lower end of an interval.
"""

import json
import math
import os
from fractions import Fraction
from pathlib import Path

import numpy as np

from utils.base.errors import UserError
from utils.base.files import digest_of
from utils.data.attributes import UNKNOWN
from utils.evaluation.metrics import calibration
from utils.nets.hub import ZERO_SHOT, weights_file

SHARES = 0.90, 0.95, 0.99  # of right answers, that evaluate.py tells of
LEVEL = 0.95  # of the interval
FIGURES = "evaluation.json"  # of evaluate.py, in the folder of `evaluation_folder`
KEY = "sure"  # of what `measure` returns, in evaluation.json and in an exported file's meta
DIGITS = 6  # of a threshold: the answers of a checkpoint and of its export differ by less


def softened(probabilities, temperature):
    """The softmax of logits / temperature. Args: `(N, classes)`, the softmax of the logits. Returns: the same, float64."""
    logits = np.log(np.maximum(probabilities.astype(np.float64), 1e-30)) / temperature
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def log_loss(probabilities, labels):
    """The mean of -log of the label's probability, of labels that are known."""
    known = labels != UNKNOWN
    return -np.log(np.maximum(probabilities[known, labels[known]], 1e-30)).mean()


def fit_temperature(probabilities, labels):
    """The temperature of the least log-loss (Guo et al., arXiv:1706.04599, section 4.2); 1 without labels, or where none lowers it.

    Args: float `(N, classes)`; int `(N,)`, -1 where not known.
    """
    from scipy.optimize import minimize_scalar

    if (labels == UNKNOWN).all():
        return 1.0
    loss = lambda power: log_loss(softened(probabilities, math.exp(power)), labels)  # noqa: E731
    best = minimize_scalar(loss, bounds=(-3, 3), method="bounded")
    return math.exp(best.x) if best.fun < loss(0) else 1.0


def steps(confidence, hits, groups):
    """Which threshold gives which share of right answers: list of [share, threshold], both rising, where each share is the lower
    end of the Clopper-Pearson interval of the answers at least as probable as the threshold.

    Args: confidence float `(N,)`, hits bool `(N,)`; `groups`, an id for each photo: the photos of a group count as one answer, that
        is right by the share of its photos that are.
    """
    from scipy.stats import beta

    order = np.argsort(-confidence, kind="stable")
    seen, right, found = {}, Fraction(0), []
    shares, counts = np.empty(len(order)), np.empty(len(order), int)
    for place, row in enumerate(order):
        hit, of = seen.get(groups[row], (0, 0))
        right += Fraction(hit + bool(hits[row]), of + 1) - (Fraction(hit, of) if of else 0)
        seen[groups[row]] = hit + bool(hits[row]), of + 1
        shares[place], counts[place] = float(right), len(seen)
    bounds = beta.ppf((1 - LEVEL) / 2, shares, counts - shares + 1)
    floors = np.floor(confidence[order] * 10**DIGITS) / 10**DIGITS
    highest = 0.0
    for place in reversed(range(len(order))):  # the longest part first
        is_last = place + 1 == len(order) or floors[place + 1] < floors[place]
        if is_last and bounds[place] > highest:
            highest = bounds[place]
            found.append([math.floor(highest * 1e6) / 1e6, float(floors[place])])
    return found


def threshold(its_steps, share):
    """The least probability from which on this share of the answers is right; None if there is none. Args: of `steps`."""
    return next((least for reached, least in its_steps if reached >= share), None)


def answers_needed(share):
    """How many right answers in a row show this share."""
    return math.ceil(math.log((1 - LEVEL) / 2) / math.log(share))


def measure(probabilities, labels, groups=None):
    """What is kept of a network's answers to photos that it has not learned from: plain values, attribute -> {"temperature";
    "ece", calibration error [before, after]; "steps" of the softened answers; "answered", share of right answers, as text ->
    share of the photos whose answer is sure enough}.

    Args: dicts attribute -> float `(N, classes)`, int `(N,)`; `groups` of the photos, as of `utils.evaluation.metrics`.
    """
    found = {}
    for key, values in probabilities.items():
        known = np.flatnonzero(labels[key] != UNKNOWN)
        temperature = fit_temperature(values, labels[key])
        soft = softened(values, temperature)
        errors = [calibration(each, labels[key])["ece"] for each in (values, soft)]
        its_groups = range(len(known)) if groups is None else [groups[row] for row in known]
        confidence, hits = soft[known].max(axis=1), soft[known].argmax(axis=1) == labels[key][known]
        found[key] = {"temperature": temperature, "ece": errors}
        found[key]["steps"] = its_steps = steps(confidence, hits, its_groups)
        least = {f"{share:.2f}": threshold(its_steps, share) for share in SHARES}
        found[key]["answered"] = {
            share: 0.0 if one is None or not len(known) else float((confidence >= one).mean())
            for share, one in least.items()
        }
    return found


class Sure:
    """Tells the sure answers of a network from the others.

    Args: `measured`, of `measure`; `share` of the sure answers that shall be right, 0.5 to 1.
    Attributes: `thresholds`, attribute -> the least probability of a sure answer, None where none is sure.
    """

    def __init__(self, measured, share):
        self.temperatures = {key: one["temperature"] for key, one in measured.items()}
        self.thresholds = {key: threshold(one["steps"], share) for key, one in measured.items()}

    def softened(self, results):
        """The same answers with the temperature. Args: dict attribute -> probabilities `(N, classes)`."""
        return {key: softened(values, self.temperatures[key]) for key, values in results.items()}

    def __call__(self, results):
        """Attribute -> bool `(N,)`: which answers are sure. Args: of `softened`."""
        least = {key: math.inf if one is None else one for key, one in self.thresholds.items()}
        return {key: values.max(axis=1) >= least[key] for key, values in results.items()}


def evaluation_folder(checkpoint, split="val", prior="trained"):
    """Where evaluate.py writes, if no --output is given: beside the checkpoint, under its name with the part of the data set."""
    suffix = split if prior == "trained" else f"{split}_{prior}"
    first = os.path.join("model", ZERO_SHOT) if checkpoint == ZERO_SHOT else os.path.normpath(checkpoint)
    return f"{os.path.splitext(first)[0] if os.path.isfile(first) else first}_{suffix}"


def find_measured(classifier, prior="trained"):
    """What `measure` returned for a network: what evaluate.py wrote beside its file, or else what the file carries.

    Args: `classifier`, a `utils.evaluation.inference.Classifier`; `prior` that it was loaded with.
    Raises: UserError if there is none, or that beside it is of other weights.
    """
    path = Path(evaluation_folder(classifier.path, prior=prior), FIGURES)
    way_out = f"run evaluate.py --checkpoint {classifier.path} first"
    if path.is_file():
        written = json.loads(path.read_text(encoding="utf-8")).get(KEY)
        if written and written["weights"] == digest_of(weights_file(classifier.path)):
            return written["attributes"]
        raise UserError(f"--sure: {path} is of other weights, or of an earlier version; {way_out} again")
    if prior == "trained" and KEY in classifier.meta:
        return classifier.meta[KEY]["attributes"]
    raise UserError(f"--sure: {classifier.path} was never evaluated; {way_out}")
