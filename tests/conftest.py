"""A small drawn data set, and a place to run in."""

import csv
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from utils.base import log
from utils.base.cli import exit_code
from utils.data.attributes import read_attributes
from utils.nets import checkpoint
from utils.nets.hub import STUDENT

ATTRIBUTES = read_attributes()  # the competition's
GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text(encoding="utf-8"))

# One tiny run of main(); the rest is the procedure's.
SHORT = (
    "--epochs 2 --batch-size 8 --log-interval 1 --precision fp32 --clip-model random --student-weights none "
    "--student test_efficientnet"
).split()


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="also the tests marked thorough")
    parser.addoption("--hub", action="store_true", help="only those marked hub, which fetch the real weights")
    parser.addoption("--cuda", action="store_true", help="only those marked cuda, on a GPU")


def pytest_configure(config):
    if config.getoption("--cuda") and not torch.cuda.is_available():
        raise pytest.UsageError("--cuda: PyTorch finds no CUDA device")


def pytest_collection_modifyitems(config, items):
    def wanted(item):
        if config.getoption("--cuda") and not item.get_closest_marker("cuda"):
            return False
        if config.getoption("--hub") or item.get_closest_marker("hub"):
            return config.getoption("--hub") and item.get_closest_marker("hub")
        return config.getoption("--all") or not item.get_closest_marker("thorough")

    left_out = [item for item in items if not wanted(item)]
    if left_out:
        items[:] = filter(wanted, items)
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session")
def golden():
    """Figures of the published implementation on fixed inputs."""
    return GOLDEN


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A data set of 16 + 8 drawn photos."""
    from utils.tools.sample import make_sample

    folder = tmp_path_factory.mktemp("drawn") / "sample"
    make_sample(str(folder), train=16, val=8, seed=1)
    return folder


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    """A folder with data/, drawn, and student.pt, which tells its photos apart: untrained weights would not."""
    from utils.tools.sample import make_sample

    folder = tmp_path_factory.mktemp("work")
    make_sample(str(folder / "data"), train=6, val=10)
    save_telling_student(folder, "test_efficientnet")
    return folder


@pytest.fixture(scope="session")
def exported(work):
    """Precision -> ONNX file of that student."""
    return export_student(work)


@pytest.fixture(scope="session")
def tiny_vit(work, tmp_path_factory):
    """As `work`, with the recipe's backbone."""
    folder = tmp_path_factory.mktemp("tiny_vit")
    (folder / "data").symlink_to(work / "data")
    save_telling_student(folder, STUDENT)
    return folder


@pytest.fixture(scope="session")
def exported_tiny_vit(tiny_vit):
    return export_student(tiny_vit)


def save_telling_student(folder, backbone):
    """student.pt, with weights that tell the photos of folder/data apart."""
    from networks import Student
    from utils.data.photos import letterbox, read_rgb
    from utils.nets.checkpoint import save_checkpoint

    photos = [letterbox(read_rgb(path)) for path in sorted((folder / "data" / "val").rglob("*.*g"))]
    pixels = torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2)
    torch.manual_seed(0)
    net = Student(ATTRIBUTES, distillation=True, backbone=backbone)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
            module.momentum = 1.0  # the statistics are those of the next batch
        elif isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=module.in_features**-0.5)
            torch.nn.init.normal_(module.bias, std=0.1)
        if hasattr(module, "attention_biases"):
            module.attention_biases.data.normal_()
    with torch.no_grad():
        net.train()(pixels)
        features = net.eval().backbone(net.normalize(pixels))
        for head in [*net.class_heads, *net.distillation_heads.values()]:
            head.bias.copy_(-head.weight @ features.mean(dim=0))
    meta = dict(net.describe(), attributes=ATTRIBUTES.to_meta(), options={"version": "tried"})
    meta["metrics"] = {"val_top1": 0.5}
    save_checkpoint(folder / "student.pt", net, meta)


def export_student(folder):
    import export

    paths = {precision: folder / f"{precision}.onnx" for precision in ("fp32", "fp16", "int8")}
    for precision, path in paths.items():
        options = f"--checkpoint {folder}/student.pt --output {path} --data-dir {folder}/data --compare 2"
        export.main([*options.split(), "--precision", precision])
    return paths


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working directory with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield tmp_path
    log.stop()


@pytest.fixture
def without_matplotlib(monkeypatch):
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def no_pictures(monkeypatch):
    """evaluate.py draws none, which saves most of its time."""
    for name in ("draw_confusion", "draw_reliability", "draw_mistakes"):
        monkeypatch.setattr(f"utils.evaluation.pictures.{name}", lambda *_: None)


@pytest.fixture
def train(place, photos, monkeypatch):
    """A short run of train.py on the drawn photos, in this process: train("--version", "a", ...).

    Its curves.png is empty, since drawing takes as long as training; the fixture `curves` has them drawn.
    """
    import train as script

    monkeypatch.setattr("utils.training.record.draw_curves", lambda *_: Figure((1, 1)))

    def run(*options, data_dir=photos):
        script.main([*SHORT, "--data-dir", str(data_dir), *options])

    return run


@pytest.fixture
def fails(train, capsys):
    """Runs train.py, which must end with one line on stderr and leave nothing behind; returns that line."""

    def run(*options, code=2, **kwargs):
        before = sorted(os.walk("."))
        capsys.readouterr()
        assert exit_code(lambda: train(*options, **kwargs)) == code
        errors = capsys.readouterr().err.strip()
        assert errors.startswith("error: ") and "Traceback" not in errors
        left = [entry for entry in sorted(os.walk(".")) if "cache" not in entry[0].split(os.sep)]
        assert [e[2] for e in left] == [e[2] for e in before if "cache" not in e[0].split(os.sep)]
        return errors

    return run


def script_options(folder, words):
    """The options that `bash train.sh` with these words gives to train.py; `folder` takes a stand-in for Python."""
    python = folder / "python"
    python.write_text('#!/usr/bin/env bash\nif [ "$1" = - ]; then exit 0; fi\necho "$@"\n')
    python.chmod(0o755)
    command, env = (
        ["bash", str(Path(__file__).parents[1] / "train.sh")],
        {**os.environ, "PYTHON": str(python)},
    )
    said = subprocess.run([*command, *words], env=env, stdout=subprocess.PIPE, check=True)
    said = said.stdout.decode().split()
    return said[2 if said[0] == "-m" else 1 :]


def odd_exif(orientation):
    """EXIF with a negative width: ImageOps.exif_transpose cannot write it anew."""
    tags = struct.pack(">HHIi", 0x0100, 9, 1, -1) + struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    return b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 2) + tags + bytes(4)


def rows(version):
    """Rows of a run's metrics.csv but for their seconds."""
    with open(f"logs/{version}/metrics.csv", newline="") as file:
        return [{**row, "seconds": None} for row in csv.DictReader(file)]


def same(a, b):
    """Whether two nested values are equal to the last bit."""
    if torch.is_tensor(a):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def assert_same_run(version, expected, epochs):
    """Every epoch's weights, all that training changes and the metrics are equal to the last bit."""
    for epoch in range(1, epochs + 1):
        a, b = (checkpoint.read_file(f"model/{v}/model_{epoch}.pt")["model"] for v in (version, expected))
        assert same(a, b), f"other weights after epoch {epoch}"
    a, b = (checkpoint.read_file(f"model/{v}/last.pt")["progress"] for v in (version, expected))
    different = [key for key in a if key not in ("seconds", "rows") and not same(a[key], b[key])]
    assert a.keys() == b.keys() and not different, different
    assert rows(version) == rows(expected)
    assert os.readlink(f"model/{version}/best.pt") == os.readlink(f"model/{expected}/best.pt")
    assert os.path.exists(f"logs/{version}/curves.png")


def golden_image(height, width, s):
    """The image that golden.json's `image` field describes."""
    random = np.random.RandomState(s)
    y, x = np.mgrid[:height, :width]
    channels = []
    for c in range(3):
        sine = 60 * np.sin(x / (7 + 3 * c) + 6 * random.rand())
        cosine = 60 * np.cos(y / (11 + 2 * c) + 6 * random.rand())
        channels.append(np.clip(127 + sine + cosine, 0, 255))
    return np.stack(channels, axis=-1).astype(np.uint8)


def golden_weights(state, seed=0):
    """The state dict that golden.json's `formula` field describes, for the names and shapes of `state`."""
    filled = {}
    for name, value in state.items():
        if value.dim() == 0 or "num_batches_tracked" in name or "position_ids" in name:
            filled[name] = value
            continue
        random = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)
        n = random.standard_normal(tuple(value.shape))
        if name.endswith("running_var"):
            n = 1 + 0.1 * np.abs(n)
        elif n.ndim == 1:
            n = 1 + 0.1 * n if name.endswith("weight") else 0.05 * n
        else:
            n = n / np.sqrt(np.prod(n.shape[1:]))
        filled[name] = torch.from_numpy(n.astype(np.float32))
    return filled


def published_student_names(state):
    """Own name -> name in a published student checkpoint (the inverse of what Student.own_names does)."""
    heads = {"class_heads": "head", "distillation_heads": "dist_head"}
    shorts = [attribute.short for attribute in ATTRIBUTES.values()]
    names = {}
    for name in state:
        parts = name.split(".")
        if parts[0] in heads:
            names[name] = f"{heads[parts[0]]}_{shorts[int(parts[1])]}.{parts[2]}"
            continue
        parts = ["base_model", *parts[1:]]
        if parts[1] == "patch_embed":
            parts[2:3] = ["seq", {"conv1": "0", "conv2": "2"}[parts[2]]]
        elif parts[1] == "stages":
            parts[1] = "layers"
            if parts[3] == "downsample":
                parts[2] = str(int(parts[2]) - 1)
        elif parts[1] == "head":
            parts[1:3] = ["norm_head"]
        names[name] = ".".join("c" if part == "conv" else part for part in parts)
    return names


def write_own(folder, photos, classes, unknown=0.0):
    """A stranger's data set of the training photos in `photos`, and own.json, which describes it.

    Args: `classes` attribute -> number of its classes; `unknown`, share of the cells that are empty.
    Returns: path of own.json; its folder is the --data-dir.
    """
    folder.mkdir()
    (folder / "shots").symlink_to(photos / "train")
    names = sorted(str(path.relative_to(photos / "train")) for path in (photos / "train").rglob("*.*g"))
    random = np.random.RandomState(1)
    with open(folder / "shop.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["shot", *classes])
        for number, name in enumerate(names):
            cells = [f"{key} {(number + i) % count}" for i, (key, count) in enumerate(classes.items())]
            writer.writerow([name, *("" if random.rand() < unknown else cell for cell in cells)])
    content = {
        "image": "shot",
        "train": {"table": "shop.csv", "photos": "shots"},
        "val": 0.3,
        "unknown": [""],
    }
    content["attributes"] = {
        key: {"classes": {f"{key} {number}": {} for number in range(count)}} for key, count in classes.items()
    }
    (folder / "own.json").write_text(json.dumps(content))
    return folder / "own.json"
