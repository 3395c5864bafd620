"""The student as one self-contained ONNX file, in float32, float16 or int8."""

import contextlib
import copy
import json
import os
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization
from torch import nn

from utils.base.files import MARK
from utils.data.photos import SIZE
from utils.evaluation.inference import INPUT, META

TRACED_OPSET, OPSET = 16, 20  # PyTorch 1.12 knows no newer one; 20 has Gelu and LayerNormalization
EXAMPLE = (2, SIZE, SIZE, 3)  # traced with this many photos


class _Graph(nn.Module):
    """The exported function: uint8 `(N, 224, 224, 3)` -> probabilities, one tensor per attribute."""

    def __init__(self, net):
        super().__init__()
        self.net = copy.deepcopy(net)
        for module in self.net.modules():
            if type(module) is nn.Linear:
                module.__class__ = _RowsLinear

    def forward(self, pixels):
        logits = self.net(pixels.permute(0, 3, 1, 2))
        return tuple(logits[key].softmax(dim=1) for key in self.net.attributes)


class _RowsLinear(nn.Linear):
    """One operator, Gemm, instead of matrix product and sum: int8 then stays in integers until the sum."""

    def forward(self, x):
        return super().forward(x.reshape(-1, self.in_features)).reshape(*x.shape[:-1], self.out_features)


# Two operators are written whole, as runtimes have them, instead of in a dozen small steps. The exporter's
# opset is too old for them: until it is raised they belong to a name space of their own.
_NEWER = "newer"


def _gelu(g, x, approximate=None):
    return g.op(f"{_NEWER}::Gelu", x).setType(x.type())


def _layer_norm(g, x, shape, weight, bias, eps, cudnn):
    eps = float(eps.node().t("value"))
    return g.op(f"{_NEWER}::LayerNormalization", x, weight, bias, axis_i=-1, epsilon_f=eps).setType(x.type())


_WRITERS = {"aten::gelu": _gelu, "aten::layer_norm": _layer_norm}


def trace(net):
    """A folded `Student` as an ONNX model in float32, any number of photos at a time."""
    is_tiny_vit = net.backbone_name.startswith("tiny_vit_")
    # PyTorch 2 has two exporters. The tracing one is the only one of 1.12, and it leaves the attention
    # biases compact: it does not compute biases[index] at export time.
    tracing = {} if int(torch.__version__.split(".")[0]) < 2 else {"dynamo": False}
    if not is_tiny_vit:  # more than reshapes may depend on the number of photos: ViT's class token
        tracing["dynamic_axes"] = {INPUT: {0: "N"}}
    for name, writer in _WRITERS.items():
        torch.onnx.register_custom_op_symbolic(name, writer, TRACED_OPSET)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = os.path.join(folder, "student.onnx")
        torch.onnx.export(
            _Graph(net), (torch.zeros(EXAMPLE, dtype=torch.uint8),), path, opset_version=TRACED_OPSET, input_names=[INPUT],
            **tracing,
        )  # fmt: skip
        model = onnx.load(path)
    for name in _WRITERS:
        torch.onnx.unregister_custom_op_symbolic(name, TRACED_OPSET)
    for node in model.graph.node:
        node.domain = ""
    del model.opset_import[:]
    model.opset_import.add(domain="", version=OPSET)
    del model.graph.value_info[:]  # notes of sizes for the traced number of photos
    _newer_reductions(model)
    _free_batch(model)
    if is_tiny_vit:
        _share_indices(model)
    _without_unused(model)
    return model


def _newer_reductions(model):
    """Since opset 18 the axes of means and maxima are an input."""
    for node in model.graph.node:
        axes = [one for one in node.attribute if one.name == "axes" and node.op_type.startswith("Reduce")]
        for one in axes:
            node.input.append(_constant(model, one.ints))
            node.attribute.remove(one)


def _free_batch(model):
    """Any number of photos: in every reshape the first dimension, and no other, holds a multiple of it.

    The sizes were traced as constants, since a traced number of photos makes each reshape compute its
    shape by a dozen operators.
    """
    sizes = _sizes(model)
    for node in model.graph.node:
        if node.op_type == "Reshape":
            node.input[1] = _constant(model, [-1, *sizes[node.output[0]][1:]])
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_param = "N"


def _sizes(model):
    """Name -> sizes of every intermediate result, by running the model on the traced number of photos."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    names = [name for node in model.graph.node for name in node.output]
    _replace(probe.graph.output, [onnx.ValueInfoProto(name=name) for name in names])
    session = onnxruntime.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    results = session.run(names, {INPUT: np.zeros(EXAMPLE, np.uint8)})
    return {name: result.shape for name, result in zip(names, results)}


def _constant(model, sizes):
    """Name of a stored int64 vector, made if there is none yet."""
    name = "sizes_" + "_".join(map(str, sizes)).replace("-", "minus")
    if all(tensor.name != name for tensor in model.graph.initializer):
        model.graph.initializer.append(numpy_helper.from_array(np.array(sizes, np.int64), name))
    return name


def _share_indices(model):
    """Keep one index per window size, in bytes: PyTorch 1.12 writes one for each block, in int64, 300 KB for a 14 x 14 window."""
    graph, shared, casts = model.graph, {}, []
    constants = {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"}
    constants.update({tensor.name: tensor for tensor in graph.initializer})
    for node in graph.node:
        if node.op_type == "Gather" and len(constants[node.input[1]].dims) == 2:
            index = numpy_helper.to_array(constants[node.input[1]])
            name = f"window_index_{len(index)}"
            if name not in shared:
                smallest = np.uint8 if index.max() < 256 else np.int32
                shared[name] = numpy_helper.from_array(index.astype(smallest), f"{name}_stored")
                casts.append(helper.make_node("Cast", [f"{name}_stored"], [name], name, to=TensorProto.INT32))
            node.input[1] = name
    _replace(graph.node, casts + list(graph.node))
    graph.initializer.extend(shared.values())


def _without_unused(model):
    """Leave out what computed the sizes that are constants now, and the indices that are shared."""
    graph, needed, nodes = model.graph, {value.name for value in model.graph.output}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.insert(0, node)
    _replace(graph.node, nodes)
    _replace(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in needed])


def _replace(repeated, values):
    values = list(values)
    del repeated[:]
    repeated.extend(values)


def to_fp16(model, operators=None):
    """Store the weights in half precision; they are widened at load time and the computing stays in float32.

    Processors without half-precision arithmetic, and browsers, would only convert back and forth.

    Args: `operators`, names of the operators whose weights are meant; None for all.
    """
    graph, casts = model.graph, []
    meant = {name for n in graph.node if operators is None or n.op_type in operators for name in n.input}
    for tensor in graph.initializer:
        if tensor.name in meant and tensor.data_type == TensorProto.FLOAT and np.prod(tensor.dims) >= 64:
            half, name = f"{tensor.name}_half", tensor.name
            casts.append(helper.make_node("Cast", [half], [name], f"{name}_cast", to=TensorProto.FLOAT))
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), half))
    _replace(graph.node, casts + list(graph.node))


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
    to_fp16(quantized, operators=("Conv",))
    return quantized


@contextlib.contextmanager
def _quiet():
    """Nothing on stderr, also from C++. The exporter warns of comparisons of sizes, which are constant here, and 1.12's
    of the name space; the quantizer advises on its own preparation, which would spell the attention biases out again."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def save(model, path, meta, attributes):
    """Write the model with its metadata, a dict of plain values; the outputs are named as the attributes, where they can be."""
    _name_outputs(model.graph, attributes)
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = META, json.dumps(meta, ensure_ascii=False)
    model.producer_name, model.producer_version = MARK.decode(), ""
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _name_outputs(graph, attributes):
    """An attribute may be called like another tensor, or `__proto__`, which a browser keeps for itself."""
    taken = {name for node in graph.node for name in [*node.input, *node.output]} | {INPUT, "__proto__"}
    taken.update(tensor.name for tensor in graph.initializer)
    results = {node.output[0]: node for node in graph.node}
    for value, name in zip(graph.output, attributes):
        while name in taken:
            name += "_"
        taken.add(name)
        results[value.name].output[0] = value.name = name
