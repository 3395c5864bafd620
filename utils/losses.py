"""Cross-entropy, weighted or adjusted, and the distillation loss, over dicts by attribute."""

from dataclasses import dataclass
from typing import Dict, NamedTuple, Optional

import torch
import torch.nn.functional as F

from utils.base.errors import UserError
from utils.data.attributes import UNKNOWN
from utils.data.prior import is_overturned
from utils.data.tables import count_classes

LOSS_VERSION = 2  # in checkpoints: raise it when the same options train otherwise than before


class LossOptions(NamedTuple):
    """What a run's loss depends on, besides its labels."""

    kind: str = "none"  # of distillation: none, soft or hard
    alpha: float = 0.5  # the teacher's share, 0 to 1
    tau: float = 1.0  # temperature of the soft kind, above 0
    reduction: str = "classes"  # of the soft kind, see `soft_distillation`
    smoothing: float = 0.0  # of the labels, 0 to 1
    weighted: bool = False  # see `class_weights`
    adjustment: float = 0.0  # times the log-shares, added to the logits within the cross-entropy


def loss_options(args):
    """Of the command line of train.py."""
    kind = args.distillation_type if args.distils else "none"
    distillation = kind, args.distillation_alpha, args.distillation_tau, args.distillation_reduction
    return LossOptions(*distillation, args.ls, args.loss_weight, args.logit_adjustment)


def class_weights(labels, sizes):
    """Weight of each class, `1 - count / total`, indexed by class id; a class that does not occur gets 1,
    and so does one that occurs alone, where the weighted mean would be 0 / 0.

    Args: `labels` attribute -> int64 `(N,)`, of which only the known ones count; `sizes` attribute -> number of classes.
    Returns: attribute -> float32 tensor `(classes,)`.
    """
    weights = {}
    for key, classes in sizes.items():
        counts = torch.from_numpy(count_classes(labels[key], classes))
        total = max(1, int(counts.sum()))
        weights[key] = 1 - (counts * (counts < total)).float() / total
    return weights


def log_shares(labels, sizes):
    """Log of each class's share of the known labels; a class that does not occur counts as one label.

    Args: as of `class_weights`. Returns: attribute -> float32 tensor `(classes,)`.
    """
    counts = {key: torch.from_numpy(count_classes(labels[key], classes)) for key, classes in sizes.items()}
    return {key: (values.clamp(min=1) / max(1, values.sum())).log().float() for key, values in counts.items()}


def log_prior(options, labels, sizes):
    """What of the classes' shares the cross-entropy leaves in a network's logits, as a log-probability: share times
    weight, to the power that the adjustment leaves (Menon et al., arXiv:2007.07314, sections 4 and 5).

    Args: `options`, LossOptions; the others as of `class_weights`. Returns: attribute -> list of floats.
    """
    prior = {key: (1 - options.adjustment) * shares for key, shares in log_shares(labels, sizes).items()}
    if options.weighted:
        weights = class_weights(labels, sizes)
        prior = {key: values + weights[key].clamp(min=1e-9).log() for key, values in prior.items()}
    return {key: values.log_softmax(0).tolist() for key, values in prior.items()}


def _is_taught(options, key, taught):
    """Whether a student learns something of an attribute from its teacher, who tells all of them where `taught` is None."""
    return options.kind != "none" and options.alpha > 0 and (taught is None or key in taught)


def class_shares(options, labels, taught=None):
    """Share of the class head in what a student says of an attribute, see `networks.Student`: 0.5, or 1 or 0 where only it, or
    only the distillation head, learns something.

    Args: `labels` of the training images; `taught`, the attributes that the teacher tells, None for all.
    """
    shares = {}
    for key, values in labels.items():
        is_taught = _is_taught(options, key, taught)
        learns = (values != UNKNOWN).any() and not (is_taught and options.alpha == 1)
        shares[key] = 1 / (1 + is_taught) if learns or not is_taught else 0.0
    return shares


def check_learnable(options, labels, taught=None):
    """UserError for an attribute of which a student learns nothing, neither from labels nor from a teacher. Args: as above."""
    for key, values in labels.items():
        if (values == UNKNOWN).all() and not _is_taught(options, key, taught):
            raise UserError(f"{key}: no training label, and no teacher tells it; take it out of --attributes")


def learned(options, labels, sizes, teacher=None, targets=None):
    """What a checkpoint says of what its network has learned: plain values.

    Args: `labels`, `sizes` as of `class_weights`; `teacher`, `utils.training.teacher.Teacher`, and
        `targets`, its logits of the training images, of the attributes that it tells, if there is one.
    Returns: {"loss_version"; "prior", the log-prior in the logits of the network as it is evaluated, the mean of its heads', None
        if a teacher does not say its own; "smoothed", the attributes whose prior cannot be taken off; "decided", attribute ->
        log-shares of a teacher's decisions, None where these are not learned}.
    """
    own, shares = log_prior(options, labels, sizes), class_shares(options, labels, targets)
    # Where label smoothing lets the rare classes win once the prior is taken off.
    logs = log_shares(labels, sizes)
    spread = {key: (options.adjustment * values).softmax(dim=0) for key, values in logs.items()}
    gaining = [key for key in sizes if is_overturned(options.smoothing, spread[key], logs[key].exp())]
    decided, taught, unsure = None, own, []
    if options.kind == "hard":
        decisions = {key: logits.argmax(dim=1).cpu().numpy() for key, logits in targets.items()}
        told = {key: sizes[key] for key in decisions}
        decided = {key: values.tolist() for key, values in log_shares(decisions, told).items()}
        taught = log_prior(options._replace(weighted=False), decisions, told)
    elif options.kind == "soft":  # with an adjustment it is brought to the student's own
        taught, unsure = own if options.adjustment else teacher.prior, teacher.smoothed
    prior = None
    if taught or min(shares.values()) == 1:
        taught = {**own, **(taught or {})}
        both = {key: zip(own[key], taught[key]) for key in sizes}
        prior = {key: [shares[key] * a + (1 - shares[key]) * b for a, b in both[key]] for key in sizes}
    # Each head counts where it has a say.
    smoothed = {key for key in gaining if shares[key] > 0} | {key for key in unsure if shares[key] < 1}
    smoothed = [key for key in sizes if key in smoothed]
    return {"loss_version": LOSS_VERSION, "prior": prior, "smoothed": smoothed, "decided": decided}


def learned_before(options, meta):
    """The same of a resumed run, from its `meta`. Raises: UserError if an earlier version began it with another loss."""
    adjusts = options.adjustment and (options.smoothing or options.kind == "hard")
    if meta.get("loss_version") != LOSS_VERSION and adjusts:
        problem = "an earlier version began this run, with a loss that favours rare classes too much"
        raise UserError(f"--resume: {problem}; begin anew with --overwrite True")
    return {key: meta.get(key) for key in ("loss_version", "prior", "smoothed", "decided")}


def overweighted(options, labels, sizes):
    """Attributes in which label smoothing lets the rare classes win at once, since their weights are that large."""
    weights = {key: values.clamp(min=1e-9) for key, values in class_weights(labels, sizes).items()}
    spread = {key: [1 / size] * size for key, size in sizes.items()}
    is_wrong = {key: is_overturned(options.smoothing, spread[key], 1 / weights[key]) for key in sizes}
    return [key for key in sizes if options.weighted and is_wrong[key]]


def soft_distillation(student, teacher, tau, reduction=None):
    """tau^2 * KL(teacher / tau || student / tau), divided by batch * classes.

    Hinton et al., "Distilling the Knowledge in a Neural Network" (arXiv:1503.02531), section 2; divided as in DeiT's
    `losses.py`, by the number of elements, or with the `reduction` "batch" by the batch alone.

    Args: logits `(B, classes)` of both networks, any float dtype. Returns: float32 scalar.
    """
    student = F.log_softmax(student.float() / tau, dim=1)
    teacher = F.log_softmax(teacher.float() / tau, dim=1)
    divergence = F.kl_div(student, teacher, reduction="sum", log_target=True) * tau**2
    return divergence / (len(student) if reduction == "batch" else student.numel())


@dataclass
class DistillationLoss:
    """Per attribute `(1 - alpha) * CE(class head, label) + alpha * KD(distillation head, teacher)`.

    The kind "none" is the plain cross-entropy, in which `alpha` plays no part; and so it is for an attribute of which the teacher
    tells nothing. Weights and smoothing are the cross-entropy's only.
    """

    options: LossOptions
    class_weights: Optional[Dict[str, torch.Tensor]] = None  # attribute -> float `(classes,)`
    # Attribute -> float `(classes,)`, added to the logits within the cross-entropy. Smoothing then spreads as these say, not
    # evenly: an even share would be divided by a rare class's own.
    adjustment: Optional[Dict[str, torch.Tensor]] = None
    decided: Optional[Dict[str, torch.Tensor]] = None  # the same within that with the teacher's decisions

    def __call__(self, outputs, targets, labels, batch_labels=None):
        """The losses of a batch.

        Args:
            outputs: of a network in training: dict attribute -> logits `(B, classes)`, or a pair of them, of the
                class heads and of the distillation heads.
            targets: the teacher's logits, likewise, or None; like the distillation heads', of the attributes that it tells.
            labels: dict attribute -> int64 `(B,)`; a label that is not known, -1, adds nothing to the cross-entropy.
            batch_labels: those of the whole batch where this is a part of it: then the losses are the part's
                contributions, which add up to the batch's.
        Returns: dict attribute -> scalar.
        """
        class_logits, distillation_logits = outputs if isinstance(outputs, tuple) else (outputs, None)
        losses, alpha = {}, self.options.alpha
        for key, logits in class_logits.items():
            whole = labels[key] if batch_labels is None else batch_labels[key]
            loss = self._cross_entropy(key, logits.float(), labels[key], whole)
            if self.options.kind != "none" and key in targets:
                distilled = self._distillation(key, distillation_logits[key], targets[key])
                loss = (1 - alpha) * loss + alpha * distilled * (len(labels[key]) / len(whole))
            losses[key] = loss
        return losses

    def _cross_entropy(self, key, logits, labels, whole):
        weight, options = self.class_weights and self.class_weights[key], {"reduction": "sum"}
        if self.adjustment:
            logits, spread = logits + self.adjustment[key], self.adjustment[key].softmax(dim=0)
            said = F.one_hot(labels.clamp(min=0), len(spread))
            goal = torch.lerp(said.float(), spread.expand(said.shape), self.options.smoothing)
            total = F.cross_entropy(logits, goal * (labels != UNKNOWN)[:, None], weight, **options)
        else:
            options.update(label_smoothing=self.options.smoothing, ignore_index=UNKNOWN)
            total = F.cross_entropy(logits, labels, weight, **options)
        known = whole != UNKNOWN
        divisor = known.float().sum() if weight is None else (weight[whole.clamp(min=0)] * known).sum()
        return total / divisor.clamp(min=1e-9)  # without any known label 0 / 1e-9

    def _distillation(self, key, student, teacher):
        if self.options.kind == "soft":
            return soft_distillation(student, teacher, self.options.tau, self.options.reduction)
        # With the teacher's decision (DeiT, arXiv:2012.12877, section 4); no class weights.
        adjustment = self.decided[key] if self.decided else 0
        return F.cross_entropy(student.float() + adjustment, teacher.argmax(dim=1))


def build_criterion(options, labels, sizes, device, decided=None):
    """The loss that `options` ask for. Args: as of `class_weights`; `decided`, of a teacher's decisions, see `learned`."""

    def placed(values, factor=1.0):
        return {key: factor * torch.as_tensor(value, device=device) for key, value in values.items()}

    weights = placed(class_weights(labels, sizes)) if options.weighted else None
    if not options.adjustment:
        return DistillationLoss(options, weights)
    shares = placed(log_shares(labels, sizes), options.adjustment)
    return DistillationLoss(options, weights, shares, decided and placed(decided, options.adjustment))
