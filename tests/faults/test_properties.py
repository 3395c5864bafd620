"""Made-up bad attributes, tables, photos, checkpoints, prompts and options: none ends in a traceback or changes a file.

FAULT_INPUTS of them altogether (250), the same every time: `FAULT_INPUTS=1000 bash test.sh tests/faults/test_properties.py -s`.
"""

import collections
import contextlib
import copy
import io
import json
import os
import pickle
import shutil
import struct
import zlib
from pathlib import Path

import pytest
import torch
from conftest import ATTRIBUTES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

import evaluate
import export
import predict
import train
from clip_model import FashionCLIP
from networks import load_network
from utils.base import hardware, log
from utils.base.cli import exit_code
from utils.data import dataset
from utils.data.attributes import read_attributes
from utils.evaluation.inference import load_classifier
from utils.nets.checkpoint import save_checkpoint
from utils.training import options
from utils.training.record import columns

INPUTS = int(os.environ.get("FAULT_INPUTS", 250))
SHARES = {
    "attributes": 0.12,
    "own tables": 0.08,
    "tables": 0.2,
    "photos": 0.2,
    "checkpoints": 0.2,
    "prompts": 0.08,
}
SHARES["options"] = 0.12
CODES = (0, 2, 4)  # fine, bad input, no room
PROMPTS = {key: [list(one) for one in a.prompts] for key, a in ATTRIBUTES.items()}
CSV = "Fashion-How24_sub1_val.csv"


def inputs(kind):
    """That share of the inputs for a test, always the same ones."""
    return settings(
        max_examples=max(1, round(INPUTS * SHARES[kind])),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def load(folder, cache):
    """The validation part of the data set in a folder."""
    return dataset.load_pixels(dataset.read_tables(str(folder), ATTRIBUTES, ("val",)), str(cache))


class Place:
    """A folder with a small data set and a run's files, none of which may change; what is made up lies in `new`."""

    def __init__(self, folder):
        self.codes = collections.Counter()
        self.kept, self.new = folder / "kept", folder / "new"
        self.new.mkdir()
        for split in dataset.SPLITS:
            (self.kept / "data" / split / "T SHIRT").mkdir(parents=True)
            Image.new("RGB", (30, 40), "red").save(self.kept / "data" / split / "T SHIRT" / "1.png")
            (self.kept / "data" / f"Fashion-How24_sub1_{split}.csv").write_text(TABLE)
        for name in ("model/a", "logs/a"):
            (self.kept / name).mkdir(parents=True)
        (self.kept / "logs" / "a" / "metrics.csv").write_text("epoch\n1\n")
        save_checkpoint(self.kept / "model" / "a" / "model_1.pt", torch.nn.Linear(2, 2), {})
        (self.kept / "prompts.json").write_text(json.dumps(PROMPTS))
        self.before = self.files()

    def files(self):
        """Path -> (content, time of change), of all that was there before, and whatever else is there now."""
        paths = sorted(
            path for path in self.kept.rglob("*") if path.is_file() and "resumed" not in path.parts
        )
        return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}

    def end_well(self, *commands):
        """Give an input to commands: an exit code of ours, no other exception, one short error, nothing changed."""
        codes = []
        for command in commands:
            log.start()
            said = io.StringIO()
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                codes.append(exit_code(command))
            log.stop()
            assert codes[-1] in CODES, said.getvalue()
            assert len(said.getvalue()) < 10_000 and said.getvalue().count("error: ") == (codes[-1] > 0)
            assert self.files() == self.before, "a file was changed or left"
            assert not Path("ran").exists(), "code of a file was run"
        self.codes[max(codes)] += 1


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("properties"))


@pytest.fixture
def made_up(shared, monkeypatch, request):
    monkeypatch.chdir(shared.kept)
    monkeypatch.setattr(
        hardware, "bf16_speedup", lambda device: 1.0
    )  # takes time, and changes no answer here
    shared.codes.clear()
    yield shared
    counts = ", ".join(f"{count} with code {code}" for code, count in sorted(shared.codes.items()))
    print(f"\n{request.node.name}: {sum(shared.codes.values())} inputs: {counts}")


# --- how inputs are made up --------------------------------------------------------------------------


@st.composite
def spoiled(draw, content):
    """Bytes with a few places overwritten, cut out, doubled, or filled in, or cut off at the end."""
    for _ in range(draw(st.integers(1, 2))):
        start = draw(st.integers(0, max(0, len(content) - 1)))
        end = min(len(content), start + draw(st.sampled_from([0, 1, 1, 1, 2, 4, 50, 10**9])))
        filling = draw(
            st.one_of(
                st.just(b""),
                st.binary(min_size=1, max_size=8),
                st.sampled_from(
                    [b"\xff" * (end - start), b"\0" * 4, b"\n", b",", b'"', content[start:end] * 2]
                ),
            )
        )
        content = content[:start] + filling + content[end:]
    return content


PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def altered(draw, content):
    """Nested plain values with one to three of them replaced or taken out."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        place = content
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], (dict, list)) and draw(st.integers(0, 3)):
                place = place[key]
                continue
            if draw(st.booleans()):
                place[key] = draw(PLAIN | st.sampled_from([0, -1, 10**6, 10**12, "", []]))
            else:
                del place[key]
            break
    return content


# --- tables ------------------------------------------------------------------------------------------

HEADER = ["image_name", *(attribute.column for attribute in ATTRIBUTES.values())]
TABLE = ",".join(HEADER) + "\n" + "T SHIRT/1.png,0,1,2\n"
NAMES = [
    "T SHIRT/1.png",
    "",
    "../train/T SHIRT/1.png",
    "/etc/passwd",
    ".",
    "T SHIRT",
    "a\0b",
    "x" * 5000,
    '"',
    "가.jpg",
]
CELLS = st.sampled_from(["0", "1", "2", "9", "-1", "1.0", " 1", "", "x", "²", "1" * 50]) | st.text(max_size=5)


@st.composite
def made_up_tables(draw):
    header = draw(st.permutations(HEADER) | st.lists(st.sampled_from([*HEADER, "", "BBox_xmin"]), max_size=6))
    rows = st.lists(st.one_of(st.sampled_from(NAMES), CELLS), max_size=6)
    plausible = st.tuples(st.sampled_from(NAMES) | st.text(max_size=10), *[CELLS] * len(ATTRIBUTES))
    lines = [header, *draw(st.lists(rows | plausible, max_size=5))]
    text = draw(st.sampled_from(["\n", "\r\n", "\r"])).join(",".join(line) for line in lines)
    encoding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16"]))
    return text.encode(encoding, "replace")


@inputs("tables")
@given(content=made_up_tables() | spoiled(TABLE.encode()))
def test_tables(made_up, content):
    folder = made_up.new / "table"
    if not folder.exists():
        folder.mkdir()
        (folder / "val").symlink_to(made_up.kept / "data" / "val")
    (folder / CSV).write_bytes(content)
    made_up.end_well(
        lambda: load(folder, made_up.new / "cache"),
        lambda: predict.photos_of(str(folder / CSV), str(folder / "val"), ATTRIBUTES),
    )


# --- attributes of somebody else, and their tables ----------------------------------------------------

OWN = {
    "name": "shop",
    "image": "shot",
    "train": {"table": "shop.csv", "photos": "val"},
    "val": 0.5,
    "group": "garment",
    "unknown": ["", "?"],
    "box": ["x1", "y1", "x2", "y2"],
    "exif": True,
    "encoding": "utf-8",
    "attributes": {
        "type": {"column": "kind", "short": "t", "classes": {"shirt": {"prompt": ["a shirt", "shirts"]}, "skirt": {}}},
        "a.b": {"classes": {"0": {}, "1": {"names": {"ko": "일"}}}},
    },
}  # fmt: skip
OWN_HEADER = ["shot", "garment", "kind", "a.b"]
OWN_TABLE = "\n".join(",".join(row) for row in (OWN_HEADER, ["T SHIRT/1.png", "g", "shirt", "1"]))


def files_of_attributes():
    """JSON that says something else, something of another type, or is none."""
    plain = altered(OWN) | PLAIN | PLAIN.map(lambda value: {**OWN, "attributes": value})
    numbers = st.sampled_from(["NaN", "1e999", "-0", "9" * 5000, '{"attributes": {}, "attributes": 1}'])
    texts = st.one_of(plain.map(json.dumps), st.text(), numbers, st.integers(1, 10**5).map(lambda n: "[" * n))
    return st.one_of(
        texts.map(lambda t: t.encode("utf-8", "surrogatepass")), spoiled(json.dumps(OWN).encode())
    )


def shop(made_up, attributes, table):
    """A folder with that file of attributes and that table."""
    folder = made_up.new / "shop"
    if not folder.exists():
        folder.mkdir()
        (folder / "val").symlink_to(made_up.kept / "data" / "val")
    (folder / "own.json").write_bytes(attributes)
    (folder / "shop.csv").write_bytes(table)
    return folder


def read_shop(folder):
    attributes = read_attributes(folder / "own.json")
    return dataset.read_tables(str(folder), attributes, skip_unreadable=True)


@inputs("attributes")
@given(content=files_of_attributes())
def test_attributes(made_up, content):
    folder = shop(made_up, content, OWN_TABLE.encode())
    made_up.end_well(
        lambda: read_shop(folder),
        lambda: FashionCLIP(read_attributes(folder / "own.json"), "random"),
        lambda: train.main(
            ["--version", "new", "--attributes", str(folder / "own.json"), "--data-dir", "nowhere"]
        ),
    )


@st.composite
def own_tables(draw):
    header = draw(
        st.permutations(OWN_HEADER) | st.lists(st.sampled_from([*OWN_HEADER, "", "x1"]), max_size=6)
    )
    cells = CELLS | st.sampled_from(["shirt", "skirt", "Shirt ", "?", "01"])
    row = st.tuples(st.sampled_from(NAMES), cells, cells, cells)
    lines = [header, *draw(st.lists(row | st.lists(cells, max_size=5), max_size=8))]
    return "\n".join(",".join(line) for line in lines).encode("utf-8", "replace")


@inputs("own tables")
@given(content=own_tables() | spoiled(OWN_TABLE.encode()), share=st.sampled_from([0.01, 0.5, 0.99]))
def test_tables_of_other_attributes(made_up, content, share):
    folder = shop(made_up, json.dumps({**OWN, "val": share}).encode(), content)
    made_up.end_well(
        lambda: read_shop(folder),
        lambda: predict.photos_of(
            str(folder / "shop.csv"), str(folder / "val"), read_attributes(folder / "own.json")
        ),
    )


# --- photos ------------------------------------------------------------------------------------------


def photo(kind, mode, **options):
    buffer = io.BytesIO()
    picture = Image.linear_gradient("L").resize((100, 70))
    (picture if mode == "I;16" else picture.convert("RGB")).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


PHOTOS = [
    photo("JPEG", "RGB"), photo("JPEG", "CMYK"), photo("JPEG", "L", progressive=True), photo("PNG", "RGBA"),
    photo("PNG", "P", transparency=1), photo("PNG", "I;16"), photo("PNG", "1"), photo("GIF", "P"), photo("BMP", "RGB"),
    photo("WEBP", "RGBA"), photo("TIFF", "RGB"), photo("TIFF", "L", compression="tiff_lzw"), photo("TIFF", "F"),
]  # fmt: skip


@st.composite
def lying_png(draw):
    """Its header says another size, depth and kind than its pixels have; the checksum is right."""
    sides = st.sampled_from([0, 1, 100, 300, 5000, 16385, 50_000, 2**31 - 1, 2**32 - 1])
    depth = draw(st.sampled_from([1, 2, 4, 8, 16, 7]))
    kind = draw(st.sampled_from([0, 2, 3, 4, 6, 5]))
    header = b"IHDR" + struct.pack(
        ">IIBBBBB", draw(sides), draw(sides), depth, kind, 0, 0, draw(st.integers(0, 2))
    )
    content = photo("PNG", "RGBA")
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


@inputs("photos")
@given(content=st.sampled_from(PHOTOS).flatmap(spoiled) | lying_png())
def test_photos(made_up, content):
    folder = made_up.new / "photos"
    (folder / "val" / "T SHIRT").mkdir(parents=True, exist_ok=True)
    (folder / CSV).write_text(TABLE)
    (folder / "val" / "T SHIRT" / "1.png").write_bytes(content)
    cache = made_up.new / "cache of photos"
    made_up.end_well(lambda: load(folder, cache))
    shutil.rmtree(cache)  # two photos within a tick of the clock may have the same time and size


# --- checkpoints -------------------------------------------------------------------------------------


class Call:
    """Unpickled, it calls a function that would leave a file `ran`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


HARM = [
    Call(os.system, "touch ran"),
    Call(os.mkdir, "ran"),
    Call(open, "ran", "w"),
    Call(eval, "open('ran', 'w')"),
]
TENSORS = [torch.zeros(1), torch.zeros(0, 2), torch.tensor(1), torch.ones(2, 3).t(), torch.zeros(2).half()]
TEACHER = FashionCLIP(ATTRIBUTES, "random")
META = {
    "role": "teacher",
    "options": {"seed": 214},
    "precision": "fp32",
    "attributes": ATTRIBUTES.to_meta(),
    "metrics": {"val_top1": 0.5},
    **TEACHER.describe(),
}
ROW = {**dict.fromkeys(columns(ATTRIBUTES), 0.5), "epoch": 1}
NAMES_OF_WEIGHTS = [
    "class_heads.daily.weight",
    "class_heads.0.weight",
    "head_daily.bias",
    "clip.logit_scale",
    "text_model.a",
    "",
    "x" * 999,
]


def saved(content, archive=True, protocol=2):
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=archive, pickle_protocol=protocol)
    return buffer.getvalue()


@st.composite
def made_up_checkpoints(draw):
    state = draw(st.dictionaries(st.sampled_from(NAMES_OF_WEIGHTS), st.sampled_from(TENSORS), max_size=4))
    if draw(st.integers(0, 3)) == 0:
        state = {name: torch.zeros(2) for name in TEACHER.state_dict()}
    roles = st.sampled_from(["teacher", "student", 1, None, []])
    meta = draw(
        st.one_of(altered(META), PLAIN, st.fixed_dictionaries({"role": roles, "distillation": PLAIN}))
    )
    content = draw(st.sampled_from([{"model": state, "meta": meta}, state, [state], {"model": meta}]))
    if draw(st.integers(0, 3)) == 0:
        content = [content, draw(st.sampled_from(HARM))]
        if draw(st.booleans()):
            return pickle.dumps(content[1], protocol=draw(st.integers(0, pickle.HIGHEST_PROTOCOL)))
    return saved(content, draw(st.booleans()), draw(st.sampled_from([2] * 9 + [4])))


KEYS = (
    "cuda_random_state data epoch losses optimizer order_state processes random_state rows scheduler seconds teacher "
    "teacher_logits"
).split()


@st.composite
def made_up_states_of_runs(draw):
    """What a last.pt holds, some of it replaced."""
    progress = {**dict.fromkeys(KEYS), "rows": [], "epoch": 1, "data": "", "losses": torch.zeros(0, 3)}
    progress["processes"] = draw(st.just(1) | PLAIN)
    progress["rows"] = draw(st.just([]) | altered([ROW]) | altered([ROW, {**ROW, "epoch": 2}]))
    progress.update(draw(st.dictionaries(st.sampled_from(KEYS), PLAIN, max_size=3)))
    meta = draw(st.just(META) | altered(META))
    return saved({"model": {"a": torch.zeros(1)}, "meta": meta, "progress": draw(st.just(progress) | PLAIN)})


VALID = {"model": {"a": torch.arange(6.0), "b": torch.zeros(2, 3)}, "meta": {"role": "student"}}
FILES = [saved(VALID), saved(VALID, archive=False), save(VALID["model"])]


@inputs("checkpoints")
@given(
    content=made_up_checkpoints() | made_up_states_of_runs() | st.sampled_from(FILES).flatmap(spoiled),
    ending=st.sampled_from([".pt", ".pt", ".pt", ".safetensors"]),
)
def test_checkpoints(made_up, content, ending):
    """As a network to evaluate, as a teacher, and as the state of a run that is resumed."""
    folder = made_up.new / "version"
    folder.mkdir(exist_ok=True)
    path = folder / f"x{ending}"
    path.write_bytes(content)
    (folder / "last.pt").write_bytes(content)
    link = made_up.kept / "model" / "resumed"
    if not link.exists():
        link.symlink_to(folder)
    made_up.end_well(
        lambda: load_classifier(str(path), clip_model="random"),
        lambda: load_network(str(path), "random"),
        lambda: train.main("--version resumed --resume True --data-dir data".split()),
    )


# --- prompts and options -----------------------------------------------------------------------------


def prompts_files():
    prompts = PROMPTS
    plain = st.one_of(altered(prompts), altered(prompts).map(lambda p: [p]), PLAIN)
    texts = st.one_of(plain.map(json.dumps), st.text(), st.integers(1, 10**5).map(lambda n: "[" * n))
    return st.one_of(
        texts.map(lambda t: t.encode("utf-8", "surrogatepass")), spoiled(json.dumps(PROMPTS).encode())
    )


@inputs("prompts")
@given(content=prompts_files())
def test_prompts(made_up, content):
    path = made_up.new / "prompts.json"
    path.write_bytes(content)
    made_up.end_well(lambda: FashionCLIP(read_attributes(prompts=str(path)), "random"))


PROGRAMS = {module.__name__: module for module in (train, evaluate, predict, export)}
PARSERS = {**PROGRAMS, "train": options}
VALUES = [
    "True", "0", "1", "-1", "3", "0.5", "nan", "inf", "1e999", "", " ", "a", "b", "..", "a/b", "~", "prompts.json", "random",
    "cpu", "data", "model/a/model_1.pt", "a/model_1.pt", "zero-shot", "none", "auto", "epochs", "soft", "Adam", "fp32", "out.onnx", "가", "--", "\0",
]  # fmt: skip


CHECKPOINTS = st.sampled_from(["absent.pt", "model/a/model_1.pt", "prompts.json", "data"])
REQUIRED = {
    "train": st.sampled_from(["a", "b", "a/b", ""]).map(lambda name: ["--version", name]),
    "evaluate": CHECKPOINTS.map(lambda path: ["--checkpoint", path]),
    "predict": CHECKPOINTS.map(lambda path: ["data/val", "--checkpoint", path]),
    "export": CHECKPOINTS.map(lambda path: ["--checkpoint", path, "--output", "out.onnx"]),
}


@st.composite
def command_lines(draw):
    """A program with what it needs, and options of its own with values that they take or not; no data set is there."""
    name = draw(st.sampled_from(sorted(PROGRAMS)))
    actions = [a for a in PARSERS[name].get_args_parser()._actions if a.option_strings and a.dest != "help"]
    line = draw(REQUIRED[name])
    for action in draw(st.lists(st.sampled_from(actions), max_size=4)):
        values = st.sampled_from(list(action.choices)) if action.choices else st.sampled_from(VALUES)
        line = [
            *line,
            draw(st.sampled_from(action.option_strings)),
            *draw(st.lists(values, min_size=1, max_size=1)),
        ]
    line += draw(st.lists(st.sampled_from(VALUES) | st.text(max_size=5), max_size=1))
    has_data = any(action.dest == "data_dir" for action in actions)
    return name, [w for w in line if w not in ("-h", "--help")] + ["--data-dir", "nowhere"] * has_data


@inputs("options")
@given(command=command_lines())
def test_options(made_up, command):
    name, line = command
    made_up.end_well(lambda: PROGRAMS[name].main(line))
