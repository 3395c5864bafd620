"""The benchmark's two sides compute the same, and its processes time what they are told to."""

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import works
from benchmarks.timing import Side, pair
from utils.attributes import ATTRIBUTES
from utils.dataset import read_tables

SMALL_CLIP = {
    "text_config": dict(
        vocab_size=49408, bos_token_id=49406, eos_token_id=49407, pad_token_id=49407, max_position_embeddings=77,
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
    ),
    "vision_config": dict(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, image_size=224, patch_size=32
    ),
    "projection_dim": 32,
}  # fmt: skip


@pytest.fixture
def job(photos, monkeypatch):
    monkeypatch.setattr(benchmarks, "CLIP_CONFIG", SMALL_CLIP)
    table = read_tables(str(photos), ["train"])["train"]
    return benchmarks.make_job(table, 8, 4, "fp32", whole_greys=True)


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_the_losses_of_the_first_steps_agree(job, role):
    reference = getattr(works, f"reference_{role}")(job)
    project = getattr(works, f"project_{role}")(job)
    for _ in range(2):
        expected, got = reference(), project()
        assert set(got) == set(ATTRIBUTES)
        assert got == pytest.approx(expected, abs=benchmarks.AGREEMENT)


def test_the_letterbox_differs_by_rounding_only(job):
    for index, path in enumerate(job.paths):
        assert abs(works.reference.read(path) * 255 - works._pixels(job)[index]).max() < 0.51


def test_a_pair_in_processes_of_their_own(job):
    reference, project, ratio = pair("reference_letterbox", "project_letterbox", job, turns=2)
    assert 0 < project.seconds < reference.seconds and ratio > 1
    assert len(project.outputs) == len(reference.outputs) + 2 == 5, "settling and turns"
    assert 1e7 < project.anonymous <= project.peak < 2e9


def test_a_process_that_dies_says_so(job, capfd):
    with pytest.raises(benchmarks.UserError, match="no_such_work"):
        Side("no_such_work", job)
