"""Figures of predictions against labels; how sure they are; paired tests of two networks on the same images.

Everything here takes arrays over the N images of one data set: labels and predictions int `(N,)`, probabilities
or logits float `(N, classes)`, hits (prediction == label) bool `(N,)`, or dicts of them by attribute. An image
whose label of an attribute is not known (-1) counts in no figure of that attribute. `groups` holds an id for each image:
those of one group, such as the photos of one product, are right or wrong together, and are drawn and turned round
together; None: each image is its own.
"""

from collections import Counter

import numpy as np
from scipy.special import softmax

from utils.base.errors import excerpt
from utils.base.log import score, table
from utils.data.attributes import UNKNOWN

# Bins of the confidence, as in Guo et al., "On Calibration of Modern Neural Networks" (arXiv:1706.04599).
BINS = 15
RESAMPLES = 2000  # of the bootstrap
LEAST = 1e-30  # probability, in logarithms
FLIPS = 10000  # of the permutation test: p-values go down to 1 / 10001

# Beside the scores of a checkpoint on the validation photos.
CHOSEN = "best.pt scored best on the validation photos, so that its scores there are a little too good; "
CHOSEN += 'with a "test" in the attributes, evaluate.py --split test measures it on others'

# What it means that an attribute's Top-1 is below the majority, and the way out.
BELOW = "usual where rare classes count as much as frequent ones (ACSA), which --logit-adjustment 0 --loss-weight False --best top1 "
BELOW += "undo; else it takes longer training, or more photos of the other classes, and photos that show it"

# Shares are computed as masked arrays: 0 / 0 is masked, has no part in a mean, and `tolist` makes it None.

# --- figures -----------------------------------------------------------------------------------------


def confusion_matrix(labels, predictions, classes):
    """Counts, int64 `(classes, classes)`: rows are labels, columns are predictions."""
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    known = labels != UNKNOWN
    pairs = labels[known] * classes + predictions[known]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def confusion_matrices(logits, labels):
    """Attribute -> confusion matrix, from dicts of logits and of labels."""
    said = {key: np.asarray(values).argmax(axis=1) for key, values in logits.items()}
    return {key: confusion_matrix(labels[key], said[key], values.shape[1]) for key, values in logits.items()}


def accuracies(hits, counts):
    """Top-1 and ACSA, from the number of hits and of images of each class, `(…, classes)`.

    ACSA, the average class-specific accuracy, is the mean over the classes that occur.

    Returns: two masked arrays `(…)`, masked where there is no image.
    """
    return np.ma.divide(hits.sum(axis=-1), counts.sum(axis=-1)), np.ma.divide(hits, counts).mean(axis=-1)


def majority(counts):
    """The share of the most frequent class, from a list of counts by class: the Top-1 of naming it for every image. None without any."""
    return np.ma.divide(np.max(counts), np.sum(counts)).tolist()


def below_majority(top1, majorities):
    """One line that names the attributes whose Top-1 is below the majority, and the way out; empty if none is.

    Args: dicts attribute -> share, or None without labels.
    """
    low = [key for key, share in top1.items() if share is not None and share < majorities[key]]
    named = ", ".join(f"{key} (Top-1 {top1[key]:.4f}, majority {majorities[key]:.4f})" for key in low)
    problem = f"{named}: always naming the most frequent class would be right more often"
    return f"below the majority: {problem}; {BELOW}" if low else ""


def mean(values):
    """The mean of those that are not None; None if all are."""
    return np.ma.masked_invalid(np.array(list(values), dtype=float)).mean().tolist()


def score_table(title, columns, *more):
    """Lines: of each attribute, and in the mean, these figures.

    Args: `title` of the first column; `columns`, title -> attribute -> a figure, or None; `more` rows that follow.
    """
    keys = next(iter(columns.values()))
    rows = [[excerpt(key, 40), *(score(its[key]) for its in columns.values())] for key in keys]
    rows.append(["mean", *(score(mean(its.values())) for its in columns.values())])
    return table([*rows, *more], [title, *columns])


def by_attribute(result, name):
    """Attribute -> its figure of this name, None where it has none. Args: `result` of `report`."""
    return {key: figures.get(name) for key, figures in result["attributes"].items()}


def scores(matrix):
    """Metrics from the matrices.

    Args: `matrix` attribute -> matrix.
    Returns: {"matrix": {attribute: matrix}, "top1": {attribute: float}, "acsa": {attribute: float}, "majority": {attribute: float},
        "mean_top1": float, "mean_acsa": float}; an attribute without any label has None, and no part in the means.
    """
    top1, acsa = {}, {}
    for key, counts in matrix.items():
        both = accuracies(np.diag(counts), counts.sum(axis=1))
        top1[key], acsa[key] = (share.tolist() for share in both)
    most = {key: majority(counts.sum(axis=1)) for key, counts in matrix.items()}
    means = {"mean_top1": mean(top1.values()), "mean_acsa": mean(acsa.values())}
    return {"matrix": matrix, "top1": top1, "acsa": acsa, "majority": most, **means}


def by_class(matrix):
    """Figures of each class, lists of plain numbers, None where there is no photo to tell: {"photos" of its label, "precision", the
    share of these among the photos that were called so, "recall", the share of its photos that were, "f1"}."""
    hits, photos, said = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    shares = {"precision": (hits, said), "recall": (hits, photos), "f1": (2 * hits, photos + said)}
    shares = {name: np.ma.divide(*both).tolist() for name, both in shares.items()}
    return {"photos": photos.tolist(), **shares}


def macro_f1(matrix):
    """Mean of the classes' F1, over those that occur among labels or predictions; None without any label."""
    return mean(by_class(matrix)["f1"])


def average_precision(labels, shares):
    """How well the probability of class 1 `(N,)` ranks the images of class 1 before those of class 0; None unless both occur."""
    from sklearn.metrics import average_precision_score

    known = labels != UNKNOWN
    if len(set(labels[known])) < 2:
        return None
    return float(average_precision_score(labels[known], shares[known]))


def calibration(probabilities, labels, bins=BINS):
    """How well the confidence (largest probability) tells the share of right predictions.

    Returns: {"ece": the gap between the two, the mean over the images, None without any; "count", "confidence",
        "accuracy": lists by bin of equal width, None in an empty one}.
    """
    probabilities, labels = probabilities[labels != UNKNOWN], labels[labels != UNKNOWN]
    confidence = probabilities.max(axis=1).astype(np.float64)
    hits = probabilities.argmax(axis=1) == labels
    # Bins are open at their lower end, as published: a confidence of exactly 1 belongs to the last.
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    sure, right = (np.bincount(index, weights=values, minlength=bins) for values in (confidence, hits))
    ece = np.ma.divide(np.abs(sure - right).sum(), len(labels)).tolist()
    confidence, accuracy = (np.ma.divide(values, count).tolist() for values in (sure, right))
    return {"ece": ece, "count": count.tolist(), "confidence": confidence, "accuracy": accuracy}


def report(probabilities, labels, groups=None):
    """Everything that evaluate.py reports of one network on one data set.

    Args: dicts attribute -> probabilities, labels; `groups` of the images.
    Returns: plain values: {"images", "groups", "warning" of `below_majority`, "mean_top1", "mean_acsa", "mean_majority",
        "mean_macro_f1", "mean_ece", "mean_average_precision", "mean_top1_interval", "mean_acsa_interval", "attributes": {attribute:
        {"images" with a known label, "top1", "acsa", "majority", "macro_f1", "ece", "matrix", "by_class", "reliability", and
        "average_precision" where there are two classes}}, and where groups have several photos "products": {"count", "top1":
        {attribute: share}, "mean_top1"} of `by_product`}; the intervals are [lower, upper] of 95 %. What has no label is None.
    """
    found = scores(confusion_matrices(probabilities, labels))
    attributes, hits = {}, {}
    for key, matrix in found["matrix"].items():
        hits[key] = probabilities[key].argmax(axis=1) == labels[key]
        shares = {name: found[name][key] for name in ("top1", "acsa", "majority")}
        reliability = calibration(probabilities[key], labels[key])
        figures = {"images": int(matrix.sum()), **shares, "macro_f1": macro_f1(matrix)}
        figures.update(ece=reliability.pop("ece"), matrix=matrix.tolist(), by_class=by_class(matrix))
        attributes[key] = {**figures, "reliability": reliability}
        if len(matrix) == 2:
            attributes[key]["average_precision"] = average_precision(labels[key], probabilities[key][:, 1])
    numbers = _numbers(groups, labels)
    result = {"images": len(numbers), "groups": int(numbers.max()) + 1}
    result["warning"] = below_majority(found["top1"], found["majority"])
    for name in ("top1", "acsa", "majority", "macro_f1", "ece", "average_precision"):
        result[f"mean_{name}"] = mean(figures.get(name) for figures in attributes.values())
    for name, values in bootstrap(labels, hits, groups).items():
        result[f"{name}_interval"] = interval(values)
    if result["groups"] < result["images"]:
        top1 = {}
        for key, values in product_answers(probabilities, groups).items():
            known = labels[key] != UNKNOWN
            right = np.bincount(numbers, known & (values.argmax(axis=1) == labels[key]))
            top1[key] = mean(np.ma.divide(right, np.bincount(numbers, known)).tolist())
        result["products"] = {"count": result["groups"], "top1": top1, "mean_top1": mean(top1.values())}
    return {**result, "attributes": attributes}


# --- products ----------------------------------------------------------------------------------------


def by_product(probabilities, groups):
    """What a network says of products, of several photos each: the softmax of the mean of its photos' log-probabilities.

    Args: dict attribute -> float `(N, classes)`; `groups`, the product of each photo.
    Returns: (list of the G products, in the order in which they come; dict attribute -> float64 `(G, classes)`).
    """
    numbers, found = _numbers(groups, probabilities), {}
    counts = np.bincount(numbers)[:, None]
    for key, values in probabilities.items():
        logs = np.log(np.maximum(values.astype(np.float64), LEAST))
        sums = np.stack([np.bincount(numbers, column) for column in logs.T], axis=1)
        found[key] = softmax(sums / counts, axis=1)
    return list(dict.fromkeys(groups)), found


def product_answers(probabilities, groups):
    """The same at each photo: that of its product, dict attribute -> float64 `(N, classes)`. Args: as of `by_product`."""
    numbers = _numbers(groups, probabilities)
    return {key: values[numbers] for key, values in by_product(probabilities, groups)[1].items()}


def are_alike(labels, groups, part=0.5):
    """Whether labels tell of whole products: two of one are alike by more than this part of what chance leaves. True where none has two.

    A photo counts once, however many its product has. Args: int `(N,)`; the product of each.
    """
    known = [(group, label) for group, label in zip(groups, labels.tolist()) if label != UNKNOWN]
    by_group, by_label = (Counter(one[place] for one in known) for place in (0, 1))
    several = {group: count for group, count in by_group.items() if count > 1}
    both = Counter(one for one in known if one[0] in several)
    same = sum(count * (count - 1) / (several[group] - 1) for (group, _), count in both.items())
    chance = sum(count**2 for count in by_label.values()) / max(len(known), 1) ** 2
    return same >= sum(several.values()) * (chance + part * (1 - chance))


# --- how sure they are -------------------------------------------------------------------------------


def _numbers(groups, labels):
    """The number of each image's group, int64 `(N,)`, in the order in which they come."""
    groups = range(len(next(iter(labels.values())))) if groups is None else groups
    order = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    return np.array([order[group] for group in groups], int)


def bootstrap(labels, hits, groups=None, resamples=RESAMPLES, seed=0):
    """Mean Top-1 and mean ACSA of data sets drawn from this one, with replacement, group by group.

    A draw's ACSA is over the classes that it has, so that an interval can begin or end at the score itself: where the one photo of
    a class is wrong, a draw with it has the score, and one without it more. That is meant. The class's next photos can only do
    better. If an absent class kept its share, an interval would be narrow where least is known: of intervals from 400 photos,
    two of whose ten classes have two, 80 % held the truth, and 65 % would.

    The same seed draws the same groups, so that the figures of two networks can be subtracted pairwise.

    Args: dicts attribute -> labels, hits; `groups` of the images.
    Returns: {"mean_top1": float64 `(resamples,)`, "mean_acsa": likewise}; masked where no known label was drawn.
    """
    rng = np.random.default_rng(seed)
    numbers = _numbers(groups, labels)
    count = numbers.max() + 1
    # For each attribute, which images are hits of each class, and which are of it at all; unknown labels are in none.
    parts = []
    for key, values in labels.items():
        one_hot = values[:, None] == np.arange(max(values.max() + 1, 1))
        parts += [one_hot & hits[key][:, None], one_hot]
    cells = np.hstack(parts).astype(float)
    draws = (rng.integers(count, size=count) for _ in range(resamples))
    # An image counts as often as its group was drawn.
    sums = [np.bincount(drawn, minlength=count)[numbers] @ cells for drawn in draws]
    counts = np.split(np.array(sums), np.cumsum([part.shape[1] for part in parts])[:-1], axis=1)
    pairs = [np.ma.stack(accuracies(right, count)) for right, count in zip(counts[::2], counts[1::2])]
    return dict(zip(("mean_top1", "mean_acsa"), np.ma.stack(pairs).mean(axis=0)))


def interval(values, level=0.95):
    """[lower, upper] end of the middle `level` of the values (percentile bootstrap); None if all are masked."""
    values = np.ma.compressed(values)
    return np.percentile(values, [50 * (1 - level), 50 * (1 + level)]).tolist() if len(values) else None


# --- two networks ------------------------------------------------------------------------------------


def paired_tests(labels, first, second, groups=None, seed=0):
    """How sure the difference (first - second) of two networks on the same images is.

    Args: dicts attribute -> labels, hits of the first network, hits of the second; `groups` of the images.
    Returns: {"mean_top1", "mean_acsa": {"difference", "interval" of 95 %, "p" of a permutation test},
        "attributes": {attribute: {"top1", "acsa": differences, "only_first", "only_second": images that one alone
        had right, "p" of an exact McNemar test of the Top-1, or of a permutation test where a group has several
        images}}}. All p-values are two-sided. What has no label is None.
    """
    from scipy.stats import binomtest  # here: training does without it, and it takes a second

    result, gains = {"attributes": {}}, []
    numbers = _numbers(groups, labels)
    for key, values in labels.items():
        known = values != UNKNOWN
        difference = np.where(known, first[key].astype(int) - second[key], 0)
        # What each image adds to the difference: in Top-1 all the same, in ACSA more where its class is rare.
        count = np.bincount(values[known], minlength=1)
        by_class = count[values] * np.count_nonzero(count)
        gains.append([np.ma.divide(difference, divisor) for divisor in (known.sum(), by_class)])
        top1, acsa = (values.sum().tolist() for values in gains[-1])
        alone = {"only_first": int((difference > 0).sum()), "only_second": int((difference < 0).sum())}
        p = None
        if np.bincount(numbers[known]).max(initial=0) > 1:
            p = sign_flip_test(np.bincount(numbers, difference), seed=seed)
        elif known.any():
            # McNemar's: of the images that one alone had right, are as many the first's as the second's?
            p = float(binomtest(alone["only_first"], max(sum(alone.values()), 1)).pvalue)
        result["attributes"][key] = {"top1": top1, "acsa": acsa, **alone, "p": p}
    resampled = [bootstrap(labels, hits, groups, seed=seed) for hits in (first, second)]
    for name, by_attribute in zip(("mean_top1", "mean_acsa"), zip(*gains)):
        by_image = np.ma.stack(by_attribute).mean(axis=0)
        by_group = np.bincount(numbers, by_image.filled(0))
        p = sign_flip_test(by_group, seed=seed) if by_image.count() else None
        between = interval(resampled[0][name] - resampled[1][name])
        result[name] = {"difference": by_image.sum().tolist(), "interval": between, "p": p}
    return result


def sign_flip_test(differences, flips=FLIPS, seed=0):
    """Two-sided p-value of a paired permutation test: how often the sum of the groups' differences would be
    as far from 0 if for each group a coin were tossed which of the two networks was which."""
    differences = differences[differences != 0]
    rng = np.random.default_rng(seed)
    sums = [differences @ rng.choice([-1.0, 1.0], len(differences)) for _ in range(flips)]
    as_far = np.abs(sums) >= abs(differences.sum()) - 1e-12  # rounding is no difference
    return float((1 + as_far.sum()) / (1 + flips))
