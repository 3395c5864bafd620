"""torchrun with two processes: the numbers of one, and an end for all if one ends."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from conftest import ATTRIBUTES, SHORT, assert_same_run, rows, write_own

from utils.base.errors import ProcessLost, UserError
from utils.base.hardware import TORCH
from utils.data.dataset import read_tables
from utils.losses import DistillationLoss, LossOptions, class_weights, log_shares
from utils.nets import checkpoint
from utils.training.distributed import TORCHRUN as VARIABLES
from utils.training.distributed import World

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
CPU = ["--device", "cpu"]  # two processes want two GPUs, which few have
SOFT = "--kd-learning True --distillation-type soft --optimizer AdamW --lr 1e-3 --teacher zero-shot".split()


def command(photos, *options):
    return [*TORCHRUN, str(ROOT / "train.py"), *SHORT, *CPU, "--data-dir", str(photos), *options]


@pytest.fixture
def train(train):
    """What two processes are compared with."""
    return lambda *options, **kwargs: train(*CPU, *options, **kwargs)


def environment():
    return dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))


def run(photos, *options):
    done = subprocess.run(
        command(photos, *options),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=240,
    )
    return done.returncode, done.stdout.decode()


@pytest.mark.thorough
def test_two_processes_give_the_teachers_losses_of_one(train, photos):
    # 16 images in batches of 5: parts of 3 and 2, and a last batch of one image, which only one process has.
    options = ["--loss-weight", "--batch-size", "5", "--ls", "0.1", "--clipping", "--seed", "3"]
    options += ["--val-batch-size", "3"]  # 8 photos: 6 and 2
    options += "--views 2 --ema 0.9 --schedule-by step --scheduler --warmup-epoch 1".split()
    train("--version", "one", *options)
    code, output = run(photos, "--version", "two", *options)
    assert code == 0, output
    assert "2 processes" in output and len(re.findall("^ *2/2 ", output, re.MULTILINE)) == 1, (
        "one process logs"
    )
    assert_same_rows("one", "two")
    assert sorted(os.listdir("model/two")) == sorted(os.listdir("model/one"))


def assert_same_rows(first, second):
    assert len(rows(first)) == len(rows(second)) > 0
    for one, two in zip(rows(first), rows(second)):
        for column in one:
            if column != "seconds":
                assert float(two[column]) == pytest.approx(float(one[column]), abs=1e-4), column


@pytest.mark.thorough
def test_two_processes_with_unknown_labels_and_few_images(train, photos, place):
    """An odd number of images for validation, one of each process at a time: the last is one process's alone."""
    path = write_own(place / "own", photos, {"kind": 2, "a.b": 3}, 0.4)
    options = ["--attributes", str(path), "--loss-weight", "--batch-size", "3", "--val-batch-size", "1"]
    train("--version", "one", *options, data_dir=path.parent)
    log = Path("logs/one/one_training.log").read_text()
    assert int(re.search(r"(\d+) for validation", log)[1]) % 2 == 1
    code, output = run(path.parent, "--version", "two", *options)
    assert code == 0, output
    assert_same_rows("one", "two")


@pytest.mark.thorough
def test_a_student_of_two_processes(photos, place):
    options = [*SOFT, "--views", "2", "--ema", "0.9", "--logit-adjustment", "0.5"]
    code, output = run(photos, "--version", "student", *options)
    assert code == 0, output
    told = Path("logs/student/student_training.log").read_text()
    assert told.count("teacher's logits: computed") == 2, "caches are built once, for each view"
    assert len(rows("student")) == 2
    code, output = run(photos, "--version", "student", *options, "--epochs", "3", "--resume", "True")
    assert code == 0 and [row["epoch"] for row in rows("student")] == ["1", "2", "3"], output


@pytest.mark.thorough
def test_each_process_asks_the_teacher_about_its_share(train, photos, place):
    """16 photos, 5 at a time: of the last batch a process has three; the next run finds them all in the cache."""
    options = [*SOFT, "--views", "2", "--val-batch-size", "5", "--save-teacher-logits"]
    train("--version", "one", *options, "one.npz", "--cache-dir", "other")
    code, output = run(photos, "--version", "two", *options, "two.npz")
    assert code == 0, output
    told = Path("logs/two/two_training.log").read_text()
    assert told.count("teacher's logits: computed") == 2, "a view is asked twice"
    one, two = np.load("one.npz"), np.load("two.npz")
    assert one.files == two.files
    for name in one.files:
        is_logits = name.startswith("logits.")
        assert np.allclose(one[name], two[name], atol=1e-5) if is_logits else (one[name] == two[name]).all()
    before = sorted(place.glob("cache/**/logits-*.npy"))
    assert len(before) == 2
    code, output = run(photos, "--version", "again", *options[:-1])
    told = Path("logs/again/again_training.log").read_text()
    assert code == 0 and "teacher's logits: computed" not in told, output
    assert sorted(place.glob("cache/**/logits-*.npy")) == before


@pytest.mark.thorough
def test_two_processes_and_a_teacher_that_lacks_attributes(photos, place):
    """Only one of the three has a head that learns from it, and both processes wait for no other's gradient."""
    names = read_tables(str(photos), ATTRIBUTES, ["train"])["train"].names
    said = np.random.RandomState(0).randn(len(names), ATTRIBUTES.sizes["gender"])
    np.savez("said.npz", image_name=np.array(names), gender=said)
    options = "--kd-learning --distillation-type soft --teacher-logits said.npz --batch-size 5".split()
    code, output = run(photos, "--version", "two", *options)
    assert code == 0 and output.count("said.npz: says nothing of daily, embellishment") == 1, output
    code, output = run(photos, "--version", "two", *options, "--epochs", "3", "--resume", "True")
    assert code == 0 and len(rows("two")) == 3, output
    state = checkpoint.read_file("model/two/best.pt")["model"]
    heads = {name.rpartition(".")[0] for name in state if name.startswith("distillation_heads")}
    assert heads == {"distillation_heads.1"}


VALIDATES = """
import os
import sys
import train
from utils.training import engine

def predict(net, *args, plain=engine.predict):
    with open("figures." + os.environ["RANK"], "a") as file:
        print(*(values.double().sum().item() for values in net.buffers()), file=file)
    return plain(net, *args)

engine.predict = predict
train.main(sys.argv[1:])
"""


@pytest.mark.thorough
def test_both_processes_validate_the_figures_that_are_kept(photos, place):
    """Each normalises its own part of a batch, and has other running figures after it."""
    Path("validates.py").write_text(VALIDATES)
    options = "--version a --epochs 1 --kd-learning True --distillation-type none --ema 0.9".split()
    line = command(photos, *options)
    line[line.index(str(ROOT / "train.py"))] = "validates.py"
    subprocess.run(line, env=environment(), stdout=subprocess.DEVNULL, timeout=240, check=True)
    one, two = (Path(f"figures.{rank}").read_text().splitlines() for rank in (0, 1))
    assert one == two and len(one) == 1 and len(set(one[0].split())) > 10


@pytest.fixture
def started(photos, place):
    """Starts torchrun with these options of train.py, and gives it back once the first epoch is done."""
    processes = []

    def start(*options):
        process = subprocess.Popen(
            command(photos, *options), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        processes.append(process)
        metrics = Path("logs", options[options.index("--version") + 1], "metrics.csv")
        while not (metrics.exists() and len(rows(metrics.parent.name)) >= 1):
            assert process.poll() is None, process.stdout.read().decode()
            time.sleep(0.05)
        return process

    yield start
    for process in processes:
        process.kill()


@pytest.mark.thorough
def test_one_that_dies_takes_the_other_down(started):
    # With --keep, since the room for a thousand checkpoints would be asked for.
    options = ["--epochs", "1000", "--keep", "1", "--save-every-minutes", "0.001"]
    process = started("--version", "teacher", *options)
    os.kill(_children(process.pid)[1], signal.SIGKILL)
    start = time.monotonic()
    output = process.communicate(timeout=90)[0].decode()
    assert process.returncode != 0 and time.monotonic() - start < 60
    ours = [line for line in output.splitlines() if "lost the connection to the others" in line]
    assert len(ours) == 1 and "--resume True" in ours[0] and "Traceback" not in ours[0], output
    assert re.search(r"\(.*(closed by peer|reset by peer|broken pipe).*\)", ours[0], re.IGNORECASE), (
        "without its cause"
    )


@pytest.mark.thorough
def test_a_signal_ends_both_at_one_step(started, photos):
    options = ["--batch-size", "5", "--val-batch-size", "1", "--epochs", "8"]
    code, output = run(photos, "--version", "whole", *options)
    assert code == 0, output
    for version in ("torchrun", "second", "all"):
        process = started("--version", version, *options)
        both = _children(process.pid)
        signalled = {"torchrun": [process.pid], "second": both[1:], "all": [*both, process.pid]}
        for pid in signalled[version]:
            os.kill(pid, signal.SIGTERM)
        output = process.communicate(timeout=60)[0].decode()
        assert process.returncode != 0
        said = [line for line in output.splitlines() if "stopped in epoch" in line]
        assert len(said) == 1 and "lost the connection" not in output, output
        epoch, step = map(int, re.search(r"epoch (\d+), after step (\d+)", said[0]).groups())
        saved = checkpoint.read_file(f"model/{version}/last.pt")["progress"]
        assert (saved["epoch"], len(saved["losses"])) == (epoch, step)
        code, output = run(photos, "--version", version, *options, "--resume", "True")
        assert code == 0 and f"epoch {epoch}, {step} steps done" in output, output
        assert_same_run(version, "whole", 8)


def _children(parent):
    """The two processes that torchrun has started."""
    listed = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(parent)], stdout=subprocess.PIPE, check=True
    )
    pids = re.findall(r"^ *(\d+) .*train\.py", listed.stdout.decode(), re.MULTILINE)
    assert len(pids) == 2
    return sorted(map(int, pids))


def as_one_of(monkeypatch, rank, size):
    """As torchrun starts one of several processes of a machine."""
    values = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "MASTER_ADDR": "localhost"}
    for name, value in {**values, "MASTER_PORT": 29400}.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize(
    "left, fine",
    [
        ("", True),
        ("WORLD_SIZE=", True),
        ("WORLD_SIZE= RANK= LOCAL_RANK=", True),
        ("WORLD_SIZE=1", True),
        ("LOCAL_RANK=3 MASTER_ADDR=node7", True),
        ("WORLD_SIZE=4", False),
        ("RANK=3", False),  # it would train, and write nothing
        ("RANK=0 WORLD_SIZE=four LOCAL_RANK=0 MASTER_ADDR=a MASTER_PORT=1", False),
        ("RANK=2 WORLD_SIZE=2 LOCAL_RANK=0 MASTER_ADDR=a MASTER_PORT=1", False),
        ("RANK=0 WORLD_SIZE=2 LOCAL_RANK=0", False),
    ],
)
def test_what_a_cluster_leaves_in_the_environment(monkeypatch, left, fine):
    """A single process, or one line; never one that waits for others, or that writes nothing."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for one in left.split():
        monkeypatch.setenv(*one.split("="))
    if fine:
        world = World("cpu")
        assert (world.rank, world.size, world.local_rank) == (0, 1, 0) and world.is_first
    else:
        with pytest.raises(UserError, match=r"^[^\n]*unset RANK WORLD_SIZE$") as error:
            World("cpu")
        assert left in str(error.value)


@pytest.mark.parametrize("said, expected", [("1", [8]), ("2", [])])
def test_each_process_has_its_share_of_the_cores(monkeypatch, said, expected):
    """Where torchrun gives one thread to each; what a user asks for stays."""
    as_one_of(monkeypatch, 0, 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    World("cpu")
    assert asked == expected


NCCL = """NCCL error in: ../torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:1234, remote process exited, NCCL version 2.21
ncclRemoteError: A call failed possibly due to a network error.
Last error:
socketProgress: Connection closed by remote peer gpu-7<42>
Exception raised from checkForNCCLErrorsInternal at ../torch/csrc/distributed (most recent call first):
frame #0: c10::Error::Error(c10::SourceLocation) + 0x96"""
GLOO = "[../third_party/gloo/gloo/transport/tcp/pair.cc:598] Connection closed by peer [127.0.0.1]:2042"


@pytest.mark.parametrize(
    "said, cause", [(NCCL, "remote peer gpu-7<42>"), (GLOO, "pair.cc:598] Connection closed by peer")]
)
def test_the_error_of_a_lost_process_keeps_its_cause(monkeypatch, said, cause):
    as_one_of(monkeypatch, 0, 2)
    world = World("cpu")
    with pytest.raises(ProcessLost) as error:
        world.__exit__(RuntimeError, RuntimeError(said), None)
    message = str(error.value)
    assert (
        cause in message and "--resume True" in message and "\n" not in message and "frame #0" not in message
    )
    for other in (
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        UserError("socket"),
        ValueError("peer"),
    ):
        assert not world.__exit__(type(other), other, None), "it is hidden"


def test_gpus_share_batch_norm_and_keep_what_timm_has_in_it(monkeypatch):
    as_one_of(monkeypatch, 0, 2)
    world = World("cpu")
    world.device = torch.device("cuda")
    monkeypatch.setattr(torch.nn.parallel, "DistributedDataParallel", lambda net: net)
    norm = timm.layers.BatchNormAct2d(3, act_layer=torch.nn.ReLU)
    shared = world.parallel(torch.nn.Sequential(norm))
    assert isinstance(shared[0], torch.nn.SyncBatchNorm) and type(shared[0]) is not torch.nn.SyncBatchNorm
    if TORCH >= (2, 0):  # before, it does not run on CPUs
        x = torch.randn(2, 3, 4, 4)
        assert torch.equal(shared.eval()(x), norm.eval()(x)) and shared(x).min() == 0


@pytest.mark.parametrize("images, size", [(7, 2), (1, 2), (2, 3), (6, 3), (5, 1)])
def test_the_parts_of_the_processes_are_each_image_once(monkeypatch, images, size):
    counted, indices = [], torch.randperm(images)
    for rank in range(size):
        as_one_of(monkeypatch, rank, size)
        part, counts = World("cpu").shard(indices)
        assert len(part) >= 1, "every process takes part in each step"
        counted += part.tolist() if counts else []
    assert sorted(counted) == list(range(images))


@pytest.mark.parametrize("kind", ["none", "soft", "hard"])
@pytest.mark.parametrize("weighted", [False, True, "adjusted"])
def test_the_parts_of_a_batch_add_up(kind, weighted):
    torch.manual_seed(0)
    batch = {
        key: torch.randint(-1, len(a.classes), (7,)) for key, a in ATTRIBUTES.items()
    }  # some are not known
    logits = [{key: torch.randn(7, len(a.classes)) for key, a in ATTRIBUTES.items()} for _ in range(3)]
    labels = {key: values.numpy() for key, values in batch.items()}
    weights = class_weights(labels, ATTRIBUTES.sizes) if weighted is True else None
    criterion = DistillationLoss(LossOptions(kind, 0.9, 4.0, smoothing=0.1), weights)
    if weighted == "adjusted":
        criterion.reduction, criterion.adjustment = "batch", log_shares(labels, ATTRIBUTES.sizes)
    outputs, targets = logits[0] if kind == "none" else tuple(logits[:2]), logits[2]
    whole = criterion(outputs, targets, batch)
    parts = []
    for rows_ in (torch.arange(0, 7, 2), torch.arange(1, 7, 2)):
        mine = [{key: values[rows_] for key, values in one.items()} for one in (*logits, batch)]
        outputs = mine[0] if kind == "none" else tuple(mine[:2])
        parts.append(criterion(outputs, *mine[2:], batch))
    for key in ATTRIBUTES:
        assert sum(part[key] for part in parts).item() == pytest.approx(whole[key].item(), abs=1e-6)
