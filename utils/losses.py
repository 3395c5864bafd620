"""Cross-entropy, weighted or adjusted, and the distillation loss, over dicts by attribute."""

import torch
import torch.nn.functional as F

from utils.base.errors import UserError
from utils.data.attributes import UNKNOWN
from utils.data.prior import is_overturned
from utils.data.tables import count_classes

LOSS_VERSION = 2  # in checkpoints: raise it when the same options train otherwise than before


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


def class_shares(args, labels):
    """Share of the class head in what a student says of an attribute, see `networks.Student`: 0.5, or 1 or 0 where only it, or
    only the distillation head, learns something; 1 for a network without the latter.

    Args: `args`, options of train.py; `labels` of the training images. Raises: UserError where neither learns.
    """
    shares = {}
    for key, values in labels.items():
        taught = args.distils and args.distillation_alpha > 0
        learns = (values != UNKNOWN).any() and not (args.distils and args.distillation_alpha == 1)
        if args.kd_learning and not (learns or taught):
            problem = (
                "no label of a training image is known, and no teacher tells it; take it out of --attributes"
            )
            raise UserError(f"{key}: {problem}")
        shares[key] = 1 / (1 + taught) if learns or not taught else 0.0
    return shares


def learned(args, labels, sizes, teacher=None, targets=None):
    """What a checkpoint says of what its network has learned: plain values.

    Args: `args`, options of train.py; `labels`, `sizes` as of `class_weights`; `teacher` of `utils.training.teacher.find_teacher`, and
        `targets`, its logits of the training images, attribute -> `(N, classes)`, if there is one.
    Returns: {"loss_version"; "prior", the log-prior in the logits of the network as it is evaluated, the mean of its heads', None
        if a teacher does not say its own; "smoothed", the attributes whose prior cannot be taken off; "decided", attribute ->
        log-shares of a teacher's decisions, None where these are not learned}.
    """
    own, smoothed, shares = (
        log_prior(args, labels, sizes),
        smoothed_away(args, labels, sizes),
        class_shares(args, labels),
    )
    decided, taught, unsure = None, own, []
    if args.distils and args.distillation_type == "hard":
        decisions = {key: targets[key].argmax(dim=1).cpu().numpy() for key in sizes}
        decided = {key: values.tolist() for key, values in log_shares(decisions, sizes).items()}
        left = {key: (1 - args.logit_adjustment) * torch.tensor(values) for key, values in decided.items()}
        taught = {key: values.log_softmax(0).tolist() for key, values in left.items()}
    elif args.distils:  # with an adjustment it is brought to the student's own
        taught, unsure = own if args.logit_adjustment else teacher.prior, teacher.smoothed
    prior = None
    if taught or min(shares.values()) == 1:
        prior = {
            key: [share * a + (1 - share) * b for a, b in zip(own[key], (taught or own)[key])]
            for key, share in shares.items()
        }
    smoothed = [
        key for key in sizes if (shares[key] and key in smoothed) or (shares[key] < 1 and key in unsure)
    ]
    return {"loss_version": LOSS_VERSION, "prior": prior, "smoothed": smoothed, "decided": decided}


def learned_before(args, meta):
    """The same of a resumed run, from its `meta`. Raises: UserError if an earlier version began it with another loss."""
    adjusts = args.logit_adjustment and (args.ls or (args.distils and args.distillation_type == "hard"))
    if meta.get("loss_version") != LOSS_VERSION and adjusts:
        problem = "an earlier version began this run, with a loss that favours rare classes too much"
        raise UserError(f"--resume: {problem}; begin anew with --overwrite True")
    return {key: meta.get(key) for key in ("loss_version", "prior", "smoothed", "decided")}


def smoothed_away(args, labels, sizes, weighted=False):
    """Attributes in which label smoothing lets the rare classes win once the prior is taken off (see
    `utils.data.attributes.is_overturned`); `weighted`: in which it does so at once, since their weights are that large."""
    shares = {key: values.exp() for key, values in log_shares(labels, sizes).items()}
    spread = {key: values**args.logit_adjustment for key, values in shares.items()}
    if weighted:
        shares = {key: 1 / values.clamp(min=1e-9) for key, values in class_weights(labels, sizes).items()}
    return [key for key in sizes if is_overturned(args.ls, spread[key] / spread[key].sum(), shares[key])]


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
        adjustment: dict attribute -> float tensor `(classes,)`, added to the logits within the cross-entropy; or None. Label
            smoothing then spreads as these say, not evenly: an even share would be divided by a rare class's own.
        decided: the same within the cross-entropy with the teacher's decisions.
    """

    def __init__(self, kind, alpha=0.5, tau=1.0, class_weights=None, label_smoothing=0.0):
        self.kind = kind
        self.alpha = alpha
        self.tau = tau
        self.label_smoothing = label_smoothing
        self.weights = class_weights
        self.reduction, self.adjustment, self.decided = "classes", None, None

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
            loss = self._cross_entropy(key, logits.float(), labels[key], whole)
            if self.kind != "none":
                distilled = self._distillation(key, distillation_logits[key], targets[key])
                loss = (1 - self.alpha) * loss + self.alpha * distilled * (len(labels[key]) / len(whole))
            losses[key] = loss
        return losses

    def _cross_entropy(self, key, logits, labels, whole):
        weight, options = self.weights and self.weights[key], {"reduction": "sum"}
        if self.adjustment:
            logits, spread = logits + self.adjustment[key], self.adjustment[key].softmax(dim=0)
            said = F.one_hot(labels.clamp(min=0), len(spread))
            goal = torch.lerp(said.float(), spread.expand(said.shape), self.label_smoothing)
            total = F.cross_entropy(logits, goal * (labels != UNKNOWN)[:, None], weight, **options)
        else:
            options.update(label_smoothing=self.label_smoothing, ignore_index=UNKNOWN)
            total = F.cross_entropy(logits, labels, weight, **options)
        known = whole != UNKNOWN
        divisor = known.float().sum() if weight is None else (weight[whole.clamp(min=0)] * known).sum()
        return total / divisor.clamp(min=1e-9)  # without any known label 0 / 1e-9

    def _distillation(self, key, student, teacher):
        if self.kind == "soft":
            return soft_distillation(student, teacher, self.tau, self.reduction)
        # With the teacher's decision (DeiT, arXiv:2012.12877, section 4); no class weights.
        adjustment = self.decided[key] if self.decided else 0
        return F.cross_entropy(student.float() + adjustment, teacher.argmax(dim=1))


def build_criterion(args, labels, sizes, device, decided=None):
    """The loss that the options ask for.

    Args: as of `class_weights`, with the training images' labels; `decided`, of a teacher's decisions, see `learned`.
    """
    kind = args.distillation_type if args.distils else "none"
    weights = class_weights(labels, sizes) if args.loss_weight else None
    weights = weights and {key: values.to(device) for key, values in weights.items()}
    loss = DistillationLoss(kind, args.distillation_alpha, args.distillation_tau, weights, args.ls)
    loss.reduction = args.distillation_reduction
    if args.logit_adjustment:
        shares = log_shares(labels, sizes)
        loss.adjustment = {key: args.logit_adjustment * values.to(device) for key, values in shares.items()}
        decided = {key: torch.tensor(values, device=device) for key, values in (decided or {}).items()}
        loss.decided = {key: args.logit_adjustment * values for key, values in decided.items()}
    return loss
