"""Checkpoints of both namings, and what does not fit."""

import json
from pathlib import Path

import pytest
import torch
from conftest import ATTRIBUTES, published_student_names

from clip_model import FashionCLIP
from networks import Student, load_network
from utils.attributes import read_attributes
from utils.backbones import build_backbone
from utils.checkpoint import load_state, read_checkpoint, save_checkpoint
from utils.errors import UserError

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
        "missing: backbone.head.norm.weight",
        "left over: surplus",
        "(7,) in the file, (6,)",
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
    attributes = ATTRIBUTES.with_prompts(prompts, "test")
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
    content["model"]["clip.logit_scale"] = torch.zeros(3)
    torch.save(content, "model/t/model_2.pt")
    assert "clip.logit_scale: (3,) in the file, () in the network" in fails(
        "--version", "a", *kd, "t/model_2.pt"
    )
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
    for head in [*net.class_heads, *net.distillation_heads]:
        torch.nn.init.normal_(head.weight)
        torch.nn.init.normal_(head.bias)
    net.class_share = dict(zip(ATTRIBUTES, (1.0, 0.0, 0.5)))
    pixels = torch.randint(256, (3, 3, 224, 224), dtype=torch.uint8)
    with torch.no_grad():
        features = net.eval().backbone(net.normalize(pixels))
        heads = [*zip(net.class_heads, net.distillation_heads)]
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
    for wrong in ("daily", {"daily": 0.5}, dict.fromkeys(ATTRIBUTES, 0.7)):
        meta = dict(net.describe(), attributes=ATTRIBUTES.to_meta(), class_share=wrong)
        save_checkpoint("wrong.pt", net, meta)
        with pytest.raises(UserError, match="its meta do not say which heads have learned"):
            load_network("wrong.pt")
