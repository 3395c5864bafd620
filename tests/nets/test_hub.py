"""Both networks fetched from a hub: a small one on this machine, since the real one may be out of reach.

huggingface_hub reads HF_ENDPOINT when it is imported, so this file, run as a program, is also the client.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import traceback
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ATTRIBUTES, same
from hub_server import serve
from kinds import write_teacher

from clip_model import FashionCLIP
from networks import Student
from utils.base.errors import UserError
from utils.evaluation.inference import load_classifier
from utils.nets import hub as our_hub
from utils.nets.backbones import build_backbone

TESTS = Path(__file__).resolve().parents[1]
TEACHER = "patrickjohncyh/fashion-clip"
STUDENT = "timm/tiny_vit_5m_224.dist_in22k"
SHARED = "example/shared"
OTHER = "mobilenetv4_conv_small"  # timm knows its weights on the hub


def pixels():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8, generator=generator)


def teacher_logits(name):
    net = FashionCLIP(ATTRIBUTES, name).eval()
    with torch.no_grad():
        return net(pixels())


def student_weights(name):
    return build_backbone("tiny_vit_5m_224", name)[0].state_dict()


def own_weights(name):
    return build_backbone(name, True)[0].state_dict()


def probabilities(name):
    classify = load_classifier(name)
    found = classify(pixels().permute(0, 2, 3, 1).numpy())
    return {"path": classify.path, **{key: torch.from_numpy(values) for key, values in found.items()}}


LOADERS = {
    "teacher": teacher_logits,
    "student": student_weights,
    "own": own_weights,
    "checkpoint": probabilities,
}


def attempt(loader, name):
    """One load: its result, the user's error or a traceback, and how often something was tried again."""
    waits = []
    sleep, time.sleep = time.sleep, waits.append
    try:
        outcome = {"result": LOADERS[loader](name)}
    except UserError as error:
        outcome = {"error": str(error)}
    except Exception:  # would end a run with a traceback; the other loads go on
        outcome = {"traceback": traceback.format_exc()}
    finally:
        time.sleep = sleep
    return {**outcome, "retries": len(waits)}


def client(out, tasks):
    torch.save({name: attempt(loader, name) for loader, name in json.loads(tasks)}, out)


@contextmanager
def client_process(folder, endpoint, tasks, **variables):
    """Start a client of the hub at `endpoint`; yields a function that waits for its outcomes."""
    shut_out = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_")  # the user's own cache, token and offline mode
    env = {key: value for key, value in os.environ.items() if not key.startswith(shut_out)}
    env = {key: value for key, value in env.items() if not key.lower().endswith("_proxy")}
    env.update(
        HF_ENDPOINT=endpoint,
        HF_HOME=str(folder / "home"),
        HF_HUB_DISABLE_XET="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_DOWNLOAD_TIMEOUT="5",
        HF_HUB_ETAG_TIMEOUT="5",
        OMP_NUM_THREADS="1",
        PYTHONPATH=f"{TESTS.parent}{os.pathsep}{TESTS}",
        **variables,
    )
    folder.mkdir(exist_ok=True)
    out = folder / "outcomes.pt"
    with open(folder / "output.txt", "w+") as output:
        process = subprocess.Popen(
            [sys.executable, __file__, str(out), json.dumps(tasks)], env=env, stdout=output, stderr=output
        )

        def outcomes():
            process.wait(timeout=120)
            output.seek(0)
            assert process.returncode == 0, output.read()[-4000:]
            return torch.load(out)

        try:
            yield outcomes
        finally:
            process.kill()
            process.wait()


def repository(root, repo_id):
    folder = root / repo_id
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def repositories(tmp_path_factory):
    """The folder that the hub serves."""
    import timm
    from safetensors.torch import save_file

    root = tmp_path_factory.mktemp("hub")
    torch.manual_seed(0)
    write_teacher(repository(root, TEACHER))
    for name in ("config.json", "model.safetensors"):
        shutil.copy(root / TEACHER / name, repository(root, "example/no-vocabulary"))
    # As published, with a classifier.
    state = timm.create_model("tiny_vit_5m_224", num_classes=10).state_dict()
    save_file(state, str(repository(root, STUDENT) / "model.safetensors"))
    torch.save(state, repository(root, "example/bin-only") / "pytorch_model.bin")
    other = timm.create_model(OTHER, num_classes=10)
    folder = repository(root, f"timm/{OTHER}.{other.pretrained_cfg['tag']}")
    save_file(other.state_dict(), str(folder / "model.safetensors"))
    shutil.copy(root / TEACHER / "config.json", repository(root, "example/no-weights"))
    net, folder = Student(ATTRIBUTES), repository(root, SHARED)
    save_file(net.state_dict(), str(folder / "model.safetensors"))
    config = dict(net.describe(), attributes=ATTRIBUTES.to_meta(tables=False))
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "student.onnx").write_text("not needed")
    shutil.copy(folder / "config.json", repository(root, "example/half-shared"))
    for name in ("config.json", "model.safetensors"):
        shutil.copy(root / TEACHER / name, repository(root, "example/not-ours"))
    return root


def test_a_clip_that_takes_larger_photos(tmp_path):
    write_teacher(tmp_path, side=256)
    with pytest.raises(UserError, match="takes 256 pixels a side; choose one of 224"):
        FashionCLIP(ATTRIBUTES, str(tmp_path))


@pytest.fixture(scope="module")
def client_folder(tmp_path_factory):
    """With the cache of what `hub_and_outcomes` fetches."""
    return tmp_path_factory.mktemp("client")


@pytest.fixture(scope="module")
def hub_and_outcomes(repositories, client_folder):
    """All that is asked of a hub that answers, in one process: importing torch is what takes the time."""
    tasks = [
        ("teacher", TEACHER),
        ("student", STUDENT),
        ("student", "example/bin-only"),
        ("teacher", "example/no-such-teacher"),
        ("student", "example/no-such-student"),
        ("teacher", "example/no-vocabulary"),
        ("student", "example/no-weights"),
        ("own", OTHER),
        ("checkpoint", SHARED),
        ("checkpoint", "example/no-such-checkpoint"),
        ("checkpoint", "example/half-shared"),
        ("checkpoint", "example/not-ours"),
    ]
    with serve(repositories) as hub:
        with client_process(client_folder, hub.url, tasks) as outcomes:
            yield hub, outcomes()


@pytest.mark.thorough
def test_another_students_own_weights(hub_and_outcomes, repositories):
    from safetensors.torch import load_file

    found = hub_and_outcomes[1][OTHER]["result"]
    (file,) = (repositories / "timm").glob(f"{OTHER}.*/model.safetensors")
    published = load_file(str(file))
    assert set(published) - set(found) == {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(value, published[name]) for name, value in found.items())


@pytest.mark.thorough
def test_teacher_from_the_hub(hub_and_outcomes, repositories):
    hub, outcomes = hub_and_outcomes
    assert "result" in outcomes[TEACHER], outcomes[TEACHER]
    found = outcomes[TEACHER]["result"]
    expected = teacher_logits(str(repositories / TEACHER))
    assert found.keys() == expected.keys()
    for key in expected:
        assert found[key].shape == expected[key].shape
        torch.testing.assert_close(found[key], expected[key], rtol=0, atol=1e-5)
    fetched = {Path(path).name for path in hub.answered("GET") if path.startswith(f"/{TEACHER}/resolve/")}
    assert {"config.json", "model.safetensors", "vocab.json", "merges.txt"} <= fetched


@pytest.mark.thorough
@pytest.mark.parametrize(
    "repo_id, file", [(STUDENT, "model.safetensors"), ("example/bin-only", "pytorch_model.bin")]
)
def test_student_from_the_hub(hub_and_outcomes, repositories, repo_id, file):
    from safetensors.torch import load_file

    hub, outcomes = hub_and_outcomes
    assert "result" in outcomes[repo_id], outcomes[repo_id]
    found = outcomes[repo_id]["result"]
    published = load_file(str(repositories / STUDENT / "model.safetensors"))
    assert set(published) - set(found) == {"head.fc.weight", "head.fc.bias"}
    assert all(torch.equal(found[name], published[name]) for name in found)
    assert f"/{repo_id}/resolve/main/{file}" in hub.answered("GET")


@pytest.mark.thorough
def test_checkpoint_from_the_hub(hub_and_outcomes, repositories):
    """What export.py --format hub writes; only what is needed is fetched."""
    hub, outcomes = hub_and_outcomes
    assert "result" in outcomes[SHARED], outcomes[SHARED]
    found, expected = outcomes[SHARED]["result"], probabilities(str(repositories / SHARED))
    assert found["path"] == SHARED  # not the cache's folder, which would be written into evaluation.json
    for key in ATTRIBUTES:
        torch.testing.assert_close(found[key], expected[key], rtol=0, atol=1e-5)
    fetched = {Path(path).name for path in hub.answered("GET") if path.startswith(f"/{SHARED}/resolve/")}
    assert fetched == {"config.json", "model.safetensors"}


@pytest.mark.thorough
@pytest.mark.parametrize(
    "repo_id, reason",
    [
        ("example/no-such-checkpoint", "there is no such repository"),
        ("example/half-shared", "it holds no model.safetensors"),
        ("example/not-ours", "config.json: another project's"),
    ],
)
def test_hub_has_no_such_checkpoint(hub_and_outcomes, repo_id, reason):
    assert_names_the_way_out(hub_and_outcomes[1][repo_id], repo_id.split("/")[1], reason)


def assert_names_the_way_out(outcome, repo_id, option):
    assert "error" in outcome, outcome.get("traceback", f"{repo_id} was loaded")
    assert "\n" not in outcome["error"].strip()
    assert repo_id in outcome["error"]
    assert option in outcome["error"]


@pytest.mark.thorough
@pytest.mark.parametrize(
    "repo_id, option",
    [
        ("example/no-such-teacher", "--clip-model FOLDER"),
        ("example/no-vocabulary", "--clip-model FOLDER"),
        ("example/no-such-student", "--student-weights FILE"),
        ("example/no-weights", "--student-weights FILE"),
    ],
)
def test_hub_has_not_got_it(hub_and_outcomes, repo_id, option):
    hub, outcomes = hub_and_outcomes
    assert_names_the_way_out(outcomes[repo_id], repo_id, option)
    assert any(f"/{repo_id}/" in path for path in hub.answered("HEAD", 404) + hub.answered("GET", 404))


@pytest.fixture(scope="module")
def no_network(hub_and_outcomes, client_folder, tmp_path_factory):
    """Outcomes where nothing listens, where somebody listens and says nothing, and behind a proxy that lets nobody through."""
    folder = tmp_path_factory.mktemp("no_network")
    with socket.socket() as closed, socket.socket() as silent, serve(folder) as refusing:
        for one in (closed, silent):
            one.bind(("127.0.0.1", 0))  # held, so that no other process gets the port
        silent.listen()
        nowhere, mute = (f"http://127.0.0.1:{one.getsockname()[1]}" for one in (closed, silent))
        student = [("student", STUDENT)]
        every = [("teacher", TEACHER), *student, ("checkpoint", SHARED)]
        proxy = {"https_proxy": refusing.url}  # this hub knows no CONNECT: status 501
        with client_process(folder / "no_hub", nowhere, every) as no_hub:
            with client_process(client_folder, nowhere, every) as cached:
                with client_process(folder / "mute", mute, student) as mute:
                    with client_process(folder / "proxy", "https://hub.invalid", student, **proxy) as shut_in:
                        yield {"no hub": no_hub(), "mute": mute(), "proxy": shut_in(), "cached": cached()}


@pytest.mark.thorough
@pytest.mark.parametrize(
    "obstacle, repo_id, files, option",
    [
        ("no hub", TEACHER, "config.json model.safetensors vocab.json merges.txt", "--clip-model FOLDER"),
        ("no hub", STUDENT, "model.safetensors", "--student-weights FILE"),
        ("no hub", SHARED, "config.json model.safetensors", "no file or folder of that name"),
        ("mute", STUDENT, "model.safetensors", "--student lite0"),
        ("proxy", STUDENT, "model.safetensors", "--student-weights none"),
    ],
)
def test_no_network(no_network, obstacle, repo_id, files, option):
    """One attempt, and one line with the command that fetches it elsewhere."""
    outcome = no_network[obstacle][repo_id]
    assert_names_the_way_out(outcome, repo_id, option)
    assert f"`hf download {repo_id} {files} --local-dir {repo_id.split('/')[1]}`" in outcome["error"]
    assert "does not answer: " in outcome["error"] and outcome["retries"] == 0


@pytest.mark.thorough
def test_the_cache_without_a_network(no_network, hub_and_outcomes):
    for repo_id in (TEACHER, STUDENT):
        offline, online = no_network["cached"][repo_id], hub_and_outcomes[1][repo_id]
        assert "result" in offline, offline
        assert offline["retries"] == 0 and same(offline["result"], online["result"])
    assert "result" in no_network["cached"][SHARED]


@pytest.mark.parametrize(
    "options, way_out",
    [
        (["--kd-learning", "True", "--student-weights", "example/absent"], "--student lite0"),
        (["--clip-model", "example/absent"], "--clip-model FOLDER"),
    ],
)
def test_a_run_without_a_network_ends_before_photos_are_decoded(fails, monkeypatch, options, way_out):
    for place in ("utils.nets.hub", "clip_model"):
        monkeypatch.setattr(f"{place}.silence", lambda: "https://hub.invalid does not answer: no")
    monkeypatch.setattr("utils.data.dataset.load_pixels", lambda *_: pytest.fail("photos were decoded"))
    said = fails("--version", "a", *options)
    assert (
        "example/absent cannot be fetched (https://hub.invalid does not answer: no); elsewhere, `hf" in said
    )
    assert way_out in said and "\n" not in said


def test_a_network_that_hangs(monkeypatch):
    """Neither the lookup of a name nor a connection is waited for longer than a few seconds."""
    monkeypatch.setattr(our_hub, "ANSWERS_WITHIN", 0.1)
    session = SimpleNamespace(head=lambda *_, **__: threading.Event().wait(20))
    monkeypatch.setattr("huggingface_hub.utils.get_session", lambda: session)
    our_hub.silence.cache_clear()
    try:
        began = time.monotonic()
        assert our_hub.silence() == "https://huggingface.co does not answer: TimeoutError"
        assert time.monotonic() - began < 10
    finally:
        our_hub.silence.cache_clear()


if __name__ == "__main__":
    client(*sys.argv[1:])
