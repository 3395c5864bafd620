"""Cross-entropy, weighted or adjusted, and the distillation loss, over dicts by attribute."""

import torch
import torch.nn.functional as F

from utils.attributes import UNKNOWN
from utils.dataset import count_classes


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


def log_prior(args, labels, sizes):
    """What of the classes' shares the cross-entropy leaves in a network's logits, as a log-probability: share times
    weight, to the power that --logit-adjustment leaves (Menon et al., arXiv:2007.07314, sections 4 and 5).

    Args: `args`, options of train.py; the others as of `class_weights`. Returns: attribute -> list of floats.
    """
    prior = {key: (1 - args.logit_adjustment) * shares for key, shares in log_shares(labels, sizes).items()}
    if args.loss_weight:
        weights = class_weights(labels, sizes)
        prior = {key: values + weights[key].clamp(min=1e-9).log() for key, values in prior.items()}
    return {key: values.log_softmax(0).tolist() for key, values in prior.items()}


def network_prior(args, own, teacher):
    """The log-prior in the logits of a network as it is evaluated; None if that of its teacher is not known.

    Args: `own`, of `log_prior`; `teacher`, whose prior the distillation heads learn. The logits of both are averaged.
    """
    if not args.distils:
        return own
    taught = own if args.logit_adjustment else teacher and teacher.prior
    return taught and {key: [(a + b) / 2 for a, b in zip(own[key], taught[key])] for key in own}


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


class DistillationLoss:
    """Per attribute `(1 - alpha) * CE(class head, label) + alpha * KD(distillation head, teacher)`.

    Args:
        kind: "soft", "hard", or "none", which is the plain cross-entropy (then `alpha` plays no part).
        alpha: share of the teacher, 0 to 1.
        tau: temperature of the soft kind, above 0.
        class_weights: dict attribute -> float tensor `(classes,)`, for the cross-entropy only.
        label_smoothing: 0 to 1, for the cross-entropy only.
    Attributes:
        reduction: of the soft kind, "classes" as published, or "batch".
        adjustment: dict attribute -> float tensor `(classes,)`, added to the logits within the cross-entropy; or None.
    """

    def __init__(self, kind, alpha=0.5, tau=1.0, class_weights=None, label_smoothing=0.0):
        self.kind = kind
        self.alpha = alpha
        self.tau = tau
        self.label_smoothing = label_smoothing
        self.weights = class_weights
        self.reduction, self.adjustment = "classes", None

    def __call__(self, outputs, targets, labels, batch_labels=None):
        """The losses of a batch.

        Args:
            outputs: of a network in training: dict attribute -> logits `(B, classes)`, or a pair of them, of the
                class heads and of the distillation heads.
            targets: the teacher's logits, likewise, or None.
            labels: dict attribute -> int64 `(B,)`; a label that is not known, -1, adds nothing to the cross-entropy.
            batch_labels: those of the whole batch where this is a part of it: then the losses are the part's
                contributions, which add up to the batch's.
        Returns: dict attribute -> scalar.
        """
        class_logits, distillation_logits = outputs if isinstance(outputs, tuple) else (outputs, None)
        losses = {}
        for key, logits in class_logits.items():
            whole = labels[key] if batch_labels is None else batch_labels[key]
            if self.adjustment:
                logits = logits.float() + self.adjustment[key]
            loss = self._cross_entropy(logits, labels[key], whole, self.weights and self.weights[key])
            if self.kind != "none":
                distilled = self._distillation(distillation_logits[key], targets[key])
                loss = (1 - self.alpha) * loss + self.alpha * distilled * (len(labels[key]) / len(whole))
            losses[key] = loss
        return losses

    def _cross_entropy(self, logits, labels, whole, weight):
        total = F.cross_entropy(
            logits.float(),
            labels,
            weight=weight,
            label_smoothing=self.label_smoothing,
            reduction="sum",
            ignore_index=UNKNOWN,
        )
        known = whole != UNKNOWN
        divisor = known.float().sum() if weight is None else (weight[whole.clamp(min=0)] * known).sum()
        return total / divisor.clamp(min=1e-9)  # without any known label 0 / 1e-9

    def _distillation(self, student, teacher):
        if self.kind == "soft":
            return soft_distillation(student, teacher, self.tau, self.reduction)
        # With the teacher's decision (DeiT, arXiv:2012.12877, section 4); no class weights.
        return F.cross_entropy(student.float(), teacher.argmax(dim=1))


def build_criterion(args, labels, sizes, device):
    """The loss that the options ask for. Args: as of `class_weights`, with the training images' labels."""
    kind = args.distillation_type if args.distils else "none"
    weights = class_weights(labels, sizes) if args.loss_weight else None
    shares = log_shares(labels, sizes) if args.logit_adjustment else None
    weights = weights and {key: values.to(device) for key, values in weights.items()}
    shares = shares and {key: args.logit_adjustment * values.to(device) for key, values in shares.items()}
    loss = DistillationLoss(kind, args.distillation_alpha, args.distillation_tau, weights, args.ls)
    loss.reduction, loss.adjustment = args.distillation_reduction, shares
    return loss
