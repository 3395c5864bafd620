"""Checkpoints of both namings, and what does not fit."""

import argparse
import json
import time
from collections import Counter
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import ATTRIBUTES, published_student_names

from clip_model import FashionCLIP
from networks import Student, load_network
from utils.base import log
from utils.base.errors import UserError
from utils.data.attributes import read_attributes
from utils.evaluation.inference import load_classifier
from utils.nets.backbones import build_backbone
from utils.nets.checkpoint import load_state, public_options, read_checkpoint, save_checkpoint
from utils.nets.hub import weights_file
from utils.training import teacher as targets

PIXELS = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("ending", [".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize("published", [False, True])
def test_backbone_weights_under_both_namings(tmp_path, ending, published):
    net = Student(ATTRIBUTES)
    state = {name: value for name, value in net.state_dict().items() if name.startswith("backbone.")}
    if published:
        names = published_student_names(state)
        state = {names[name].replace("base_model.", "", 1): value for name, value in state.items()}
        state["layers.1.blocks.0.attn.attention_bias_idxs"] = torch.zeros(49, 49, dtype=torch.int64)
        state["head.weight"] = torch.zeros(10, 320)
    else:
        state = {name.replace("backbone.", "", 1): value for name, value in state.items()}
        state["head.fc.weight"] = torch.zeros(10, 320)
    path = tmp_path / f"weights{ending}"
    if ending == ".safetensors":
        from safetensors.torch import save_file

        save_file(state, path)
    else:
        torch.save({"model": state, "epoch": 1} if ending == ".pth" else state, path)
    assert same(build_backbone("tiny_vit_5m_224", str(path))[0], net.backbone)
    assert same(Student(ATTRIBUTES, weights=str(path)).backbone, net.backbone)


def test_loading_in_evaluation_mode_renews_the_attention_biases(tmp_path):
    torch.manual_seed(0)
    old, new = Student(ATTRIBUTES).eval(), Student(ATTRIBUTES).eval()
    for name, value in new.named_parameters():
        if "attention_biases" in name:
            torch.nn.init.normal_(value)
    save_checkpoint(tmp_path / "new.pt", new, {})
    with torch.no_grad():
        old(PIXELS)  # timm 1.0.9 caches the biases here
        load_state(old, read_checkpoint(tmp_path / "new.pt")[0], "new.pt")
        for a, b in zip(old(PIXELS).values(), new(PIXELS).values()):
            assert torch.equal(a, b)


def test_what_does_not_fit_is_listed(tmp_path):
    net = Student(ATTRIBUTES)
    state = net.state_dict()
    del state["backbone.head.norm.weight"]
    state["surplus"] = torch.zeros(1)
    state["class_heads.0.bias"] = torch.zeros(7)
    torch.save({"model": state, "meta": net.describe()}, tmp_path / "a.pt")
    with pytest.raises(UserError) as error:
        load_network(tmp_path / "a.pt")
    for part in (
        "a.pt",
        'Missing key(s) in state_dict: "backbone.head.norm.weight"',
        'Unexpected key(s) in state_dict: "surplus"',
        "torch.Size([7]) from checkpoint, the shape in current model is torch.Size([6])",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_no_checkpoint(tmp_path, content):
    path = tmp_path / "a.pt"
    if content is None:
        torch.save([1, 2], path)
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.pt"):
        load_network(path)
    with pytest.raises(UserError, match=r"a\.pth.*--student-weights"):
        build_backbone("tiny_vit_5m_224", str(tmp_path / "a.pth"))


def test_variants():
    assert [build_backbone(f"tiny_vit_{size}m_224")[1] for size in (5, 11, 21)] == [
        320, 448, 576,
    ]  # fmt: skip


def test_teacher_round_trip(tmp_path):
    prompts = {key: list(attribute.prompts) for key, attribute in ATTRIBUTES.items()}
    prompts["daily"][0] = "a photo of something else"
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    attributes = ATTRIBUTES.with_prompts(tmp_path / "prompts.json")
    net = FashionCLIP(attributes, "random").eval()
    meta = dict(net.describe(), attributes=attributes.to_meta())
    save_checkpoint(tmp_path / "a.pt", net, json.loads(json.dumps(meta)))
    again, found = load_network(tmp_path / "a.pt")
    assert found == meta and again.attributes == attributes
    assert again.attributes["daily"].prompts[0] == ("a photo of something else",)
    kept = again.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in net.state_dict().items())
    with torch.no_grad():
        for a, b in zip(net(PIXELS).values(), again(PIXELS).values()):
            assert torch.equal(a, b)


def test_published_teacher_needs_clip_model(tmp_path):
    net = FashionCLIP(ATTRIBUTES, "random")
    published = {name.replace("clip.", "base_model.", 1): value for name, value in net.state_dict().items()}
    torch.save(published, tmp_path / "a.pt")
    assert same(net, load_network(tmp_path / "a.pt", clip_model="random")[0])
    with pytest.raises(UserError, match="--clip-model"):
        load_network(tmp_path / "a.pt", clip_model=str(tmp_path))


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"daily": ["a"], "gender": [], "embellishment": []}', None]
)
def test_bad_prompts(fails, text):
    if text is not None:
        Path("prompts.json").write_text(text)
    assert "prompts.json" in fails("--version", "a", "--prompts", "prompts.json")


def test_prompts_file(tmp_path):
    prompts = {key: [f"{key} {name}" for name in attribute.classes] for key, attribute in ATTRIBUTES.items()}
    prompts["gender"][1] = ["one", "another"]
    (tmp_path / "a.json").write_text(json.dumps(prompts))
    found = read_attributes(prompts=tmp_path / "a.json")
    assert found["daily"].prompts[0] == (prompts["daily"][0],)
    assert found["gender"].prompts[1] == ("one", "another")
    assert [one._replace(prompts=()) for one in found.values()] == [
        one._replace(prompts=()) for one in ATTRIBUTES.values()
    ]


def test_bad_teachers(train, fails):
    kd = "--kd-learning True --distillation-type soft --teacher".split()
    assert "no checkpoint under model/" in fails("--version", "a", *kd, "t/model_1.pt")
    train("--version", "t", "--epochs", "1")
    assert "t/model_{1}.pt" in fails("--version", "a", *kd, "t/model_5.pt")
    content = torch.load("model/t/model_1.pt")
    content["model"]["clip.visual_projection.weight"] = torch.zeros(3)
    torch.save(content, "model/t/model_2.pt")
    assert "size mismatch for clip.visual_projection.weight: " in fails("--version", "a", *kd, "t/model_2.pt")
    Path("model/t/model_3.pt").write_text("no checkpoint")
    assert "model_3.pt" in fails("--version", "a", *kd, "t/model_3.pt")


def test_a_folder_that_is_no_clip_model(fails):
    Path("empty").mkdir()
    message = fails("--version", "a", "--clip-model", "empty")
    assert "empty" in message and "--clip-model FOLDER" in message


def test_only_heads_that_have_learned_are_asked(place):
    """In evaluation, folded, and from a file, whose meta say which; the other head may hold anything."""
    torch.manual_seed(0)
    net = Student(ATTRIBUTES, backbone="test_efficientnet")
    for head in [*net.class_heads, *net.distillation_heads.values()]:
        torch.nn.init.normal_(head.weight)
        torch.nn.init.normal_(head.bias)
    net.class_share = dict(zip(ATTRIBUTES, (1.0, 0.0, 0.5)))
    pixels = torch.randint(256, (3, 3, 224, 224), dtype=torch.uint8)
    with torch.no_grad():
        features = net.eval().backbone(net.normalize(pixels))
        heads = [*zip(net.class_heads, net.distillation_heads.values())]
        said = [[head(features) for head in pair] for pair in heads]
    expected = dict(zip(ATTRIBUTES, (said[0][0], said[1][1], (said[2][0] + said[2][1]) / 2)))
    save_checkpoint("some.pt", net, dict(net.describe(), attributes=ATTRIBUTES.to_meta()))
    loaded = load_network("some.pt")[0]
    folded = net.folded()
    save_checkpoint("folded.pt", folded, dict(net.describe(), **folded.describe(), folded=True))
    for name, one in dict(net=net, loaded=loaded, folded=folded, file=load_network("folded.pt")[0]).items():
        with torch.no_grad():
            found = one(pixels)
        for key, values in expected.items():
            assert torch.allclose(found[key], values, atol=1e-5), (name, key)
    assert (
        torch.equal(net(pixels)["daily"], said[0][0]) and "class_share" not in Student(ATTRIBUTES).describe()
    )
    turned = dict(reversed(net.class_share.items()))
    save_checkpoint(
        "turned.pt", net, dict(net.describe(), attributes=ATTRIBUTES.to_meta(), class_share=turned)
    )
    with torch.no_grad():
        assert torch.equal(load_network("turned.pt")[0].folded()(pixels)["daily"], folded(pixels)["daily"])
    for wrong in ("daily", {"daily": 0.5}, dict.fromkeys(ATTRIBUTES, 0.7), {key: [1] for key in ATTRIBUTES}):
        meta = dict(net.describe(), attributes=ATTRIBUTES.to_meta(), class_share=wrong)
        save_checkpoint("wrong.pt", net, meta)
        with pytest.raises(UserError, match="its meta do not say which heads have learned"):
            load_network("wrong.pt")


# --- files of others ---------------------------------------------------------------------------------

SMALL = "test_efficientnet"
STATE = {"a.weight": torch.ones(2), "b.bias": torch.zeros(1)}


def wrapped(prefix, state=STATE):
    return {f"{prefix}{name}": value for name, value in state.items()}


@pytest.mark.parametrize(
    "content",
    [
        {"arch": "a", "epoch": 3, "state_dict": STATE, "args": argparse.Namespace(model="a", mean=(0.5,))},
        {"state_dict": wrapped("c."), "state_dict_ema": STATE},
        {"model": wrapped("c."), "model_ema": STATE, "optimizer": {}},
        {"model": STATE, "model_ema": {}, "lr_scheduler": {"milestones": Counter([30, 60])}},
        {"model": STATE, "device": torch.device("cpu")},
        {"state_dict": STATE, "state_dict_ema": None},
        {"state_dict": wrapped("module.")},
        wrapped("_orig_mod."),
        wrapped("_orig_mod.module."),
        wrapped("module._orig_mod.module."),
        {"a._orig_mod.weight": STATE["a.weight"], "b.bias": STATE["b.bias"]},
    ],
)
def test_state_dicts_of_others(tmp_path, content):
    """Of timm's own script, of DistributedDataParallel and of torch.compile."""
    torch.save(content, tmp_path / "a.pt")
    state, meta = read_checkpoint(tmp_path / "a.pt")
    assert state.keys() == STATE.keys() and all(torch.equal(state[n], STATE[n]) for n in STATE) and meta == {}


def test_the_state_that_is_taken_is_said(place, capsys):
    torch.save({"state_dict": STATE, "state_dict_ema": STATE}, "a.pt")
    log.start()
    read_checkpoint("a.pt")
    assert capsys.readouterr().out == "a.pt: weights of state_dict_ema, not of state_dict\n"


def small_student(folder):
    """A student in a version's folder and in a folder to share; and the paths that stand for it."""
    net = Student(ATTRIBUTES, backbone=SMALL)
    meta = {**net.describe(), "attributes": ATTRIBUTES.to_meta()}
    (folder / "version").mkdir()
    (folder / "shared").mkdir()
    save_checkpoint(folder / "version" / "best.pt", net, meta)
    (folder / "shared" / "config.json").write_text(json.dumps(meta))
    weights = folder / "shared" / "model.safetensors"
    weights.write_bytes(safetensors.torch.save(net.state_dict()))
    return net, [folder / "version" / "best.pt", folder / "version", folder / "shared", weights]


def test_a_student_of_ours_is_trained_on(tmp_path):
    net, paths = small_student(tmp_path)
    for path in paths:
        assert same(build_backbone(SMALL, str(path))[0], net.backbone)
    with pytest.raises(UserError, match="does not fit"):
        build_backbone("resnet10t", str(paths[0]))
    content = torch.load(paths[0])
    content["meta"]["folded"] = True
    torch.save(content, paths[0])
    with pytest.raises(UserError, match="exported, without batch norms; give the checkpoint"):
        build_backbone(SMALL, str(paths[0]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: a folder without best\.pt or config\.json"):
        build_backbone(SMALL, str(tmp_path / "empty"))


def test_folders_teach(place):
    """A version's, by its name; a folder to share, by its path."""
    net, _ = small_student(place)
    (place / "model").mkdir()
    (place / "version").rename(place / "model" / "t")
    for name in ("t", "t/best.pt", "shared", str(place / "shared")):
        assert same(targets.load_teacher(name, ATTRIBUTES, None, None, 0)[0], net)
    with pytest.raises(
        UserError,
        match=r"--teacher t/model_5\.pt: neither model/t/model_5\.pt nor t/.* is there; there are: t/best",
    ):
        targets.load_teacher("t/model_5.pt", ATTRIBUTES, None, None, 0)


def test_a_versions_folder_is_its_best(tmp_path):
    net, _ = small_student(tmp_path)
    classify = load_classifier(str(tmp_path / "version"))
    assert classify.net.backbone_name == net.backbone_name
    assert weights_file(str(tmp_path / "version")) == str(tmp_path / "version" / "best.pt")


@pytest.mark.parametrize(
    "given, kept",
    [
        ("t/best.pt", "t/best.pt"),
        ("acme/sub/best.pt", "sub/best.pt"),
        ("owner/name", "owner/name"),
        ("zero-shot", "zero-shot"),
        ("/home/somebody/best.pt", "best.pt"),
        ("../somebody/best.pt", "best.pt"),
        ("t/../../somebody/best.pt", "best.pt"),
    ],
)
def test_what_is_told_of_the_teacher(given, kept):
    assert public_options({"teacher": given}) == {"teacher": kept}


@pytest.mark.parametrize("backbone", ["vit_gigantic_patch14_224", "vit_giant_patch14_reg4_dinov2"])
def test_a_file_that_names_an_enormous_student(tmp_path, backbone):
    """No network of billions of weights is built for it."""
    meta = {
        "role": "student",
        "distillation": False,
        "backbone": backbone,
        "attributes": ATTRIBUTES.to_meta(),
    }
    torch.save({"model": STATE, "meta": meta}, tmp_path / "a.pt")
    begin = time.perf_counter()
    with pytest.raises(UserError, match=r"^checkpoint .*a\.pt is too small for the network that it names"):
        load_network(tmp_path / "a.pt")
    assert time.perf_counter() - begin < 5
