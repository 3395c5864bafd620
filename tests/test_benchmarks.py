"""The benchmark's two sides compute the same, and its processes time what they are told to."""

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import jobs, works
from benchmarks.timing import Side, pair
from utils.attributes import read_attributes

SMALL_CLIP = ((64, 128, 2, 2), (64, 128, 2, 2), 32, 49408)


@pytest.fixture
def job(photos):
    attributes = read_attributes()
    table = jobs.spread(jobs.training_photos(str(photos), attributes, None, 0), 8)
    return jobs.Job(table, attributes, 4, SMALL_CLIP, "fp32", whole_greys=True)


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_the_losses_of_the_first_steps_agree(job, role):
    reference = getattr(works, f"reference_{role}")(job)
    project = getattr(works, f"project_{role}")(job)
    for _ in range(2):
        expected, got = reference(), project()
        assert set(got) == set(job.attributes)
        assert got == pytest.approx(expected, abs=benchmarks.AGREEMENT)


def test_the_letterbox_differs_by_rounding_only(job):
    for index, path in enumerate(job.photos.paths()):
        assert abs(works.reference.read(path) * 255 - works._pixels(job)[index]).max() < 0.51


def test_a_pair_in_processes_of_their_own(job):
    reference, project, ratio = pair("reference_letterbox", "project_letterbox", job, turns=2)
    assert 0 < project.seconds < reference.seconds and ratio > 1
    assert len(project.outputs) == len(reference.outputs) + 2 == 5, "settling and turns"
    assert 1e7 < project.anonymous <= project.peak < 2e9


def test_a_process_that_dies_says_so(job, capfd):
    with pytest.raises(benchmarks.UserError, match="no_such_work"):
        Side("no_such_work", job)
