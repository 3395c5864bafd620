"""What may differ on a GPU: `bash test.sh --cuda` runs these, and all others with the mark, on one. Without, they run on the CPU."""

import csv
import math
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ATTRIBUTES, assert_same_run

import evaluate
import export
import predict
from predict import load
from utils.base.hardware import TORCH, choose_device
from utils.data import pixels
from utils.data.photo_cache import PHOTO, Pixels
from utils.data.photos import SIZE
from utils.data.pixels import Images, ahead
from utils.data.views import Views, view_options
from utils.training import engine
from utils.training.options import parse_args

pytestmark = pytest.mark.cuda
STUDENT = "--kd-learning True --optimizer Muon --lr 1e-3 --distillation-type soft --teacher zero-shot --views 2".split()
HELD = pytest.mark.parametrize("share", [0, 0.5], ids=["gathered", "resident"])  # of a GPU's memory


def in_memory(count=9):
    """Photos as the cache has them, and their array."""
    array = np.random.RandomState(0).randint(0, 256, (count, SIZE, SIZE, 3)).astype(np.uint8)
    photos = np.zeros(count, PHOTO)
    photos["row"] = range(count)
    return Pixels([array], photos), array


@HELD
@pytest.mark.parametrize("size", [1, 4, 20])
def test_batches_are_those_of_the_array(monkeypatch, share, size):
    monkeypatch.setattr(pixels, "RESIDENT_SHARE", share)
    photos, array = in_memory()
    images = Images(photos, choose_device("auto"))
    assert (images.resident is not None) == (images.device.type == "cuda" and share > 0)
    batches = torch.randperm(9).split(size)
    found = list(images.fetch(batches))
    assert len(found) == len(batches) and not list(images.fetch([]))
    for rows, batch in zip(batches, found):
        assert batch.device.type == images.device.type and batch.is_contiguous(
            memory_format=torch.channels_last
        )
        assert np.array_equal(batch.permute(0, 2, 3, 1).cpu().numpy(), array[rows.numpy()])


@HELD
def test_views_are_those_of_the_cpu(monkeypatch, share):
    """All networks, on whatever device, must see the same; a rounding may fall to the other side."""
    monkeypatch.setattr(pixels, "RESIDENT_SHARE", share)
    photos, _ = in_memory()
    line = "--version a --views 2 --crop-ratio 1.2 --color-jitter 0.2"
    options = view_options(parse_args(line.split()))
    both = [list(Views(options).view(Images(photos, one), 1).fetch([torch.arange(9)])) for one in devices()]
    cpu, other = (batch.cpu().int() for [batch] in both)
    assert (cpu - other).abs().max() <= 1 and (cpu != other).float().mean() < 1e-3


def devices():
    return torch.device("cpu"), choose_device("auto")


def test_a_thread_works_ahead():
    """In order, two items ahead; what fails comes out where it belongs, and the thread ends with the loop that it works for."""
    begun, before = [], threading.active_count()

    def half(number):
        begun.append(number)
        return 12 // number

    assert list(ahead(half, [3, 4, 6])) == [4, 3, 2] and not list(ahead(half, []))
    for value in ahead(half, [3, 4, 6, 12]):
        assert value == 4 and threading.active_count() == before + 1
        break
    assert threading.active_count() == before and begun[3:] == [3, 4, 6]
    found = ahead(half, [12, 0, 3])
    assert next(found) == 1
    with pytest.raises(ZeroDivisionError):
        next(found)
    assert threading.active_count() == before


OLD = pytest.mark.skipif(TORCH < (2, 0), reason="bf16 came later")


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=OLD)])
def test_both_networks_learn_in_each_precision(train, precision):
    train("--version", "teacher", "--precision", precision)
    train("--version", "student", *STUDENT, "--precision", precision)
    for version in ("teacher", "student"):
        with open(f"logs/{version}/metrics.csv", newline="") as file:
            losses = [float(row["train_loss"]) for row in csv.DictReader(file)]
        assert len(losses) == 2 and all(map(math.isfinite, losses))


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(train, monkeypatch):
    """On the device that `auto` takes; with what a teacher says of two views."""
    train("--version", "whole", *STUDENT, "--ema", "0.9")
    real = engine.validate

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "validate", stop)
    with pytest.raises(KeyboardInterrupt):
        train("--version", "stopped", *STUDENT, "--ema", "0.9", "--save-every-minutes", "1e-9")
    monkeypatch.setattr(engine, "validate", real)
    train("--version", "stopped", *STUDENT, "--ema", "0.9", "--resume", "True")
    assert_same_run("stopped", "whole", 2)


def test_answers_are_those_of_the_cpu(work, place):
    """Of Python, predict.py and evaluate.py; an export is compared with its checkpoint there."""
    path, data = f"{work}/student.pt", f"{work}/data"
    photos = sorted(Path(data, "val").rglob("*.*g"))
    both = [load(path, device=str(device))(photos) for device in devices()]
    classes = [frame.iloc[:, : 1 + len(ATTRIBUTES)] for frame in both]
    assert classes[0].equals(classes[1])
    for device in ("cpu", "auto"):
        options = ["--checkpoint", path, "--device", device]
        predict.main([f"{data}/val", *options, "--output", f"{device}.csv"])
        evaluate.main(["--data-dir", data, *options, "--output", f"{device}-evaluation"])
    assert Path("cpu.csv").read_text() == Path("auto.csv").read_text()
    export.main(["--checkpoint", path, "--output", "a.onnx", "--data-dir", data, "--device", "auto"])
