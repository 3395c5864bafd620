"""The student as one self-contained ONNX file, in float32, float16 or int8."""

import contextlib
import copy
import json
import logging
import os
import tempfile
import warnings

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization
from torch import nn

from utils.base.files import MARK
from utils.base.hardware import TORCH
from utils.data.photos import SIZE
from utils.evaluation.inference import INPUT, META

OPSET = 16  # PyTorch 1.12 knows no newer one


class _Graph(nn.Module):
    """The exported function: uint8 `(N, 224, 224, 3)` -> probabilities, one tensor per attribute."""

    def __init__(self, net):
        super().__init__()
        self.net = copy.deepcopy(net)
        for module in self.net.modules():
            if type(module) is nn.Linear:
                module.__class__ = _RowsLinear
            # Among the weights PyTorch 1.12 writes equal ones once; else an attention's index of 300 KB for each block.
            for name, buffer in list(module.named_buffers(recurse=False)):
                module.register_buffer(name, buffer)

    def forward(self, pixels):
        logits = self.net(pixels.permute(0, 3, 1, 2))
        return tuple(logits[key].softmax(dim=1) for key in self.net.attributes)


class _RowsLinear(nn.Linear):
    """One operator, Gemm, instead of matrix product and sum: int8 then stays in integers until the sum."""

    def forward(self, x):
        sizes = map(int, x.shape[1:-1])  # constants: each size that is traced costs a dozen operators
        return super().forward(x.reshape(-1, self.in_features)).reshape(-1, *sizes, self.out_features)


def trace(net):
    """A folded `Student` as an ONNX model in float32, any number of photos at a time."""
    # PyTorch 2 has two exporters. The tracing one is the only one of 1.12, and it leaves the attention
    # biases compact: it does not compute biases[index] at export time.
    tracing = {"dynamo": False} if TORCH >= (2, 0) else {}
    # An attribute's own name, where no other tensor can have it, nor a browser keeps it for itself.
    plain = {key: key.isidentifier() and key not in (INPUT, "__proto__") for key in net.attributes}
    outputs = [key if plain[key] else f"p({key})" for key in net.attributes]
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = os.path.join(folder, "student.onnx")
        torch.onnx.export(
            _Graph(net), (torch.zeros(2, SIZE, SIZE, 3, dtype=torch.uint8),), path, opset_version=OPSET, input_names=[INPUT],
            output_names=outputs, dynamic_axes={name: {0: "N"} for name in (INPUT, *outputs)}, **tracing,
        )  # fmt: skip
        model = onnx.load(path)
    narrow(model, TensorProto.INT64)  # attention's indices
    return model


def narrow(model, kind=TensorProto.FLOAT, operators=None):
    """Store weights of a type in a narrower one: float32 in float16, integers in the bytes that they need. They are widened at
    load time, and what is computed stays as it is: processors without half-precision arithmetic, and browsers, would only
    convert back and forth.

    Args: `kind`, onnx's type; `operators`, names of those whose weights are meant; None for all.
    """
    graph, casts = model.graph, []
    meant = {name for n in graph.node if operators is None or n.op_type in operators for name in n.input}
    for tensor in graph.initializer:
        if tensor.name in meant and tensor.data_type == kind and np.prod(tensor.dims) >= 64:
            stored, name, values = f"{tensor.name}_stored", tensor.name, numpy_helper.to_array(tensor)
            needed = np.result_type(*map(np.min_scalar_type, (values.min(), values.max())))
            narrow = np.float16 if kind == TensorProto.FLOAT else needed
            casts.append(helper.make_node("Cast", [stored], [name], f"{name}_cast", to=kind))
            tensor.CopyFrom(numpy_helper.from_array(values.astype(narrow), stored))
    nodes = casts + list(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)


def to_int8(model, pixels):
    """Matrix products in 8 bits, their inputs scaled by what these photos give; the rest stays in float32.

    Their weights have 7 bits, -64 to 64: processors without instructions for sums of 8-bit products (VNNI) add two of
    them in 16 bits, where 255 * 64 * 2 fits and 255 * 127 * 2 does not. So all processors give the same answers.
    They hold 93 % of the weights. The convolutions, in 8 bits too, would save a tenth of the time and
    0.2 MB, but change the class of 2 to 9 % of the photos instead of 0.3 %: their weights are stored in half.

    Args: `pixels`, uint8 `(N, 224, 224, 3)`, the photos to calibrate on.
    """

    class Reader(quantization.CalibrationDataReader):
        inputs = ({INPUT: photo[None]} for photo in pixels)

        def get_next(self):
            return next(self.inputs, None)

    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, target = os.path.join(folder, "fp32.onnx"), os.path.join(folder, "int8.onnx")
        onnx.save(model, source)
        quantization.quantize_static(
            source, target, Reader(), quant_format=quantization.QuantFormat.QDQ, per_channel=True,
            activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
            op_types_to_quantize=["Gemm", "Softmax"],
            nodes_to_exclude=[node.name for node in model.graph.node if node.op_type == "Softmax"],
            calibrate_method=quantization.CalibrationMethod.MinMax, reduce_range=True,
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},
        )  # fmt: skip
        quantized = onnx.load(target)
    narrow(quantized, operators=("Conv",))
    return quantized


@contextlib.contextmanager
def _quiet():
    """The exporter warns of comparisons of sizes, which are constant here; the quantizer advises on its own preparation, which
    would spell the attention biases out again."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def save(model, path, meta):
    """Write the model with its metadata, a dict of plain values."""
    del model.graph.value_info[:]  # sizes that nobody needs take 0.1 MB
    onnx.helper.set_model_props(model, {META: json.dumps(meta, ensure_ascii=False)})
    model.producer_name, model.producer_version = MARK.decode(), ""
    onnx.checker.check_model(model)
    onnx.save(model, path)
