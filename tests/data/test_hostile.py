"""Files that mean harm: checkpoints that would run code or lie, photos and tables that would fill the memory."""

import io
import json
import math
import os
import pickle
import shutil
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ATTRIBUTES
from PIL import Image

from clip_model import FashionCLIP
from networks import load_network
from utils.base.errors import UserError
from utils.data import photos as reader
from utils.data.attributes import read_attributes
from utils.data.dataset import load_pixels, read_tables
from utils.data.folders import PhotoFolder
from utils.data.tables import read_table
from utils.evaluation.photo_lists import photos_of
from utils.nets.backbones import fitting
from utils.nets.checkpoint import read_file, save_checkpoint

ROOT = Path(__file__).parents[2]


class Harm:
    """Unpickled, it makes a file `ran` in the working directory."""

    def __reduce__(self):
        return os.system, ("touch ran",)


def refused(path, *parts):
    with pytest.raises(UserError) as error:
        read_file(path)
    message = str(error.value)
    assert str(path) in message and "\n" not in message and len(message) < 400
    assert all(part in message for part in parts), message
    assert "weights_only" not in message, "torch's advice is to run it all the same"


# --- checkpoints -------------------------------------------------------------------------------------

HARMFUL = {
    "archive": lambda path: torch.save({"model": {"a": torch.zeros(1)}, "meta": Harm()}, path),
    "older": lambda path: torch.save([Harm()], path, _use_new_zipfile_serialization=False),
    **{f"pickle {p}": lambda path, p=p: path.write_bytes(pickle.dumps(Harm(), protocol=p)) for p in range(6)},
}


@pytest.mark.parametrize("kind", HARMFUL)
def test_code_is_refused_by_name_and_not_run(place, kind):
    path = place / "a.pt"
    HARMFUL[kind](path)
    assert pickle.loads(pickle.dumps(Harm())) == 0 and os.path.exists("ran"), "it does no harm at all"
    os.remove("ran")
    refused(path, "would run posix.system")
    assert not os.path.exists("ran")


@pytest.mark.parametrize("first", ["image_name,Daily", "image_name", "name,Daily"])
def test_a_text_is_no_pickle(tmp_path, first):
    """Though its first letter, i, means in one that the names of a class follow."""
    (tmp_path / "a.pt").write_text(f"{first}\nx/1.jpg,0\nx/2.jpg,1\n")
    refused(tmp_path / "a.pt", "not a readable checkpoint (no tensors and plain values, as torch.save")


def test_other_objects_are_refused_by_name(tmp_path):
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "torch.nn.modules.linear.Linear")


@pytest.mark.parametrize("archive", [True, False])
def test_tensors_and_plain_values_are_read(tmp_path, archive):
    content = {
        "transposed": torch.arange(12.0).view(3, 4).t(),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "state": torch.nn.Linear(2, 2).state_dict(),
        "bf16": torch.ones(3, dtype=torch.bfloat16),
        "bytes": torch.get_rng_state(),
        "empty": torch.zeros(0, 3),
        "plain": [1, 2.5, "가", None, True, (1, {2: -3}), 10**30],
    }
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=archive)
    found = read_file(tmp_path / "a.pt")
    assert str(found) == str(content) and found["plain"] == content["plain"]
    assert found["bf16"].dtype == torch.bfloat16 and torch.equal(found["bytes"], content["bytes"])
    shared = torch.zeros(5)
    torch.save([shared, shared[1:]], tmp_path / "a.pt", _use_new_zipfile_serialization=archive)
    first, second = read_file(tmp_path / "a.pt")
    second.fill_(1)
    assert first.tolist() == [0, 1, 1, 1, 1]


def rewritten(path, change, compression=zipfile.ZIP_STORED):
    """The archive at `path` with each record's (name, bytes) changed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(buffer, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    path.write_bytes(buffer.getvalue())


def test_a_tensor_longer_than_its_bytes(tmp_path):
    """Torch 1.12 reads beyond the end and crashes."""
    path = tmp_path / "a.pt"
    torch.save(torch.zeros(12345), path)
    short, lie = b"M" + (12345).to_bytes(2, "little"), b"J" + (123_450_000).to_bytes(4, "little")
    rewritten(
        path, lambda name, content: content.replace(short, lie) if name.endswith("data.pkl") else content
    )
    refused(path, "not a readable checkpoint")


def test_an_archive_that_unfolds(tmp_path):
    """400 MB of zeros in 400 KB."""
    path = tmp_path / "a.pt"
    torch.save(torch.zeros(1), path)
    rewritten(
        path,
        lambda name, content: bytes(400_000_000) if name.endswith("data/0") else content,
        zipfile.ZIP_DEFLATED,
    )
    assert path.stat().st_size < 1e6
    refused(path, "larger than the file")


@pytest.mark.parametrize(
    "state",
    [
        {1: torch.zeros(1)},
        {"a": torch.zeros(1).to_sparse()},
        {"a": torch.zeros(1, dtype=torch.complex64)},
        {"a": [1]},
        {},
    ],
)
def test_what_is_no_state_dict(tmp_path, state):
    torch.save({"model": state}, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"a\.pt: (holds no state dict|.*refused)"):
        load_network(tmp_path / "a.pt")


@pytest.fixture(scope="module")
def meta():
    return FashionCLIP(ATTRIBUTES, "random").describe()


@pytest.mark.parametrize(
    "part, change",
    [
        ("clip_config", None),
        ("clip_config", {}),
        ("clip_config", {"vision_config": {"hidden_size": 10**6}}),
        ("clip_config", {"vision_config": {"hidden_size": 9 * 10**5, "num_attention_heads": 1}}),
        ("clip_config", {"vision_config": {"image_size": 10**6, "patch_size": 1, "hidden_size": 1}}),
        ("clip_config", {"text_config": {"intermediate_size": 10**5, "hidden_size": 10**5}}),
        ("clip_config", {"text_config": {"vocab_size": 10**12}}),
        (
            "clip_config",
            {"text_config": {"num_hidden_layers": 10**5, "hidden_size": 1, "intermediate_size": 1}},
        ),
        ("clip_config", {"vision_config": {"patch_size": 0}}),
        ("clip_config", {"vision_config": {"num_attention_heads": 7}}),
        ("clip_config", {"text_config": {"hidden_act": "os.system"}}),
        ("clip_config", {"projection_dim": math.nan}),
        ("token_ids", None),
        ("token_ids", {"daily": [[1]]}),
        ("token_ids", {"daily": [[4096]] * 6}),
        ("token_ids", {"daily": [[]] * 6}),
        ("token_ids", {"daily": ["ab"] * 6}),
    ],
)
def test_meta_that_describe_no_teacher(place, meta, part, change):
    """Enormous networks are refused before there is one."""
    save_checkpoint("a.pt", FashionCLIP.from_meta(meta, ATTRIBUTES), meta)
    changed = json.loads(json.dumps(meta))
    for key, value in (change or {}).items():
        changed[part][key].update(value) if isinstance(value, dict) else changed[part].update({key: value})
    changed[part] = changed[part] if change else change
    begin = time.perf_counter()
    with pytest.raises(UserError, match=r"^checkpoint a\.pt: ") as error, fitting("a.pt"):
        FashionCLIP.from_meta(changed, ATTRIBUTES, "checkpoint a.pt")
    assert "\n" not in str(error.value) and time.perf_counter() - begin < 5
    with fitting("a.pt"):
        FashionCLIP.from_meta(meta, ATTRIBUTES, "checkpoint a.pt")


def test_weights_of_a_clip_model_are_data(place):
    """Also where they are no safetensors; transformers 4.27 would unpickle them as they are."""
    from kinds import write_teacher
    from safetensors.torch import load_file

    Path("clip").mkdir()
    write_teacher(place / "clip")
    expected = FashionCLIP(ATTRIBUTES, "clip").state_dict()
    state = load_file("clip/model.safetensors")
    os.remove("clip/model.safetensors")
    torch.save(state, "clip/pytorch_model.bin")
    found = FashionCLIP(ATTRIBUTES, "clip").state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    torch.save({**state, "logit_scale": Harm()}, "clip/pytorch_model.bin")
    with pytest.raises(UserError, match=r"^CLIP model clip cannot be loaded.*would run posix\.system"):
        FashionCLIP(ATTRIBUTES, "clip")
    assert not os.path.exists("ran")


# --- photos ------------------------------------------------------------------------------------------


def png(width, height, rows):
    """A grey PNG of 1 bit whose header says width x height, with so many rows, all black."""
    packer = zlib.compressobj(9)
    lines = bytes(100 * (1 + (width + 7) // 8))
    data = b"".join(packer.compress(lines) for _ in range(rows // 100)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(c)) + kind + c + struct.pack(">I", zlib.crc32(kind + c)) for kind, c in chunks
    )


def jpeg(width, height):
    """A JPEG of 16 x 16 whose header says width x height."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "JPEG")
    content = buffer.getvalue()
    place = content.index(b"\xff\xc0") + 5
    return content[:place] + struct.pack(">HH", height, width) + content[place + 4 :]


BOMBS = {
    "50000 x 50000 in 300 KB": lambda: png(50_000, 50_000, 50_000),
    "of which Pillow warns": lambda: png(12_000, 12_000, 12_000),
    "long and thin": lambda: png(30_000, 100, 100),
    "lying PNG": lambda: png(60_000, 60_000, 100),
    "lying JPEG": lambda: jpeg(65_000, 65_000),
    "JPEG that ends early": lambda: jpeg(6000, 6000),
    "truncated": lambda: png(3000, 3000, 3000)[:300],
    "PostScript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n",
    "empty": lambda: b"",
}

MEASURED = """
import re, sys, time
from utils.data.attributes import read_attributes
from utils.data.dataset import load_pixels, read_tables
from utils.base.errors import UserError
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
before, start = peak(), time.perf_counter()
try:
    load_pixels(read_tables(sys.argv[1], read_attributes(), ["val"]), sys.argv[2])
except UserError as error:
    print(error)
print(peak() - before, time.perf_counter() - start)
"""


def measured(data, cache):
    """What a process of its own says of a data set, its memory in MB and its seconds."""
    command = [sys.executable, "-c", MEASURED, str(data), str(cache)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "Warning" not in done.stderr and "Traceback" not in done.stderr, (
        done.stderr
    )
    *message, figures = done.stdout.splitlines()
    kilobytes, seconds = map(float, figures.split())
    return "\n".join(message), kilobytes / 1000, seconds


@pytest.fixture
def own(photos, tmp_path):
    """A copy of the drawn data set, to be spoiled."""
    return Path(shutil.copytree(photos, tmp_path / "own"))


def table(own, *names):
    """Make a CSV of these photos the validation part; returns the folder they are in."""
    columns = ["image_name", *(attribute.column for attribute in ATTRIBUTES.values())]
    lines = [",".join(columns), *(",".join([name, *"0" * len(ATTRIBUTES)]) for name in names)]
    (own / "Fashion-How24_sub1_val.csv").write_text("\n".join(lines) + "\n")
    return own / "val"


def test_photos_that_would_fill_the_memory(own, tmp_path):
    """All of them in one process, on all its processors: refused in seconds, without being decoded."""
    folder = table(own, *BOMBS, "a pipe")
    for name, make in BOMBS.items():
        (folder / name).write_bytes(make())
    os.mkfifo(folder / "a pipe")
    message, megabytes, seconds = measured(own, tmp_path / "cache")
    assert f"{len(BOMBS) + 1} photos cannot be read" in message and all(name in message for name in BOMBS)
    assert megabytes < 50 and seconds < 10, (megabytes, seconds)


def test_the_largest_photos_are_read(tmp_path):
    Image.new("L", (reader.MAX_SIDE, reader.MAX_PIXELS // reader.MAX_SIDE), 7).save(tmp_path / "a.png")
    assert reader.letterbox(reader.read_rgb(tmp_path / "a.png"))[112].max() == 7
    Image.new("L", (reader.MAX_SIDE + 1, 1)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="16385 x 1: more than 64 million pixels, or 16384 on a side"):
        reader.read_rgb(tmp_path / "a.png")


# --- tables ------------------------------------------------------------------------------------------


def tables(own):
    return read_tables(str(own), ATTRIBUTES, ["val"])


@pytest.mark.parametrize(
    "name",
    [
        "../train/x.jpg",
        "T/../../x.jpg",
        "/etc/passwd",
        "..",
        "out.jpg",
        "folder/a.jpg",
        "a\0.jpg",
        "a\x1b[2J.jpg",
    ],
)
def test_names_that_lead_out(own, name):
    """Also by a link; and the same for predict.py."""
    photos = table(own, "inside.jpg", name)
    (own / "elsewhere").mkdir()
    for path in (own / "elsewhere" / "a.jpg", photos / "inside.jpg", own / "train" / "x.jpg"):
        Image.new("RGB", (9, 9)).save(path)
    (photos / "out.jpg").symlink_to(own / "elsewhere" / "a.jpg")
    (photos / "folder").symlink_to(own / "elsewhere")
    nul = "line contains NUL"  # says Python's own reader before 3.11
    with pytest.raises(UserError, match=rf"(?s)Fashion-How24_sub1_val\.csv.*(line 3: image_name|{nul})"):
        tables(own)
    with pytest.raises(UserError, match=rf"(?s)Fashion-How24_sub1_val\.csv.*(line 3: image_name|{nul})"):
        photos_of(str(own / "Fashion-How24_sub1_val.csv"), str(photos), ATTRIBUTES)


def test_links_that_stay_inside_and_folders_that_are_links(own, tmp_path):
    photos = table(own, "a.jpg", "b.jpg", "folder/b.jpg")
    (photos / "c").mkdir()
    Image.new("RGB", (9, 9)).save(photos / "c" / "b.jpg")
    (photos / "a.jpg").symlink_to(photos / "c" / "b.jpg")
    (photos / "b.jpg").symlink_to("a.jpg")
    (photos / "folder").symlink_to("c")
    shutil.move(photos, tmp_path / "really")
    photos.symlink_to(tmp_path / "really")
    (photos / "a.jpg").unlink()
    (photos / "a.jpg").symlink_to("c/b.jpg")
    (tmp_path / "Dataset").symlink_to(own)
    assert tables(tmp_path / "Dataset")["val"].names == ["a.jpg", "b.jpg", "folder/b.jpg"]


def test_a_table_beside_its_photos(own, monkeypatch):
    """Named without a folder, as predict.py may be given it."""
    photos = table(own, "T/a.jpg", "b.jpg")
    shutil.move(own / "Fashion-How24_sub1_val.csv", photos / "a.csv")
    monkeypatch.chdir(photos)
    assert read_table("a.csv", PhotoFolder(""), ATTRIBUTES)[0] == ["T/a.jpg", "b.jpg"]


@pytest.mark.parametrize("line", ["a", '"', ",", "\0"])
def test_a_table_of_100_mb_on_one_line(own, tmp_path, line):
    path = own / "Fashion-How24_sub1_val.csv"
    path.write_text(line * 100_000_000)
    message, megabytes, seconds = measured(own, tmp_path / "cache")
    assert f"{path}: not a readable CSV file" in message
    assert megabytes < 20 and seconds < 5, (megabytes, seconds)


def test_a_table_of_bad_lines(own, tmp_path):
    """50 million of them: the first thousand are looked at."""
    path = own / "Fashion-How24_sub1_val.csv"
    path.write_text(path.read_text().splitlines()[0] + "\n" + "x\n" * 50_000_000)
    message, megabytes, seconds = measured(own, tmp_path / "cache")
    assert "1,000 bad rows or more" in message and len(message) < 5000
    assert megabytes < 20 and seconds < 5, (megabytes, seconds)


def test_a_quotation_that_does_not_end(own, tmp_path):
    path = own / "Fashion-How24_sub1_val.csv"
    path.write_text(path.read_text().splitlines()[0] + '\n"' + "x\n" * 10_000_000)
    message, megabytes, seconds = measured(own, tmp_path / "cache")
    assert "a quotation that begins there" in message and megabytes < 20 and seconds < 5


# --- prompts and caches ------------------------------------------------------------------------------


PROMPTS = {key: list(attribute.classes) for key, attribute in ATTRIBUTES.items()}
BAD_PROMPTS = {
    "deep lists": "[" * 100_000,
    "deep objects": '{"a":' * 100_000,
    "no object": "NaN",
    "numbers": json.dumps({key: [math.nan] * 6 for key in PROMPTS}),
    "a number": json.dumps(dict.fromkeys(PROMPTS, 5)),
    "objects": json.dumps({key: {"a": "b"} for key in PROMPTS}),
    "empty": json.dumps({**PROMPTS, "daily": [""] * 6}),
    "half a character": json.dumps({**PROMPTS, "daily": ["\ud800"] * 6}),
    "long": json.dumps(PROMPTS) + " " * 2_000_000,
    "zeros": "\0" * 100,
    "a long number": "1" * 5000,
}


@pytest.mark.parametrize("kind", BAD_PROMPTS)
def test_prompts_that_are_none(tmp_path, kind):
    path = tmp_path / "a.json"
    path.write_text(BAD_PROMPTS[kind])
    with pytest.raises(UserError, match=r"a\.json: ") as error:
        read_attributes(prompts=path)
    assert len(str(error.value)) < 400 and "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"no array", None])
def test_an_array_of_the_cache_that_is_none(own, tmp_path, content):
    load_pixels(tables(own), str(tmp_path / "cache"))
    (path,) = (tmp_path / "cache").glob("*.npy")
    path.unlink()
    with open(path, "wb") as file:
        np.save(file, np.zeros((1, 2), np.uint8)) if content is None else file.write(content)
    with pytest.raises(UserError, match=f"{path.name}: .*remove it"):
        load_pixels(tables(own), str(tmp_path / "cache"))


def test_hub_names_run_no_code():
    """Transformers and timm run a repository's own code only where they are told to trust it."""
    sources = [path for path in ROOT.rglob("*.py") if "tests" not in path.parts and ".venv" not in path.parts]
    assert len(sources) > 20
    assert not [path for path in sources if "trust_remote_code" in path.read_text(encoding="utf-8")]
