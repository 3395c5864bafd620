"""Both networks fetched from a hub: a small one on this machine, since the real one may be out of reach.

huggingface_hub reads HF_ENDPOINT when it is imported, so this file, run as a program, is also the client.
"""

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from clip_model import FashionCLIP
from tiny_vit import tiny_vit_5m_224
from utils.errors import UserError

TESTS = Path(__file__).resolve().parent
TEACHER = "patrickjohncyh/fashion-clip"
STUDENT = "timm/tiny_vit_5m_224.dist_in22k"
# What a file that the hub's client cannot reach costs the user, with its five retries: 1 + 2 + 4 + 8 + 8 seconds.
ONE_FILE_GIVEN_UP = 23


def pixels():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8, generator=generator)


def teacher_logits(name):
    net = FashionCLIP(name).eval()
    with torch.no_grad():
        return net(pixels())


def student_weights(name):
    return tiny_vit_5m_224(name).state_dict()


LOADERS = {"teacher": teacher_logits, "student": student_weights}


def attempt(loader, name):
    """One load: its result or the user's error, and the seconds it takes, the waits between retries included."""
    waits = []
    sleep, time.sleep = time.sleep, waits.append  # count the waits instead of sitting them out
    start = time.monotonic()
    try:
        outcome = {"result": LOADERS[loader](name)}
    except UserError as error:
        outcome = {"error": str(error)}
    finally:
        time.sleep = sleep
    return {**outcome, "seconds": time.monotonic() - start + sum(waits)}


def client(out, tasks):
    torch.save({name: attempt(loader, name) for loader, name in json.loads(tasks)}, out)


@contextmanager
def client_process(folder, endpoint, tasks, **variables):
    """Start a client of the hub at `endpoint` in its own process; yields a function that waits for its outcomes."""
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
        PYTHONPATH=str(TESTS.parent),
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


def write_vocabulary(folder):
    """CLIP's vocabulary in small: every byte, alone and at the end of a word, and two merges. Returns its size."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e</w>")]
    start, end = "<|startoftext|>", "<|endoftext|>"
    tokens = letters + [f"{letter}</w>" for letter in letters] + ["".join(pair) for pair in merges] + [start, end]
    special = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": end}
    config = {**special, "model_max_length": 128, "do_lower_case": True, "tokenizer_class": "CLIPTokenizer"}
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(tokens)


def write_teacher(folder):
    """A small FashionCLIP, in the files of the published one."""
    from safetensors.torch import save_file
    from transformers import CLIPConfig, CLIPModel

    tokens = write_vocabulary(folder)
    layers = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = CLIPConfig(
        text_config={
            **layers,
            "vocab_size": tokens,
            "max_position_embeddings": 128,  # so few merges make long sentences
            "bos_token_id": tokens - 2,
            "eos_token_id": tokens - 1,
        },
        vision_config={**layers, "image_size": 224, "patch_size": 32},
        projection_dim=48,
    )
    config.architectures = ["CLIPModel"]
    config.save_pretrained(folder)
    state = CLIPModel(config).state_dict()
    # The published file has the two that today's transformers has no place for.
    state["text_model.embeddings.position_ids"] = torch.arange(128)[None]
    state["vision_model.embeddings.position_ids"] = torch.arange(50)[None]
    save_file(state, str(folder / "model.safetensors"), metadata={"format": "pt"})


def repository(root, repo_id):
    folder = root / repo_id
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def repositories(tmp_path_factory):
    """The folder that the hub serves."""
    import timm
    from safetensors.torch import save_file

    root = tmp_path_factory.mktemp("hub")
    torch.manual_seed(0)
    write_teacher(repository(root, TEACHER))
    no_vocabulary = repository(root, "example/no-vocabulary")
    for name in ("config.json", "model.safetensors"):
        (no_vocabulary / name).write_bytes((root / TEACHER / name).read_bytes())
    state = timm.create_model("tiny_vit_5m_224", num_classes=10).state_dict()  # as published: with a classifier
    save_file(state, str(repository(root, STUDENT) / "model.safetensors"))
    torch.save(state, repository(root, "example/bin-only") / "pytorch_model.bin")
    (repository(root, "example/no-weights") / "config.json").write_text((root / TEACHER / "config.json").read_text())
    return root


@pytest.fixture(scope="module")
def hub_and_outcomes(repositories, tmp_path_factory):
    """Everything that is asked of a hub that answers, in one process: importing torch is what takes the time."""
    from hub_server import serve

    tasks = [
        ("teacher", TEACHER),
        ("student", STUDENT),
        ("student", "example/bin-only"),
        ("teacher", "example/no-such-teacher"),
        ("student", "example/no-such-student"),
        ("teacher", "example/no-vocabulary"),
        ("student", "example/no-weights"),
    ]
    with serve(repositories) as hub:
        with client_process(tmp_path_factory.mktemp("client"), hub.url, tasks) as outcomes:
            yield hub, outcomes()


def test_teacher_from_the_hub(hub_and_outcomes, repositories):
    hub, outcomes = hub_and_outcomes
    found = outcomes[TEACHER]["result"]
    expected = teacher_logits(str(repositories / TEACHER))
    assert found.keys() == expected.keys()
    for key in expected:
        assert found[key].shape == expected[key].shape
        torch.testing.assert_close(found[key], expected[key], rtol=0, atol=1e-5)
    fetched = {Path(path).name for path in hub.answered("GET") if path.startswith(f"/{TEACHER}/resolve/")}
    assert {"config.json", "model.safetensors", "vocab.json", "merges.txt"} <= fetched


@pytest.mark.parametrize(
    "repo_id, file", [(STUDENT, "model.safetensors"), ("example/bin-only", "pytorch_model.bin")]
)
def test_student_from_the_hub(hub_and_outcomes, repositories, repo_id, file):
    from safetensors.torch import load_file

    hub, outcomes = hub_and_outcomes
    found = outcomes[repo_id]["result"]
    published = load_file(str(repositories / STUDENT / "model.safetensors"))
    assert set(published) - set(found) == {"head.fc.weight", "head.fc.bias"}
    assert all(torch.equal(found[name], published[name]) for name in found)
    assert f"/{repo_id}/resolve/main/{file}" in hub.answered("GET")


def assert_names_the_way_out(outcome, repo_id, option):
    assert "error" in outcome, f"{repo_id} was loaded"
    assert "\n" not in outcome["error"].strip()
    assert repo_id in outcome["error"]
    assert option in outcome["error"]


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
def unreachable_hub(tmp_path_factory):
    """Outcomes without a hub, and without the proxy that the environment names: a port that nobody listens on."""
    tasks = [("teacher", TEACHER), ("student", STUDENT)]
    folder = tmp_path_factory.mktemp("unreachable")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # held, so that no other process gets it
        nowhere = "http://127.0.0.1:%d" % silent.getsockname()[1]
        with client_process(folder / "hub", nowhere, tasks) as no_hub:
            with client_process(folder / "proxy", "http://hub.invalid", tasks, http_proxy=nowhere) as no_proxy:
                yield {"no hub": no_hub(), "no proxy": no_proxy()}


@pytest.mark.parametrize("missing", ["no hub", "no proxy"])
@pytest.mark.parametrize("repo_id, option", [(TEACHER, "--clip-model FOLDER"), (STUDENT, "--student-weights FILE")])
def test_no_network(unreachable_hub, missing, repo_id, option):
    outcome = unreachable_hub[missing][repo_id]
    assert_names_the_way_out(outcome, repo_id, option)
    assert outcome["seconds"] < ONE_FILE_GIVEN_UP + 15


if __name__ == "__main__":
    client(*sys.argv[1:])
