"""--device of predict, evaluate and export: a checkpoint's network goes there, and computes in float32."""

import pytest
import torch

import evaluate
import export
import predict
from utils.base.cli import exit_code
from utils.base.hardware import choose_device
from utils.evaluation.inference import load_classifier


@pytest.mark.cuda
@pytest.mark.parametrize("tf32", [True, False])
def test_plain_float32_for_answers(tf32, monkeypatch):
    """TF32 rounds to 10 bits, in matrix products and, unless told otherwise, in convolutions."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        assert choose_device("auto", tf32).type == "cuda"
        said = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
    assert said == ("high" if tf32 else "highest", tf32)


@pytest.mark.cuda
def test_the_network_goes_where_it_is_told(work, monkeypatch):
    asked, moved = [], torch.nn.Module.to
    monkeypatch.setattr(torch.nn.Module, "to", lambda net, *where: asked.extend(where) or moved(net, *where))
    load_classifier(f"{work}/student.pt", device="auto")
    assert asked[-1] == choose_device("auto")


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without CUDA")
def test_a_device_that_is_not_there_or_not_for_the_file(work, exported, place, capsys):
    onnx, data = str(exported["fp32"]), f"{work}/data"
    for main, options, said in (
        (predict.main, [f"{data}/val", "--checkpoint", f"{work}/student.pt"], "PyTorch finds no CUDA device"),
        (predict.main, [f"{data}/val", "--checkpoint", onnx], "fp32.onnx runs on the CPU"),
        (evaluate.main, ["--data-dir", data, "--checkpoint", onnx], "fp32.onnx runs on the CPU"),
        (export.main, ["--checkpoint", f"{work}/student.pt", "--output", "x.onnx"], "finds no CUDA device"),
    ):
        assert exit_code(lambda main=main, options=options: main([*options, "--device", "cuda"])) == 2
        error = capsys.readouterr().err
        assert f"error: --device cuda: {said}"[:22] in error and said in error and error.count("\n") == 1
