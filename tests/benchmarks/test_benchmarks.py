"""The benchmark's two sides compute the same, and its processes time what they are told to."""

import os

import numpy as np
import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import gpu, works
from benchmarks.timing import SETTLING, pair
from clip_model import clip_config
from utils.base.errors import UserError
from utils.data.attributes import read_attributes
from utils.data.dataset import read_tables
from utils.data.photos import letterbox, read_rgb

SMALL_CLIP = clip_config((64, 128, 2, 2), (64, 128, 2, 2), 32, 49408)


@pytest.fixture
def job(photos):
    attributes = read_attributes()
    table = read_tables(str(photos), attributes, ["train"])["train"]
    return works.Job(table, attributes, 4, benchmarks.FP32, "teacher", SMALL_CLIP).spread(8)


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_the_losses_of_the_first_steps_agree(job, role, monkeypatch):
    # Of whole grey levels, as the project's.
    monkeypatch.setattr(works.reference, "read", lambda path: letterbox(read_rgb(path)) / 255)
    job = job._replace(role=role)
    reference, project = works.reference_training(job), works.project_training(job)
    for _ in range(2):
        expected, got = reference(), project()
        assert set(got) == set(job.attributes)
        assert got == pytest.approx(expected, abs=1e-3)


def test_the_letterbox_differs_by_rounding_only(job):
    for path, pixels in zip(job.photos.paths(), job.pixels()):
        assert abs(works.reference.read(path) * 255 - pixels).max() < 0.51


@pytest.mark.thorough
def test_a_pair_in_processes_of_their_own(job):
    """Each tells its own peak, not that of the process that started it."""
    large = np.ones(2 * 10**9, np.uint8)
    reference, project = pair(works.reference_letterbox, works.project_letterbox, job, turns=2)
    assert len(reference) == 1 + 2 and len(project) == 1 + SETTLING + 2
    assert all(0 < fast[0] < slow[0] for slow, fast in zip(reference[-2:], project[-2:]))
    assert all(1e7 < peak < large.nbytes for side in (reference, project) for _, peak in side)


def test_a_process_that_dies_says_so():
    with pytest.raises(UserError, match="a process has ended"):
        pair(os._exit, os._exit, 3, turns=1)


def test_the_table(photos, monkeypatch, capsys):
    slow = [(9.0, 10**9), (1.0, 10**9), (3.0, 10**9)]
    fast = [(seconds / 2, peak) for seconds, peak in slow]
    monkeypatch.setattr(benchmarks, "pair", lambda *_, **__: (slow, fast))
    monkeypatch.setattr(benchmarks, "choose_precision", lambda *_: benchmarks.FP32)
    benchmarks.main(["--quick", "--only", "student", "--data-dir", str(photos)])
    said = capsys.readouterr().out
    row = next(line for line in said.splitlines() if line.startswith("| student"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    name = "student and soft teacher, an epoch"
    assert cells == [name, "fp32", "2.000", "1.000", "2.00", "16.0", "1.00 / 1.00"], "without the warm-up"


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_the_table_of_a_gpu(monkeypatch, capsys):
    """On a CPU, where no kernels of a GPU run."""
    real = works.new_teacher
    monkeypatch.setattr(works, "new_teacher", lambda job: real(job._replace(clip=SMALL_CLIP)))
    monkeypatch.setattr(
        gpu, "choose_precision", lambda *_: benchmarks.FP32
    )  # most CPUs take minutes for bf16
    monkeypatch.setattr(gpu, "NETWORKS", {"teacher": 2, "student": 2})
    monkeypatch.setattr(gpu.pixels, "RESIDENT_SHARE", 0.5)
    gpu.main("--device cpu --steps 2 --epochs 1".split())
    said = [
        line.strip("| ").split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("|")
    ]
    rows = [[cell.strip() for cell in row] for row in said[2:]]
    assert len(rows) == 8 and [row[:3] for row in rows[-2:]] == [
        ["student", "bf16", "on the GPU"],
        ["student", "bf16", "gathered"],
    ]
    assert all(float(row[3]) > 0 and row[4] == "0%" for row in rows)
