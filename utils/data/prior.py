"""What a network's meta say of the classes' shares in its logits. Without PyTorch: an exported file tells them, too."""

import math


def prior_of(meta, sizes):
    """The log-prior in a network's logits (see `utils.losses.log_prior`), attribute -> list by class, as its meta have it;
    None where they do not say.

    Args: `sizes`, attribute -> number of classes.
    """
    prior, options = meta.get("prior"), options_of(meta)
    earlier = meta.get("loss_version") is None  # also where a run of one was resumed
    if earlier and options.get("distillation_type") == "hard" and options.get("kd_learning"):
        return None  # earlier versions took the teacher's logits for its decisions
    known = isinstance(prior, dict) and all(_are_finite(prior.get(key), size) for key, size in sizes.items())
    return prior if known else None


def _are_finite(values, size):
    """Whether what a file holds is a list of so many numbers."""
    is_row = isinstance(values, list) and list(map(type, values)) == [float] * size
    return is_row and all(map(math.isfinite, values))


def smoothed_of(meta, sizes):
    """Attributes of a network whose prior cannot be taken off its logits, since labels were smoothed; see `is_overturned`.

    Earlier versions did not say which: there it is told from the prior, and from --ls.
    """
    prior, smoothing, said = prior_of(meta, sizes) or {}, options_of(meta).get("ls"), meta.get("smoothed")
    if isinstance(said, list):
        return [key for key in sizes if key in said]
    if not (isinstance(smoothing, float) and 0 < smoothing < 1):
        return []
    shares = {key: list(map(math.exp, values)) for key, values in prior.items() if key in sizes}
    return [key for key in shares if is_overturned(smoothing, [1 / sizes[key]] * sizes[key], shares[key])]


def is_overturned(smoothing, spread, divisors):
    """Whether label smoothing has the wrong class win on photos that are easy, once each class's probability is divided.

    A network that learns to be sure says 1 - smoothing + smoothing * spread of a photo's class, smoothing * spread of others.

    Args: `smoothing`, 0 to 1; `spread`, how it is spread over the classes; `divisors`, above 0, by class.
    """
    pairs = [(smoothing * float(part), float(divisor)) for part, divisor in zip(spread, divisors)]
    return max(part / d for part, d in pairs) > min((1 - smoothing + part) / d for part, d in pairs)


def options_of(meta):
    """The options that a network was trained with, a dict, empty where its meta do not say."""
    return meta["options"] if isinstance(meta.get("options"), dict) else {}
