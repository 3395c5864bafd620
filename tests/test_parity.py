"""Against the figures of the published implementation (tests/golden.json)."""

import json
import zlib

import numpy as np
import pytest
import torch
from conftest import ATTRIBUTES, GOLDEN, golden_image, golden_weights, published_student_names

from clip_model import FashionCLIP
from networks import Student, load_network
from utils.data.photos import letterbox
from utils.evaluation.metrics import accuracies, confusion_matrix
from utils.losses import DistillationLoss, LossOptions
from utils.nets.checkpoint import load_state, read_checkpoint
from utils.scheduler import CosineAnnealingWarmUpRestarts


def by_attribute(values, dtype=torch.float32):
    return {key: torch.tensor(value, dtype=dtype) for key, value in zip(ATTRIBUTES, values)}


def largest_difference(logits, expected):
    return max(
        np.abs(logits[key].numpy() - np.array(value)).max() for key, value in zip(ATTRIBUTES, expected)
    )


@pytest.fixture(scope="module")
def pixels():
    images = [letterbox(golden_image(c["height"], c["width"], c["s"])) for c in GOLDEN["preprocessing"][:3]]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("case", GOLDEN["scheduler"], ids=lambda case: str(case["args"]["T_0"]))
def test_learning_rates(case):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=case["optimizer_lr"])
    scheduler = CosineAnnealingWarmUpRestarts(optimizer, **case["args"])
    for expected in case["lr_per_epoch"]:
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, abs=1e-9)
        assert scheduler.get_last_lr() == [optimizer.param_groups[0]["lr"]]
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(
    "case", GOLDEN["distillation_loss"]["cases"], ids=lambda c: f"{c['type']}-{c['alpha']}"
)
def test_losses(case):
    inputs = GOLDEN["distillation_loss"]["inputs"]
    options = LossOptions(case["type"], case["alpha"], case["tau"], smoothing=case["label_smoothing"])
    weights = by_attribute(inputs["class_weights"]) if case["weighted"] else None
    criterion = DistillationLoss(options, weights)
    distils = case["type"] != "none"
    class_logits = by_attribute(inputs["class_logits"])
    losses = criterion(
        (class_logits, by_attribute(inputs["distillation_logits"])) if distils else class_logits,
        by_attribute(inputs["teacher_logits"]) if distils else None,
        by_attribute(inputs["labels"], torch.int64),
    )
    assert list(losses) == list(ATTRIBUTES)
    for key, attribute in ATTRIBUTES.items():
        assert losses[key].item() == pytest.approx(case[f"loss_{attribute.short}"], abs=1e-5)


def test_metrics(golden):
    expected = golden["metrics"]
    matrix = confusion_matrix(expected["labels"], expected["predictions"], 6)
    assert matrix.tolist() == expected["confusion_matrix"]
    top1, acsa = accuracies(matrix.diagonal(), matrix.sum(axis=1))
    assert top1 == pytest.approx(expected["top1"], abs=1e-12)
    assert acsa == pytest.approx(expected["acsa"], abs=1e-12)


@pytest.mark.parametrize("case", GOLDEN["preprocessing"], ids=lambda c: f"{c['height']}x{c['width']}")
def test_letterboxed_pixels(case):
    image = letterbox(golden_image(case["height"], case["width"], case["s"]))
    assert image.shape == (224, 224, 3) and image.dtype == np.uint8
    for (y, x), expected in zip(case["points_yx"], case["padded_0_1"]):
        assert image[y, x] == pytest.approx(np.array(expected) * 255, abs=0.51)
    assert image.mean() / 255 == pytest.approx(case["mean"], abs=1e-5)


def test_student_logits(golden, pixels, tmp_path):
    expected, net = golden["student"], Student(ATTRIBUTES)
    assert sum(p.numel() for p in net.parameters()) == expected["n_parameters"]
    names = published_student_names(net.state_dict())
    assert len(names) == expected["n_state"]
    assert zlib.crc32("\n".join(sorted(names.values())).encode()) == expected["names_sha"]

    path = tmp_path / "published_student.pt"
    torch.save(golden_weights({names[name]: value for name, value in net.state_dict().items()}), path)
    net, meta = load_network(path)
    assert meta == {}
    with torch.no_grad():
        assert largest_difference(net(pixels), expected["eval_logits"]) < 0.002
        net.training = True  # the heads of training, with batch norm still on its running statistics
        class_logits, distillation_logits = net(pixels)
    assert largest_difference(class_logits, expected["train_class_logits"]) < 0.005
    assert largest_difference(distillation_logits, expected["train_distillation_logits"]) < 0.005


def test_teacher_logits(golden, pixels, tmp_path):
    expected = golden["teacher"]
    meta = {
        "clip_config": expected["config"],
        "token_ids": expected["token_ids"],
    }
    (tmp_path / "prompts.json").write_text(json.dumps(expected["prompts"]))
    net = FashionCLIP.from_meta(meta, ATTRIBUTES.with_prompts(tmp_path / "prompts.json"))
    path = tmp_path / "published_teacher.pt"
    published = golden_weights(net.clip.state_dict())
    published["logit_scale"] = torch.tensor(expected["logit_scale"])
    positions = torch.arange(77).unsqueeze(0)  # as transformers 4.27 saves them
    torch.save(
        {
            "base_model.text_model.embeddings.position_ids": positions,
            **{f"base_model.{name}": value for name, value in published.items()},
        },
        path,
    )
    state, meta = read_checkpoint(path)
    assert meta == {}
    load_state(net.eval(), net.own_names(state), path)
    with torch.no_grad():
        assert largest_difference(net(pixels), expected["logits"]) < 0.03
        assert largest_difference(net.inference()(pixels), expected["logits"]) < 0.03


def test_prompts_are_the_projects_own(golden):
    prompts = {key: [list(p) for p in attribute.prompts] for key, attribute in ATTRIBUTES.items()}
    assert prompts == {key: [[p] for p in found] for key, found in golden["teacher"]["prompts"].items()}
