"""Runs that are killed with SIGKILL at random moments and resumed, against the run that was never killed.

FAULT_KILLS kills altogether (8), at moments drawn with FAULT_SEED (0):
`FAULT_KILLS=50 bash test.sh tests/faults/test_kill.py -s`.
"""

import collections
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import assert_same_run

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parents[2]
KILLS, SEED = int(os.environ.get("FAULT_KILLS", 8)), int(os.environ.get("FAULT_SEED", 0))
COMMON = "--clip-model random --precision fp32 --log-interval 1 --save-every-minutes 0.003".split()
ROLES = {
    "teacher": "--loss-weight True --batch-size 4 --val-batch-size 1 --epochs 4".split(),
    "student": (
        "--kd-learning True --teacher zero-shot --distillation-type soft --student test_efficientnet "
        "--student-weights none --optimizer Muon "
        "--scheduler True --warmup-epoch 1 --views 2 --ema 0.9 --schedule-by step --logit-adjustment 0.5 "
        "--batch-size 8 --val-batch-size 2 --epochs 2"
    ).split(),
}
PHASES = ("start", "cache building", "training", "saving", "validation")


class Process:
    """One process of train.py, in the working directory."""

    def __init__(self, role, version, *options):
        self.version = version
        self.started = time.time()
        self.output = Path("output.txt")
        command = [sys.executable, ROOT / "train.py", "--version", version, "--data-dir", "drawn"]
        command += ["--cache-dir", f"cache-{version}", *COMMON, *ROLES[role], *options]
        with open(self.output, "w") as file:
            self.process = subprocess.Popen(
                command, stdout=file, stderr=file, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )

    def said(self):
        return self.output.read_text()

    def wait(self, event=None):
        """Until the event is there or the process ends; returns the seconds since its start."""
        while self.process.poll() is None and not (event and event(self)):
            time.sleep(0.002)
            assert time.time() - self.started < 300, self.said()
        return time.time() - self.started

    def kill(self, event, delay):
        """So many seconds after the event, if it has not ended by then."""
        moment = self.wait(event) + delay
        self.wait(lambda process: time.time() - process.started >= moment)
        self.process.kill()
        self.process.wait()

    def starts(self):
        return True

    def builds_cache(self):
        return self.unfinished(f"cache-{self.version}")

    def trains(self):
        return "parameters:" in self.said()

    def unfinished(self, *folders):
        """Files that this process has begun to write and not renamed."""
        files = [path for folder in folders for path in Path(folder).glob("*.tmp*")]
        return [path for path in files if path.exists() and path.lstat().st_mtime >= self.started - 0.01]

    def phase(self):
        """Where it was killed, by what it left behind."""
        if self.builds_cache():
            return "cache building"
        if self.unfinished(f"model/{self.version}", f"logs/{self.version}"):
            return "saving"
        if not self.trains():
            return "start"
        if self.validates():
            return "validation"
        # Scores are followed by the epoch's files, the curves, last.pt.
        return "saving" if self._last_line() == "rows are labels" else "training"

    def validates(self):
        step = re.match(r"step (\d+)/(\d+)", self._last_line())
        return bool(step) and step[1] == step[2]

    def reports(self):
        return "rows are labels" in self.said()

    def _last_line(self):
        """The last one that tells how far an epoch is, from there on."""
        return ["", *re.findall(r"step \d+/\d+|rows are labels|resumed from", self.said())][-1]


EVENTS = (Process.starts, Process.builds_cache, Process.trains, Process.validates)
AIMS = (*EVENTS, Process.trains)  # each kill comes at a random moment after one of them


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    from utils.tools.sample import make_sample

    folder = tmp_path_factory.mktemp("faults") / "drawn"
    make_sample(str(folder), train=32, val=8, seed=2)
    return folder


@pytest.mark.parametrize("role", ROLES)
def test_killed_runs_end_as_the_run_that_was_not(place, drawn, role):
    kills = KILLS // 2 if role == "teacher" else KILLS - KILLS // 2
    draw = random.Random(f"{SEED} {role}")
    os.symlink(drawn, "drawn")

    whole = Process(role, "whole")
    starts, builds_cache, trains, validates, reports = map(whole.wait, (*EVENTS, Process.reports))
    ends = whole.wait()
    turns = AIMS.count(Process.trains)  # so that the run does not end before its last kill
    length = {  # seconds in which the kill may come
        Process.starts: builds_cache - starts,
        Process.builds_cache: trains - builds_cache,
        Process.trains: (ends - trains) / turns,
        Process.validates: reports - validates,
    }
    assert whole.process.returncode == 0, whole.said()

    counts, runs = collections.Counter(), 0
    while sum(counts.values()) < kills:
        version, options = f"killed-{runs}", []
        aims = draw.sample(AIMS, len(AIMS))[: kills - sum(counts.values())]
        while True:
            process = Process(role, version, *options)
            options = ["--resume", "True"]
            if aims:
                aim = aims.pop()
                if aim is Process.builds_cache:
                    shutil.rmtree(f"cache-{version}", ignore_errors=True)
                process.kill(aim, draw.uniform(0, length[aim]))
            process.wait()
            if process.process.returncode == 0:
                break
            assert process.process.returncode == -signal.SIGKILL, process.said()
            counts[process.phase()] += 1
        assert_same_run(version, "whole", int(ROLES[role][-1]))
        assert sorted(os.listdir(f"model/{version}")) == sorted(os.listdir("model/whole"))
        shutil.rmtree(f"model/{version}")
        runs += 1
    print(f"\n{role}: {kills} kills of {runs} runs, all ended as the one that was not killed;", dict(counts))
    assert set(counts) <= set(PHASES) and (kills < 20 or len(counts) == len(PHASES))
