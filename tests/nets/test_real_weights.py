"""FashionCLIP and TinyViT as they are on the hub: `bash test.sh --hub`, for whoever has a network."""

import json
import math
import os
from pathlib import Path

import pytest
from conftest import ATTRIBUTES, rows, script_options

import evaluate
import train
from clip_model import FashionCLIP
from utils.base import log
from utils.base.errors import UserError
from utils.nets.backbones import build_backbone
from utils.nets.hub import CLIP_MODEL, STUDENT
from utils.tools.sample import make_sample

pytestmark = pytest.mark.hub

# A recipe of train.sh -> the checkpoint that teaches its student.
RECIPES = {
    "teacher": None,
    "student": "teacher/model_1.pt",
    "best-teacher": None,
    "best": "best-teacher/model_1.pt",
}


def test_the_real_weights(place, capsys):
    """Both are loaded strictly, drawn garments are classified zero-shot, and each recipe takes a step."""
    try:
        teacher, (backbone, width, _) = FashionCLIP(ATTRIBUTES, CLIP_MODEL), build_backbone(STUDENT, True)
    except UserError as error:  # no network, no such repository, weights that are missing or do not fit
        pytest.exit(f"--hub: {error}", returncode=error.exit_code)
    sizes = [sum(weight.numel() for weight in net.parameters()) for net in (teacher, backbone)]
    assert sizes == [151_277_313, 5_071_764] and width == 320
    del teacher, backbone

    make_sample("drawn", train=16, val=60)
    evaluate.main("--checkpoint zero-shot --data-dir drawn --cache-dir cache --output zero-shot".split())
    log.stop()
    found = json.loads(Path("zero-shot/evaluation.json").read_text(encoding="utf-8"))
    scores = {key: found["attributes"][key]["top1"] for key in ATTRIBUTES}
    with capsys.disabled():
        print(f"\ndrawn garments, zero-shot: Top-1 {scores}")
    # The kind of garment is what FashionCLIP has learned to tell; a wrong order of channels or of classes would not.
    assert scores["daily"] > 1 / len(ATTRIBUTES["daily"].classes)

    for recipe, taught_by in RECIPES.items():
        options = script_options(place, [recipe, "--epochs", "1"])
        options += [] if taught_by is None else ["--teacher", taught_by]
        train.main([*options, "--data-dir", "drawn"])
        log.stop()
        assert math.isfinite(float(rows(recipe)[0]["train_loss"]))
        if taught_by:
            assert os.path.getsize(f"model/{recipe}/model_1.pt") < 25e6
