"""How sure an answer is: probabilities made honest by a temperature, and the threshold above which a wanted share is right.

Selective classification (Geifman & El-Yaniv, arXiv:1705.08500): of the answers to photos whose labels are known, sorted by
probability, a top part is kept of which the wanted share is right, by the lower end of an interval.
"""

import json
import math
import os
from pathlib import Path

import numpy as np
from scipy.special import softmax

from utils.base.errors import UserError
from utils.base.files import digest_of
from utils.data.attributes import UNKNOWN
from utils.evaluation.metrics import LEAST, are_alike, calibration, product_answers
from utils.nets.hub import BEST, ZERO_SHOT, weights_file

SHARES = 0.90, 0.95, 0.99  # of right answers, that evaluate.py tells of
TAIL = 0.025  # below an interval of 95 %
FIGURES = "evaluation.json"  # of evaluate.py, in the folder of `evaluation_folder`
KEY = "sure"  # of what `measure` returns, in evaluation.json and in an exported file's meta
STEPS = 10**3  # of a share, 0 to 1: a million photos do not make a million thresholds
DIGITS = 10**6  # of a threshold: the answers of a checkpoint and of its export differ by less


def softened(probabilities, temperature):
    """The softmax of logits / temperature. Args: `(N, classes)`, the softmax of the logits. Returns: the same, float64."""
    return softmax(np.log(np.maximum(probabilities.astype(np.float64), LEAST)) / temperature, axis=1)


def fit_temperature(probabilities, labels):
    """The temperature of the least log-loss (Guo et al., arXiv:1706.04599, section 4.2); 1 without labels, or where none lowers it.

    Args: float `(N, classes)`; int `(N,)`, -1 where not known.
    """
    from scipy.optimize import minimize_scalar

    known = np.flatnonzero(labels != UNKNOWN)

    def loss(power):
        shares = softened(probabilities[known], math.exp(power))
        return -np.log(np.maximum(shares[np.arange(len(known)), labels[known]], LEAST)).sum()

    best = minimize_scalar(loss, bounds=(-3, 3), method="bounded")
    return math.exp(best.x) if best.fun < loss(0) else 1.0


def curve(probabilities, labels, groups=None):
    """How many answers are right of the surest ones, by how many these are.

    Args: float `(N, classes)`, int `(N,)`; `groups`, an id for each photo: the photos of a group count as one answer, that is
        right by the share of them that are. None: each photo is its own.
    Returns: float64 `(4, P)`, a column for each threshold that tells answers to labelled photos apart, the highest first: the
        threshold, the share of the photos that it lets answer, the share of these answers that is right, and the lower end of
        its interval (Clopper & Pearson, 1934).
    """
    from scipy.stats import beta

    known = np.flatnonzero(labels != UNKNOWN)
    rows = known[np.argsort(-probabilities[known].max(axis=1), kind="stable")]
    confidence, said = probabilities[rows].max(axis=1), probabilities[rows].argmax(axis=1)
    seen, right, count = {}, [0.0], []
    for row, hit in zip(rows, said == labels[rows]):
        group = row if groups is None else groups[row]
        hits, photos = seen.get(group, (0, 0))
        seen[group] = hits + hit, photos + 1
        right.append(right[-1] + (hits + hit) / (photos + 1) - hits / max(photos, 1))
        count.append(len(seen))
    count = np.array(count, float)
    right = np.clip(right[1:], 0, count)  # sums of fractions are rounded
    lower = np.nan_to_num(beta.ppf(TAIL, right, count - right + 1))  # not defined where none is right: 0
    least = np.floor(confidence * DIGITS) / DIGITS
    answered = np.arange(1, len(rows) + 1) / len(rows)
    last = np.diff(least, append=-1) < 0  # equal ones are sure together
    return np.stack([least, answered, right / count, lower])[:, last]


def steps(found):
    """Which threshold shows which share of right answers, by the longest part of the `curve` that does: list of [share,
    threshold], both rising, from half the answers on."""
    least, _, _, lower = found[:, ::-1]
    shares = np.floor(lower * STEPS) / STEPS
    higher = shares > np.maximum.accumulate(np.append(0.4999, shares))[:-1]
    return np.column_stack([shares, least])[higher].tolist()


def answers_needed(share):
    """How many right answers in a row show this share."""
    return math.ceil(math.log(TAIL) / math.log(share))


def measure(probabilities, labels, groups=None):
    """What is kept of a network's answers to photos that it has not learned from: plain values, attribute -> {"temperature";
    "ece", calibration error [before, after]; "steps" of the softened answers; "answered", share of right answers, as text ->
    share of the photos whose answer is sure enough; and where a product's photos are alike, "products", the same of its answers}.

    Args: dicts attribute -> float `(N, classes)`, int `(N,)`; `groups` of the photos, as of `utils.evaluation.metrics`.
    """
    has_products = groups is not None and len(set(groups)) < len(groups)
    products = product_answers(probabilities, groups) if has_products else {}
    measured = {}
    for key, values in probabilities.items():
        measured[key] = _measure(values, labels[key], groups)
        if products and are_alike(labels[key], groups):
            measured[key]["products"] = _measure(products[key], labels[key], groups)
    return measured


def _measure(probabilities, labels, groups):
    temperature = fit_temperature(probabilities, labels)
    soft = softened(probabilities, temperature)
    found = curve(soft, labels, groups)
    answered = {f"{share:.2f}": float(found[1, found[3] >= share].max(initial=0)) for share in SHARES}
    errors = [calibration(values, labels)["ece"] for values in (probabilities, soft)]
    return {"temperature": temperature, "ece": errors, "steps": steps(found), "answered": answered}


class Sure:
    """Tells the sure answers of a network from the others.

    Args: `measured`, of `measure`; `share` of the sure answers that shall be right, 0.5 to 1; `products`, whether the answers are those
        of products, where their photos are alike.
    Attributes: `thresholds`, attribute -> the least probability of a sure answer, None where none is sure; `most`, the largest share,
        rounded down to hundredths, of which some answers are sure.
    """

    def __init__(self, measured, share, products=False):
        self.temperatures, self.thresholds, self.most = {}, {}, {}
        for key, one in measured.items():
            one = one.get("products", one) if products else one
            self.temperatures[key] = float(one["temperature"])
            self.thresholds[key] = next((least for reached, least in one["steps"] if reached >= share), None)
            most = max((reached for reached, _ in one["steps"]), default=0)
            self.most[key] = math.floor(100 * most) / 100

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
    best = os.path.join(checkpoint, BEST)  # of a version's folder
    first = os.path.normpath(best if os.path.isfile(best) else checkpoint)
    first = os.path.join("model", ZERO_SHOT) if checkpoint == ZERO_SHOT else first
    return f"{os.path.splitext(first)[0] if os.path.isfile(first) else first}_{suffix}"


def find_measured(classifier, prior="trained"):
    """What `measure` returned for a network: what evaluate.py wrote of validation photos beside its file, if that is of these
    weights, or else what the file carries.

    Args: `classifier`, a `utils.evaluation.inference.Classifier`; `prior` that it was loaded with.
    Raises: UserError if there is none, or it is damaged.
    """
    path, source = classifier.path, Path(evaluation_folder(classifier.path, prior=prior), FIGURES)
    way_out = f"run evaluate.py --checkpoint {path}{'' if prior == 'trained' else f' --prior {prior}'} first"
    if path == ZERO_SHOT:
        raise UserError(f"--sure: {path} has no thresholds of its own; train a network")
    found = classifier.meta.get(KEY) if prior == "trained" else None
    try:
        written = json.loads(source.read_text(encoding="utf-8")) if source.is_file() else {}
        its = written.get(KEY)
        if its and its["weights"] == digest_of(weights_file(path)) and written["split"] == "val":
            found = its
        if not found:
            raise UserError(f"--sure: {path} was never evaluated, or {source} is of other weights; {way_out}")
        measured = {key: found["attributes"][key] for key in classifier.attributes}
        Sure(measured, 1)  # looks at all that it takes
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"--sure: the thresholds of {path} cannot be read; {way_out}") from error
    return measured
