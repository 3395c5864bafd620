"""A run that is stopped anywhere, and goes on to the same numbers."""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ATTRIBUTES, assert_same_run, rows, same

from networks import load_network
from utils.base.cli import exit_code
from utils.base.errors import UserError
from utils.data.dataset import read_tables
from utils.nets import checkpoint
from utils.training import teacher as targets
from utils.training.resume import facts, fingerprint, read_last

ROOT = Path(__file__).parents[2]
STUDENT = (
    "--kd-learning True --teacher zero-shot --distillation-type soft --optimizer AdamW --lr 1e-3 --scheduler True "
    "--warmup-epoch 1 --clipping True"
).split()
# A view for each of two epochs, and all else that a run may keep.
VIEWS = (
    "--kd-learning True --teacher t/model_1.pt --distillation-type soft --optimizer Muon --lr 1e-3 --scheduler True "
    "--warmup-epoch 1 --views 2 --color-jitter 0.1 --logit-adjustment 0.5 --ema 0.9 "
    "--schedule-by step --best acsa"
).split()
TAUGHT_BY = "--version t --kd-learning True --distillation-type none".split()
OFTEN = ["--save-every-minutes", "1e-9"]  # before every step and every batch of validation


@pytest.fixture
def whole(train, monkeypatch):
    """whole(*options) trains a version of that name.

    Returns: name of each file that takes its place -> for each time, the folder in which all files of the version are as
    a kill leaves them just before. The weights are hard links.
    """

    def copied(source, target):
        return (os.link if source.endswith(".pt") else shutil.copy2)(source, target)

    def run(*options):
        real, kept = os.replace, []

        def replace(source, target):
            if "whole" in Path(target).parts:
                kept.append((Path(target).name, Path("kept", str(len(kept)))))
                for name in ("model", "logs"):
                    copy = kept[-1][1] / name
                    shutil.copytree(f"{name}/whole", copy, symlinks=True, copy_function=copied)
            real(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace)
            train("--version", "whole", *options)
        found = {}
        for name, folder in kept:
            found.setdefault(name, []).append(folder)
        return found

    return run


def put_back(folder, version):
    """The files of such a folder as those of another version."""
    for name in ("model", "logs"):
        shutil.rmtree(f"{name}/{version}", ignore_errors=True)
        shutil.copytree(folder / name, f"{name}/{version}", symlinks=True)
    for log in Path("logs", version).glob("*_training.log"):
        log.rename(log.with_name(f"{version}_training.log"))


# Two epochs of two steps, and a batch of validation each.
RUNS = {
    "teacher": ["--loss-weight"],
    "student": [*STUDENT, "--teacher", "t/model_1.pt"],
    "views": VIEWS,
}


@pytest.mark.cuda
@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("name", RUNS)
def test_killed_before_any_file_takes_its_place(train, whole, name, every):
    """The fifth part of the kills, or all."""
    options = RUNS[name]
    train(*TAUGHT_BY, "--epochs", "1")
    kept = whole(*OFTEN, *options)
    files = {
        "args.json",
        "metrics.csv",
        "last.pt",
        "model_1.pt",
        "model_2.pt",
        "best.pt",
        "curves.png",
        "classes.csv",
    }
    assert set(kept) == files and len(kept["last.pt"]) > 8
    folders = sorted((folder for each in kept.values() for folder in each), key=lambda one: int(one.name))
    for folder in folders[::every]:
        if name == "views":
            forget_logits()
        put_back(folder, "killed")
        begins, log = not os.path.exists("model/killed/last.pt"), Path("logs/killed/killed_training.log")
        before = log.read_text() if log.exists() else ""
        if name == "student" and not begins:  # what it says of the one view there is, last.pt has
            shutil.rmtree("model/t", ignore_errors=True)
        train("--version", "killed", *OFTEN, *options, "--resume", "True")
        assert_same_run("killed", "whole", 2)
        assert sorted(os.listdir("model/killed")) == ["best.pt", "last.pt", "model_1.pt", "model_2.pt"]
        assert log.read_text().startswith(before), "the log was begun anew"
        said = log.read_text()[len(before) :]
        assert ("there is no model/killed/last.pt yet, the run begins" in said) == begins
        assert ("resumed from model/killed/last.pt" in said) != begins


def forget_logits():
    """As if the teacher had not been asked yet."""
    for path in Path("cache").rglob("logits-*.npy"):
        path.unlink()


@pytest.mark.cuda
def test_the_teacher_is_needed_for_views_that_are_not_kept(train, whole, capsys):
    train(*TAUGHT_BY)
    folder = whole(*OFTEN, *VIEWS)["model_1.pt"][0]  # in epoch 1
    os.rename("model/t/model_1.pt", "kept.pt")
    put_back(folder, "killed")
    train("--version", "killed", *OFTEN, *VIEWS, "--resume")  # both views are in the cache
    assert_same_run("killed", "whole", 2)

    def ends_with(version):
        forget_logits()
        put_back(folder, version)
        assert exit_code(lambda: train("--version", version, *OFTEN, *VIEWS, "--resume")) == 2
        assert len(rows(version)) == 1, "what was there for epoch 1 is not made use of"
        return capsys.readouterr().err.splitlines()[-1]

    assert (
        "error: --teacher t/model_1.pt: neither model/t/model_1.pt nor t/model_1.pt is there; there are: "
        in ends_with("gone")
    )
    os.rename("model/t/model_2.pt", "model/t/model_1.pt")
    assert ends_with("other") == "error: --teacher: not the one that the run began with"
    os.rename("kept.pt", "model/t/model_1.pt")
    for version in ("gone", "other"):
        forget_logits()
        train("--version", version, *OFTEN, *VIEWS, "--resume")
        assert_same_run(version, "whole", 2)


def test_the_file_of_logits_is_that_of_the_beginning(train, whole, photos, capsys):
    names = read_tables(str(photos), ATTRIBUTES, ["train"])["train"].names
    options = VIEWS[: VIEWS.index("--teacher")] + VIEWS[VIEWS.index("--teacher") + 2 :]
    options[options.index("--logit-adjustment") + 1] = "0"

    def write(seed):
        torch.manual_seed(seed)
        logits = {key: torch.randn(2, len(names), size) for key, size in ATTRIBUTES.sizes.items()}
        views = {"views_seed": 0, "flip": 0.5, "crop_scale": 0.7, "crop_ratio": 1.0, "crop_to_box": False}
        targets.save_logits("said.npz", names, logits, views={**views, "color_jitter": 0.1})

    write(0)
    options += ["--teacher-logits", "said.npz"]
    put_back(whole(*OFTEN, *options)["model_1.pt"][0], "killed")
    write(1)
    assert exit_code(lambda: train("--version", "killed", *OFTEN, *options, "--resume")) == 2
    said = "error: --teacher-logits said.npz: not the file that the run began with"
    assert capsys.readouterr().err.splitlines()[-1] == said
    write(0)
    train("--version", "killed", *OFTEN, *options, "--resume")
    assert_same_run("killed", "whole", 2)


def test_boxes_are_a_part_of_the_data_set(photos):
    plain, boxed, moved = (read_tables(str(photos), ATTRIBUTES, boxes=asked) for asked in (False, True, True))
    moved["train"].boxes[3, 2] -= 1
    assert len({fingerprint(data) for data in (plain, boxed, moved)}) == 3
    before, now = facts(boxed), facts(moved)
    assert [name for name in now if now[name] != before[name]] == ["boxes in train"]


@pytest.mark.parametrize("same_data", [True, False])
def test_a_run_of_an_earlier_version_goes_on(begun, train, fails, photos, same_data):
    """Its last.pt has one hash of the data set."""
    digest = hashlib.sha256()
    for name, table in read_tables(str(photos), ATTRIBUTES).items():
        labels = {key: values.tolist() for key, values in table.labels.items()}
        digest.update(repr((name, table.names, labels, [stamp[0] for stamp in table.stamps])).encode())
    content = checkpoint.read_file("model/a/last.pt")
    assert content["progress"].pop("facts") and content["progress"]["data"] == digest.hexdigest()
    content["progress"]["data"] = digest.hexdigest() if same_data else "0" * 64
    torch.save(content, "model/a/last.pt")
    if not same_data:
        said = "began with: other names or labels or sizes or boxes of the photos which can be read"
        assert said in fails("--version", "a", "--epochs", "2", "--resume")
        return
    train("--version", "a", "--epochs", "2", "--resume")
    train("--version", "whole", "--epochs", "2")
    assert_same_run("a", "whole", 2)


def at_first_step(monkeypatch, does):
    """Has the first step of Adam be followed by this."""
    real = torch.optim.Adam.step

    def step(self, *args):
        real(self, *args)
        monkeypatch.setattr(torch.optim.Adam, "step", real)
        does()

    monkeypatch.setattr(torch.optim.Adam, "step", step)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_saves_and_ends_the_run(train, monkeypatch, name, capfd):
    train("--version", "whole")
    number, handlers = signal.Signals[name], [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    at_first_step(monkeypatch, lambda: os.kill(os.getpid(), number))
    assert exit_code(lambda: train("--version", "a")) == 128 + number
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    said = (
        f"{name}: stopped in epoch 1, after step 1; all is saved in model/a/last.pt, go on with --resume True"
    )
    err = capfd.readouterr().err
    assert f"{name}: this step is finished and saved; once more, and it ends at once" in err
    assert err.strip().endswith(said) and "Traceback" not in err
    assert said in Path("logs/a/a_training.log").read_text()
    train("--version", "a", "--resume", "True")
    assert_same_run("a", "whole", 2)


def test_what_the_table_chose_is_not_chosen_again(train, monkeypatch, capsys):
    """A run whose epochs and batch followed from its rows goes on with them, and is as if they had been typed."""
    alone = (
        "--kd-learning True --views epochs --scheduler --decay-epoch epochs --warmup-epoch 1 --resume".split()
    )
    train("--version", "whole", *alone)
    monkeypatch.setattr("train.length_for", lambda rows: (2, 8) if rows == 16 else None)
    auto = ["--version", "a", *alone, "--epochs", "auto", "--batch-size", "auto"]
    at_first_step(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert exit_code(lambda: train(*auto)) == 143
    assert (
        "no teacher: learns from the labels\nepochs 2, batch 8: chosen for 16 photos\n"
        in capsys.readouterr().out
    )
    monkeypatch.setattr("train.length_for", lambda rows: (1, 4))
    train(*auto)
    assert "\nepochs 2, batch 8: as the run began\n" in capsys.readouterr().out
    assert_same_run("a", "whole", 2)
    kept = (
        json.loads(Path("logs/a/args.json").read_text()),
        checkpoint.read_file("model/a/best.pt")["meta"]["options"],
    )
    assert [(one["epochs"], one["batch_size"], one["views"], one["decay_epoch"]) for one in kept] == [
        (2, 8, 2, 2)
    ] * 2
    train(*auto)
    assert "all 2 epochs are done" in capsys.readouterr().out


def test_a_signal_before_training(train, monkeypatch, capsys):
    from utils.data import photos

    once = [os.kill]
    monkeypatch.setattr(photos, "read_rgb", lambda *_: once and once.pop()(os.getpid(), signal.SIGTERM))
    assert exit_code(lambda: train("--version", "a")) == 143
    assert (
        capsys.readouterr().err.strip().splitlines()[-1].startswith("SIGTERM: stopped before training began")
    )
    assert not os.path.exists("model/a")
    assert {path.suffix for path in Path("cache/fashion-attributes/cache").iterdir()} == {".lock"}


def test_a_second_signal_ends_it_at_once():
    code = (
        "import os, signal; from utils.base.signals import StopSignals\n"
        "with StopSignals() as signals:\n"
        "    signals.defer()\n"
        "    for _ in range(2): os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('still there')"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    assert ended.returncode == -signal.SIGTERM and ended.stdout == b""


def test_finished_and_prolonged(train, capsys):
    train("--version", "whole", "--epochs", "3")
    train("--version", "a")
    before = {path: path.stat().st_mtime_ns for path in Path(".").rglob("*/a/*")}
    capsys.readouterr()
    train("--version", "a", "--resume", "True")
    assert "model/a: all 2 epochs are done; a higher --epochs goes on from there" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in Path(".").rglob("*/a/*")} == before
    train("--version", "a", "--resume", "True", "--epochs", "3", "--log-interval", "7")
    assert_same_run("a", "whole", 3)
    assert json.loads(Path("logs/a/args.json").read_text())["epochs"] == 3


def test_what_cannot_be_resumed(train, fails, photos, tmp_path):
    train("--version", "a")
    go_on = ["--version", "a", "--epochs", "3", "--resume", "True"]
    message = fails(*go_on, "--lr", "0.5", "--loss-weight")
    assert "--lr is 0.5, was 0.0001" in message and "--loss-weight is True, was False" in message
    assert "--epochs" not in message

    other = tmp_path / "other"
    shutil.copytree(photos, other)
    table = other / "Fashion-How24_sub1_train.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], lines[2], lines[1], *lines[3:]]))
    said = fails(*go_on, data_dir=other)
    assert (
        "not the data set that the run began with: other names in train, labels in train, sizes in train of"
        in said
    )
    *cells, number = lines[1].rsplit(",", 1)
    table.write_text("\n".join([lines[0], ",".join([*cells, str(1 - min(1, int(number)))]), *lines[2:]]))
    assert "began with: other labels in train of" in fails(*go_on, data_dir=other)

    last = Path("model/a/last.pt").read_bytes()
    shutil.copy("model/a/model_1.pt", "model/a/last.pt")
    assert "model/a/last.pt: holds no state of a run" in fails(*go_on)
    Path("model/a/last.pt").write_bytes(last[: len(last) // 2])
    assert "model/a/last.pt" in fails(*go_on)
    os.remove("model/a/last.pt")
    assert "model/a has checkpoints but no last.pt" in fails(*go_on)


def test_options_that_last_pt_does_not_know_have_their_default(train, fails):
    train("--version", "a", "--epochs", "1")
    content = checkpoint.read_file("model/a/last.pt")
    for name in ("clipping", "ls"):
        del content["meta"]["options"][name]
    torch.save(content, "model/a/last.pt")
    go_on = ["--version", "a", "--epochs", "2", "--resume"]
    message = fails(*go_on, "--clipping", "--ls", "0.1")
    assert "--clipping is True, was False" in message and "--ls is 0.1, was 0.0" in message
    train(*go_on)


def without_a_column(content):
    del content["progress"]["rows"][0]["val_top1_daily"]


def with_a_column(content):
    content["progress"]["rows"][0]["val_top1_other"] = 0.5


CRAFTED = {
    "a column is missing": (without_a_column, "holds no state of a run"),
    "a column too many": (with_a_column, "holds no state of a run"),
    "no score": (lambda c: c["progress"]["rows"][0].update(val_top1=None), "holds no state of a run"),
    "a wrong epoch": (lambda c: c["progress"]["rows"][0].update(epoch=7), "holds no state of a run"),
    "a row that is none": (lambda c: c["progress"]["rows"].append([1]), "holds no state of a run"),
    "rows that are no list": (
        lambda c: c["progress"].update(rows=tuple(c["progress"]["rows"])),
        "holds no state of a run",
    ),
    "rows in a tensor": (lambda c: c["progress"].update(rows=torch.zeros(1, 2)), "holds no state of a run"),
    "logits that are none": (
        lambda c: c["progress"].update(teacher_logits=torch.ones(3)),
        "holds no state of a run",
    ),
    "a teacher that is none": (
        lambda c: c["progress"].update(teacher=["identity", "prior"]),
        "holds no state of a run",
    ),
    "no progress": (lambda c: c.update(progress=torch.ones(3)), "holds no state of a run"),
    "a batch that is none": (
        lambda c: c["meta"]["options"].update(batch_size="auto"),
        "holds no state of a run",
    ),
    "no role": (lambda c: c["meta"].pop("role"), "holds no state of a run"),
    "a role that is none": (lambda c: c["meta"].update(role=["teacher"]), "holds no state of a run"),
    "facts that are none": (
        lambda c: c["progress"].update(data="", facts={"names in train": [1]}),
        "other names in train, labels in train",
    ),
    "logits of nothing": (
        lambda c: c["progress"].update(teacher_logits={key: torch.tensor(1.0) for key in ATTRIBUTES}),
        "not the data set that the run began with",
    ),
}


@pytest.mark.parametrize("change, said", CRAFTED.values(), ids=CRAFTED)
def test_a_crafted_state_is_refused_before_a_file_changes(begun, fails, change, said):
    content = checkpoint.read_file("model/a/last.pt")
    change(content)
    torch.save(content, "model/a/last.pt")
    before = {path: path.read_bytes() for path in Path(".").rglob("*/a/*") if path.is_file()}
    assert said in fails("--version", "a", "--epochs", "2", "--resume")
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    "change", [{"optimizer": None}, {"seconds": 10**400}, {"order_state": torch.zeros(1)}]
)
def test_a_crafted_state_that_does_not_load(begun, train, change):
    content = checkpoint.read_file("model/a/last.pt")
    content["progress"].update(change)
    torch.save(content, "model/a/last.pt")
    with pytest.raises(UserError, match=r"last\.pt: not the state of this run"):
        train("--version", "a", "--epochs", "2", "--resume")


@pytest.fixture
def begun(train, tmp_path_factory, photos):
    """A run of one epoch, trained once."""
    kept = tmp_path_factory.getbasetemp() / "begun"
    if not kept.exists():
        train("--version", "a", "--epochs", "1")
        kept.mkdir()
        for name in ("model", "logs"):
            shutil.copytree(name, kept / name, symlinks=True)
        return
    for name in ("model", "logs"):
        shutil.copytree(kept / name, name, symlinks=True)


def test_where_the_file_system_has_no_locks(train, monkeypatch):
    from utils.base import files

    codes = [errno.ENOLCK]

    def flock(descriptor, operation):
        raise OSError(codes[0], os.strerror(codes[0]))

    monkeypatch.setattr(files.fcntl, "flock", flock)
    train("--version", "a", "--epochs", "1")
    assert sorted(os.listdir("model/a")) == ["best.pt", "last.pt", "model_1.pt"]
    codes[0] = errno.EIO
    with pytest.raises(UserError, match="model/b"):
        train("--version", "b", "--epochs", "1")


def test_another_number_of_processes_is_refused(train, fails):
    train("--version", "a", "--epochs", "1")
    content = checkpoint.read_file("model/a/last.pt")
    content["progress"]["processes"] = 2
    torch.save(content, "model/a/last.pt")
    assert "processes is 1, was 2" in fails("--version", "a", "--epochs", "2", "--resume")


def test_the_state_of_another_machine_is_refused(train):
    train("--version", "a", "--epochs", "1")
    world = SimpleNamespace(rank=1, size=1, broadcast=lambda own: (own[0] + 1, *own[1:]))
    with pytest.raises(UserError, match=r"process 1: model/a/last\.pt is not that of the first process"):
        read_last("model/a/last.pt", world)


def test_two_runs_of_one_version(train, monkeypatch):
    """The second is refused as long as the first has not ended, however that ends."""

    def second():
        for option in ("--resume", "--overwrite"):
            with pytest.raises(UserError, match="model/a: another process is training this version"):
                train("--version", "a", option)
        raise ValueError("an error of no kind that is known")

    at_first_step(monkeypatch, second)
    with pytest.raises(ValueError, match="no kind"):
        train("--version", "a")
    train("--version", "a", "--resume")


def test_a_second_run_of_a_new_version_is_refused_before_the_first_has_files(train, monkeypatch):
    from utils.data import dataset

    real = dataset.load_pixels

    def first(*args):
        monkeypatch.setattr(dataset, "load_pixels", real)
        for option in ("--resume", "--overwrite"):
            with pytest.raises(UserError, match="model/a: another process is training this version"):
                train("--version", "a", option)
        return real(*args)

    monkeypatch.setattr(dataset, "load_pixels", first)
    train("--version", "a", "--epochs", "1")
    assert sorted(os.listdir("model/a")) == ["best.pt", "last.pt", "model_1.pt"]


def as_before_attributes_were_a_file(path):
    """Make a checkpoint what the version before wrote: heads by name, prompts, all options, no attributes."""
    content = checkpoint.read_file(path)
    meta, names = content["meta"], list(ATTRIBUTES)

    def old(name):
        parts = name.split(".")
        if parts[0].endswith("_heads"):
            parts[1] = names[int(parts[1])]
        return ".".join(parts)

    content["model"] = {old(name): value for name, value in content["model"].items()}
    del meta["attributes"]
    if meta["role"] == "teacher":
        meta["prompts"] = {key: [one[0] for one in a.prompts] for key, a in ATTRIBUTES.items()}
    for name in ("attributes", "skip_unreadable"):
        meta["options"].pop(name)
    meta["options"].update(
        cache_dir="/home/somebody/.cache", data_dir="/home/somebody/data", keep=None, resume=False
    )
    if "progress" in content:
        del content["progress"]["processes"]
    torch.save(content, path)


def test_checkpoints_of_the_version_before(train, tmp_path):
    """825ee38 wrote them, with the competition's attributes: they are resumed, teach, and are loaded."""
    student = [*STUDENT, "--teacher", "t/model_1.pt"]
    train("--version", "t", "--epochs", "1", "--loss-weight")
    train("--version", "whole-t", "--epochs", "2", "--loss-weight")
    train("--version", "whole", *student)
    train("--version", "s", *student, "--epochs", "1")
    for path in ("t/model_1", "t/last", "s/model_1", "s/last"):
        as_before_attributes_were_a_file(f"model/{path}.pt")
    net, _ = load_network("model/s/model_1.pt")
    assert net.attributes == ATTRIBUTES
    assert same(net.state_dict(), load_network("model/whole/model_1.pt")[0].state_dict())
    train("--version", "taught", *student)
    train("--version", "s", *student, "--resume")
    train("--version", "t", "--epochs", "2", "--loss-weight", "--resume")
    for version in ("taught", "s"):
        weights = [checkpoint.read_file(f"model/{name}/model_2.pt")["model"] for name in (version, "whole")]
        assert same(*weights)
    assert same(*(checkpoint.read_file(f"model/{name}/model_2.pt")["model"] for name in ("t", "whole-t")))
    assert "/home/somebody" not in str(checkpoint.read_file("model/s/model_2.pt")["meta"])


def test_room_is_compared_before_the_run(train, fails, monkeypatch):
    train("--version", "a")
    present = sum(path.stat().st_size for path in Path("model/a").glob("*[0-9t].pt"))
    weights, last = (os.path.getsize(f"model/a/{name}.pt") for name in ("model_1", "last"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, free))

    free = (
        int(10.5 * weights) + 2 * last
    )  # half a checkpoint too little for a new run of 10 epochs and best.pt
    message = fails("--version", "b", "--epochs", "10", code=4)
    assert "model/b: 11 checkpoints of 11 MB" in message and "--keep N" in message
    free = free - present
    for replaces in (["--overwrite", "True"], ["--resume", "True"]):
        fails("--version", "a", "--epochs", "10", *replaces, code=4)
    free = int(4.5 * weights) + 2 * last
    train("--version", "b", "--epochs", "10", "--keep", "1")


def test_the_best_checkpoint_was_removed(train, monkeypatch):
    train("--version", "a", "--epochs", "2")
    before = checkpoint.read_file("model/a/last.pt")
    before["progress"]["rows"][0]["val_top1"] = 2.0  # none can be better
    torch.save(before, "model/a/last.pt")
    os.remove("model/a/model_1.pt")
    train("--version", "a", "--epochs", "3", "--resume", "True")
    assert os.path.exists("model/a/best.pt") and os.readlink("model/a/best.pt") in (
        "model_2.pt",
        "model_3.pt",
    )


def test_keep(train):
    train("--version", "a", "--epochs", "4", "--keep", "1")
    best = os.readlink("model/a/best.pt")
    assert set(os.listdir("model/a")) == {"best.pt", "last.pt", best, "model_4.pt"}
    assert len(rows("a")) == 4
