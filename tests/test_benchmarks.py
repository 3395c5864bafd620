"""The benchmark's two sides compute the same, and its processes time what they are told to."""

import functools
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import __main__ as benchmarks
from benchmarks import time_to_score, works
from benchmarks.timing import SETTLING, Turn, pair, process
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


def test_a_pair_in_processes_of_their_own(job):
    reference, project = pair(works.reference_letterbox, works.project_letterbox, job, turns=2)
    assert len(reference) == 1 + 2 and len(project) == 1 + SETTLING + 2
    assert all(0 < fast.seconds < slow.seconds for slow, fast in zip(reference[-2:], project[-2:]))
    assert 1e7 < project[-1].peak < 2e9


@pytest.mark.thorough
def test_the_peak_is_the_processs_own(job):
    """Not that of the process that started it."""
    if not os.path.exists("/proc/self/status"):
        pytest.skip("no /proc")
    large = np.ones(2 * 10**9, np.uint8)
    with process(works.project_letterbox, job) as turn:
        assert turn().peak < large.nbytes


def test_a_process_that_dies_says_so():
    with pytest.raises(UserError, match="_exit ended with exit code 3"), process(os._exit, 3) as turn:
        turn()


def test_the_table(photos, monkeypatch, capsys):
    slow = [Turn(9.0, 10**9), Turn(1.0, 10**9), Turn(3.0, 10**9)]
    fast = [turn._replace(seconds=turn.seconds / 2) for turn in slow]
    monkeypatch.setattr(benchmarks, "pair", lambda *_, **__: (slow, fast))
    seconds = {torch.float32: 0.02, torch.bfloat16: 0.01}
    monkeypatch.setattr(benchmarks, "product_seconds", lambda *_, **__: seconds)
    benchmarks.main(["--quick", "--only", "student", "--data-dir", str(photos), "--precision", "fp32"])
    said = capsys.readouterr().out
    assert "products of 1024 x 1024: 107.4 GFLOP/s in fp32, 214.7 in bf16\n" in said
    row = next(line for line in said.splitlines() if line.startswith("| student"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    name = "student and soft teacher, an epoch"
    assert cells == [name, "fp32", "2.000", "1.000", "2.00", "16.0", "1.00 / 1.00"], "without the warm-up"


def test_time_to_score(photos, place, monkeypatch, capsys):
    """The published procedure needs all epochs to its last score, the project here two."""
    rows = {row.name: row for row in time_to_score.ROWS if row.data == "photos"}
    results = [
        {"data": "photos", "row": name, "seed": 1, "options": rows[name].command, "val_top1": top1}
        for name, top1 in (("recipe", [0.2, 0.4, 0.6]), ("best", [0.5, 0.7, 0.8]))
    ]
    Path("results.jsonl").write_text("\n".join(map(json.dumps, results)))
    monkeypatch.setattr(time_to_score, "Job", functools.partial(works.Job, clip=SMALL_CLIP))
    options = "--results results.jsonl --output picture.png --batch-size 4 --turns 1"
    time_to_score.main([*options.split(), "--data-dir", str(photos)])
    said = re.search(
        r"mean Top-1 0.6000: published procedure (\d+) s, 3 epochs of (\d+) s; here (\d+) s, 2 epochs of \[(\d+), (\d+)\] s",
        capsys.readouterr().out,
    )
    whole, each, here, first, second = map(int, said.groups())
    assert abs(whole - 3 * each) <= 2 and abs(here - first - second) <= 1 and first > second >= 0
    assert Path("picture.png").stat().st_size > 10_000


def test_time_to_score_without_scores(photos, place):
    with pytest.raises(UserError, match="no run of recipe on photos"):
        time_to_score.main(["--data-dir", str(photos), "--results", "none.jsonl", "--output", "a.png"])
    assert not Path("none.jsonl").exists()
