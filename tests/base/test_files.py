"""Files are there whole or not at all: a writer that fails, a full disk, a process that was killed."""

import argparse
import csv
import errno
import os
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ATTRIBUTES, assert_same_run
from torch import nn

import export
from train import parse_args
from utils.base import log
from utils.base.cli import exit_code, new_file
from utils.base.errors import DiskFull, UserError
from utils.base.files import (
    atomic,
    check_folder,
    check_new,
    is_device,
    link,
    record,
    remove_leftovers,
)
from utils.data.dataset import load_pixels, read_tables
from utils.nets.checkpoint import read_file, save_checkpoint
from utils.tools import curves
from utils.training.run import Run
from utils.training.teacher import save_logits

ROOT = Path(__file__).parents[2]


@contextmanager
def largest_file(size):
    """As on a full disk, writing fails from this many bytes on: with EFBIG instead of ENOSPC."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_text_and_bytes(tmp_path):
    with atomic(tmp_path / "a.csv") as file:
        csv.writer(file, lineterminator="\n").writerow(["가", "b"])
    assert (tmp_path / "a.csv").read_bytes() == "가,b\n".encode()
    with atomic(tmp_path / "a.csv", binary=True) as file:
        np.savez(file, x=np.arange(3))
    with np.load(tmp_path / "a.csv") as arrays:
        assert arrays["x"].tolist() == [0, 1, 2]
    assert os.listdir(tmp_path) == ["a.csv"]
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "a.csv").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_what_was_there(tmp_path, error):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(error), atomic(tmp_path / "a.txt") as file:
        file.write("new")
        raise error
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "old")]


def test_only_a_file_is_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(UserError, match="not a file"), atomic(tmp_path / name) as file:
            file.write("new")
    with pytest.raises(argparse.ArgumentTypeError, match="not a file"):
        new_file(str(tmp_path / "pipe"))
    with pytest.raises(argparse.ArgumentTypeError, match="is a folder; name a file"):
        new_file(str(tmp_path / "folder"))
    (tmp_path / "out.txt").write_text("")
    os.symlink(tmp_path / "out.txt", tmp_path / "link")
    assert not is_device(tmp_path / "link") and is_device("/dev/null") and is_device("/dev/stdout")
    assert (tmp_path / "pipe").is_fifo() and sorted(os.listdir(tmp_path)) == [
        "folder",
        "link",
        "out.txt",
        "pipe",
    ]


def test_a_file_is_not_seen_before_it_is_whole(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with atomic(tmp_path / "a.txt") as file:
        file.write("new")
        file.flush()
        assert (tmp_path / "a.txt").read_text() == "old"
    assert (tmp_path / "a.txt").read_text() == "new"


def test_no_folder(tmp_path):
    with pytest.raises(UserError, match=r"absent.a\.txt: cannot be written \(No such file or directory\)"):
        with atomic(tmp_path / "absent" / "a.txt"):
            pytest.fail("there is nowhere to write")


def checkpoint_survives(folder):
    """A checkpoint of 4 MB does not fit: the one that was there stays, and nothing else."""
    path, small, large = folder / "a.pt", nn.Linear(10, 10), nn.Linear(1000, 1000)
    save_checkpoint(path, small, {"epoch": 1})
    before = path.read_bytes()
    with pytest.raises(DiskFull) as error:
        save_checkpoint(path, large, {"epoch": 2})
    assert path.read_bytes() == before and read_file(path)["meta"] == {"epoch": 1}
    assert os.listdir(folder) == ["a.pt"]
    needed = int(str(error.value).split("a.pt: ")[1].split()[0].replace(",", ""))
    assert error.value.exit_code == 4 and "\n" not in str(error.value) and str(path) in str(error.value)
    return needed, large


def test_checkpoint_too_large_for_the_file_system(tmp_path):
    with largest_file(1_000_000):
        needed, net = checkpoint_survives(tmp_path)
    save_checkpoint(tmp_path / "b.pt", net, {"epoch": 2})
    assert needed == pytest.approx((tmp_path / "b.pt").stat().st_size, abs=100)


@pytest.mark.thorough
def test_checkpoint_on_a_full_disk(small_disk):
    """For real: torch 1.12 ends the whole process if a write of its own fails."""
    assert checkpoint_survives(small_disk)[0] > 4_000_000


def test_other_files_on_a_full_disk(tmp_path):
    with largest_file(1000):
        for binary, content in ((True, b"x" * 10), (False, "x" * 10)):
            with pytest.raises(DiskFull, match="2,000 bytes are needed"), atomic(
                tmp_path / "a", binary
            ) as file:
                for _ in range(200):
                    file.write(content)
    assert os.listdir(tmp_path) == []


def test_pixels_on_a_full_disk(tmp_path, photos):
    with largest_file(1_000_000), pytest.raises(DiskFull, match=r"photos-.*: 2,408,\d{3} bytes are needed"):
        load_pixels(read_tables(str(photos), ATTRIBUTES), str(tmp_path))
    assert {path.suffix for path in tmp_path.iterdir()} == {".lock"}


@pytest.mark.thorough
@pytest.mark.parametrize("weights", [4.5, 5.9])
def test_a_run_on_a_full_disk_goes_on_when_there_is_room(
    train, place, small_disk, monkeypatch, capsys, weights
):
    """The first last.pt has the weights, the next 3 times them: at the end of epoch 1 it is 5 times, of epoch 2, 8."""
    train("--version", "a", "--epochs", "3")
    size = os.path.getsize("model/a/model_1.pt")
    resize = "mount -o remount,size={} " + str(small_disk)
    subprocess.run(resize.format(int(weights * size)).split(), check=True)
    (place / "model" / "b").symlink_to(small_disk)
    (small_disk / "model_9.pt.0123abcd.tmp").write_text("of a run that was killed")
    with monkeypatch.context() as patch:
        patch.setattr(Run, "check_room", lambda *args: None)  # would find it out before the run begins
        assert exit_code(lambda: train("--version", "b", "--epochs", "3")) == 4
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: model/b/") and "bytes are needed" in error and "Traceback" not in error
    assert sorted(os.listdir("model/b"))[:2] == ["best.pt", "last.pt"] and not list(small_disk.glob("*.tmp"))
    subprocess.run(resize.format(20 * size).split(), check=True)
    train("--version", "b", "--epochs", "3", "--resume", "True")
    assert_same_run("b", "a", epochs=3)


def fill(folder):
    with pytest.raises(OSError, match="No space left"):
        with open(folder / "of others", "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))


@pytest.mark.thorough
def test_nothing_fits_any_more(train, place, small_disk, capsys):
    (place / "logs").symlink_to(small_disk)
    (small_disk / "a").mkdir()
    fill(small_disk)
    assert exit_code(lambda: train("--version", "a")) == 4
    error = capsys.readouterr().err
    assert error.count("error: ") == 1 and "logs/a/" in error and "Traceback" not in error


@pytest.mark.thorough
def test_a_log_that_cannot_grow(place, small_disk, capsys):
    """One error, not a traceback for each line; and saying it does not fail again."""
    log.start()
    log.to_file(str(small_disk / "a.log"))
    fill(small_disk)

    def talk():
        for _ in range(100):
            log.logger.info("x" * 100)

    assert exit_code(talk) == 4
    error = capsys.readouterr().err
    assert error.startswith(f"error: {small_disk}/a.log: ") and error.count("\n") == 1, error


def test_a_folder_that_cannot_be_made(fails):
    Path("model").write_text("")
    assert "model/a: cannot be written (Not a directory)" in fails("--version", "a")


def test_a_killed_writer_leaves_the_old_file_and_its_half(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    program = (
        "import os, signal\nfrom utils.base.files import atomic\nwith atomic('a.txt') as file:\n"
        "    file.write('x' * 100000)\n    file.flush()\n    os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert (tmp_path / "a.txt").read_text() == "old" and len(os.listdir(tmp_path)) == 2
    with atomic(tmp_path / "a.txt") as file:  # the half is in nobody's way
        file.write("new")
    remove_leftovers(f"{tmp_path}/a")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "new")]


def test_only_leftovers_are_removed(tmp_path):
    folder = tmp_path / "[a]"
    folder.mkdir()
    others = {"b.txt.0123abcd.tmp", "a.txt.tmp", "a.txt.0123abcd.tmp.txt", "a.txt.0123abcg.tmp"}
    for name in {"a.txt.0123abcd.tmp", *others}:
        (folder / name).write_text("")
    remove_leftovers(f"{folder}/a.")
    assert set(os.listdir(folder)) == others
    remove_leftovers(f"{folder}/")
    assert set(os.listdir(folder)) == others - {"b.txt.0123abcd.tmp"}


def test_half_an_array_of_the_cache_is_removed(tmp_path, photos):
    load_pixels(read_tables(str(photos), ATTRIBUTES), str(tmp_path))
    whole = sorted(os.listdir(tmp_path))
    array = next(tmp_path.glob("*.npy"))
    Path(f"{array}.0123abcd.tmp").write_text("of a process that was killed")
    load_pixels(read_tables(str(photos), ATTRIBUTES), str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == whole


def test_a_photo_is_no_earlier_output(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff fashion")
    check_new(tmp_path / "b.jpg", lambda head: False)
    check_new(tmp_path / "a.jpg", lambda head: head.endswith(b"fashion"), [tmp_path / "b.jpg", "owner/name"])
    for known, inputs, said in (
        (False, [], "is there, and not"),
        (True, [tmp_path / "a.jpg"], "the same file"),
    ):
        with pytest.raises(UserError, match=said):
            check_new(tmp_path / "a.jpg", lambda head, known=known: known, inputs)


def test_a_folders_own_files_stay(tmp_path):
    names, sign = ["index.html", "README.md", "samples/1.jpg"], ("index.html", b"<title>ours")
    (tmp_path / "samples").mkdir()
    check_folder(tmp_path, names, sign)
    (tmp_path / "samples" / "1.jpg").write_text("mine")
    with pytest.raises(UserError, match=r"samples/1\.jpg: not as an earlier run"):
        check_folder(tmp_path, names, sign)
    (tmp_path / "index.html").write_text("<title>ours, of an earlier version")
    check_folder(tmp_path, names, sign)
    (tmp_path / "README.md").write_text("ours")
    with pytest.raises(UserError, match=r": README\.md: not as an earlier run"):
        check_folder(tmp_path, names, sign)
    record(tmp_path, {name: (tmp_path / name).read_bytes() for name in names})
    check_folder(tmp_path, names, sign)
    for name in names:
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_text("edited")
        with pytest.raises(UserError, match=f": {name}: not as an earlier run"):
            check_folder(tmp_path, names, sign)
        (tmp_path / name).write_bytes(content)


def test_what_other_commands_do_not_replace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("own.npz", image_name=np.array(["a"]), x=np.zeros(1))
    save_checkpoint("own.pt", nn.Linear(2, 2), {})
    Path("own.onnx").write_bytes(b"\x08\x08\x12\x07pytorch")
    Path("curves.png").write_bytes(b"\x89PNG of a photo")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    train = "--version a --kd-learning True --teacher t/best.pt --save-teacher-logits".split()
    to = "--checkpoint a.pt --output".split()
    for command, options in (
        (parse_args, [*train, "own.npz"]),
        (parse_args, [*train, "own.npz", "--overwrite"]),
        (parse_args, [*train, "own.pt", "--resume"]),
        (export.parse_args, [*to, "own.onnx"]),
        (export.parse_args, [*to, "own.pt", "--format", "pt"]),
        (curves.main, ["logs/a"]),
    ):
        with pytest.raises(UserError, match="is there, and not from an earlier run of this command"):
            command(options)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    save_logits("own.npz", ["a"], {})
    for again in ("--resume", "--overwrite"):
        parse_args([*train, "own.npz", again])
    save_checkpoint("own.pt", nn.Linear(2, 2), {}, exported="fashion-attributes")
    export.parse_args([*to, "own.pt", "--format", "pt"])


def without_links(monkeypatch):
    """As on exFAT and some network shares."""

    def refuse(*_, **__):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "symlink", refuse)


def test_where_there_are_no_links_best_is_a_copy(tmp_path, monkeypatch):
    for name in ("model_1.pt", "model_2.pt"):
        (tmp_path / name).write_text(name)
    link(tmp_path / "model_1.pt", tmp_path / "best.pt")
    assert os.readlink(tmp_path / "best.pt") == "model_1.pt"
    without_links(monkeypatch)
    link(tmp_path / "model_2.pt", tmp_path / "best.pt")
    assert not (tmp_path / "best.pt").is_symlink()
    assert (tmp_path / "best.pt").read_text() == "model_2.pt"
    assert (tmp_path / "model_1.pt").read_text() == "model_1.pt"
    assert sorted(os.listdir(tmp_path)) == ["best.pt", "model_1.pt", "model_2.pt"]


def test_a_copy_needs_room_before_the_run_begins(place, monkeypatch):
    net, run, weights = nn.Linear(1000, 1000), Run("a"), 4_005_024
    usage = SimpleNamespace(free=3 * weights + 6 * weights + 1000)  # and twice last.pt
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DiskFull, match="4 checkpoints of 4 MB"):
        run.check_room(net, 3)
    usage.free += weights
    run.check_room(net, 3)


def test_a_best_of_somebody_stays(train, fails, place):
    """A teacher from elsewhere, put where --teacher finds it."""
    os.makedirs("model/a")
    Path("model/a/best.pt").write_text("mine")
    assert "model/a has checkpoints already" in fails("--version", "a")
    assert Path("model/a/best.pt").read_text() == "mine"
