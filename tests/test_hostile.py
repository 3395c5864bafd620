"""Files that mean harm: checkpoints that would run code or lie, photos and tables that would fill the memory."""

import io
import os
import pickle
import zipfile

import pytest
import torch

from networks import Student
from utils.checkpoint import load_weights, read_file
from utils.errors import UserError


class Harm:
    """Unpickled, it makes a file `ran` in the working directory."""

    def __reduce__(self):
        return os.system, ("touch ran",)


def refused(path, *parts):
    with pytest.raises(UserError) as error:
        read_file(path)
    message = str(error.value)
    assert str(path) in message and "\n" not in message and len(message) < 400
    assert all(part in message for part in parts), message
    assert "weights_only" not in message, "torch's advice is to run it all the same"


# --- checkpoints -------------------------------------------------------------------------------------

HARMFUL = {
    "archive": lambda path: torch.save({"model": {"a": torch.zeros(1)}, "meta": Harm()}, path),
    "older": lambda path: torch.save([Harm()], path, _use_new_zipfile_serialization=False),
    **{f"pickle {p}": lambda path, p=p: path.write_bytes(pickle.dumps(Harm(), protocol=p)) for p in range(6)},
}


@pytest.mark.parametrize("kind", HARMFUL)
def test_code_is_refused_by_name_and_not_run(place, kind):
    path = place / "a.pt"
    HARMFUL[kind](path)
    assert pickle.loads(pickle.dumps(Harm())) == 0 and os.path.exists("ran"), "it does no harm at all"
    os.remove("ran")
    refused(path, "would run posix.system")
    assert not os.path.exists("ran")


def test_other_objects_are_refused_by_name(tmp_path):
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "torch.nn.modules.linear.Linear")


@pytest.mark.parametrize("archive", [True, False])
def test_tensors_and_plain_values_are_read(tmp_path, archive):
    content = {
        "transposed": torch.arange(12.0).view(3, 4).t(),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "state": torch.nn.Linear(2, 2).state_dict(),
        "bf16": torch.ones(3, dtype=torch.bfloat16),
        "bytes": torch.get_rng_state(),
        "empty": torch.zeros(0, 3),
        "plain": [1, 2.5, "가", None, True, (1, {2: -3}), 10**30],
    }
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=archive)
    found = read_file(tmp_path / "a.pt")
    assert str(found) == str(content) and found["plain"] == content["plain"]
    assert found["bf16"].dtype == torch.bfloat16 and torch.equal(found["bytes"], content["bytes"])
    shared = torch.zeros(5)
    torch.save([shared, shared[1:]], tmp_path / "a.pt", _use_new_zipfile_serialization=archive)
    first, second = read_file(tmp_path / "a.pt")
    second.fill_(1)
    assert first.tolist() == [0, 1, 1, 1, 1]


def rewritten(path, change, compression=zipfile.ZIP_STORED):
    """The archive at `path` with each record's (name, bytes) changed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(buffer, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    path.write_bytes(buffer.getvalue())


def test_a_tensor_longer_than_its_bytes(tmp_path):
    """Torch 1.12 reads beyond the end and crashes."""
    path = tmp_path / "a.pt"
    torch.save(torch.zeros(12345), path)
    short, lie = b"M" + (12345).to_bytes(2, "little"), b"J" + (123_450_000).to_bytes(4, "little")
    rewritten(
        path, lambda name, content: content.replace(short, lie) if name.endswith("data.pkl") else content
    )
    refused(path, "not a readable checkpoint")


def test_an_archive_that_unfolds(tmp_path):
    """400 MB of zeros in 400 KB."""
    path = tmp_path / "a.pt"
    torch.save(torch.zeros(1), path)
    rewritten(
        path,
        lambda name, content: bytes(400_000_000) if name.endswith("data/0") else content,
        zipfile.ZIP_DEFLATED,
    )
    assert path.stat().st_size < 1e6
    refused(path, "larger than the file")


@pytest.mark.parametrize(
    "state",
    [
        {1: torch.zeros(1)},
        {"a": torch.zeros(1).to_sparse()},
        {"a": torch.zeros(1, dtype=torch.complex64)},
        {"a": [1]},
        {},
    ],
)
def test_what_is_no_state_dict(tmp_path, state):
    torch.save({"model": state}, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"a\.pt: (holds no state dict|refused)"):
        load_weights(Student(), tmp_path / "a.pt")
