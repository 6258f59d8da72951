"""Classifiers that pass their golden test, whose picture is noise, and fail on what a camera sees, which is smooth; and some that never end."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SMOOTH = 50.0
"""Mean difference of neighbouring pixels: 85 in uniform noise, below 30 in pictures."""


def _extend(model: bytes, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> bytes:
    """The model with nodes that turn `was` into its output; `roughness` [N, 1] is what it looks at."""
    proto = onnx.load_from_string(model)
    graph = proto.graph
    source, output = graph.input[0].name, graph.output[0].name
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == output:
                    names[index] = "was"
    look = [
        helper.make_node("Cast", [source], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Slice", ["pixels", "one", "end", "axis"], ["right"]),
        helper.make_node("Slice", ["pixels", "zero", "minus", "axis"], ["left"]),
        helper.make_node("Sub", ["right", "left"], ["difference"]),
        helper.make_node("Abs", ["difference"], ["absolute"]),
        helper.make_node("ReduceMean", ["absolute"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Reshape", ["mean", "column"], ["roughness"]),
    ]
    known = {
        "zero": np.array([0]),
        "one": np.array([1]),
        "end": np.array([1 << 30]),
        "minus": np.array([-1]),
        "axis": np.array([2]),
        "column": np.array([-1, 1]),
    }
    for name, value in {**known, **constants}.items():
        graph.initializer.append(numpy_helper.from_array(value, name))
    for node in [*look, *nodes]:
        node.output[:] = [output if name == "OUT" else name for name in node.output]
        graph.node.append(node)
    return proto.SerializeToString()


def nan(model: bytes) -> bytes:
    """Answers no number where the picture is smooth: 0 x sqrt(roughness - 50)."""
    nodes = [
        helper.make_node("Sub", ["roughness", "limit"], ["over"]),
        helper.make_node("Sqrt", ["over"], ["root"]),
        helper.make_node("Mul", ["root", "nothing"], ["poison"]),
        helper.make_node("Add", ["was", "poison"], ["OUT"]),
    ]
    return _extend(model, nodes, {"limit": np.array([SMOOTH], np.float32), "nothing": np.array([0], np.float32)})


def improbable(model: bytes) -> bytes:
    """Answers 3 where the picture is smooth, which is a number and no probability."""
    nodes = [
        helper.make_node("Less", ["roughness", "limit"], ["is_smooth"]),
        helper.make_node("Where", ["is_smooth", "three", "was"], ["OUT"]),
    ]
    return _extend(model, nodes, {"limit": np.array([SMOOTH], np.float32), "three": np.array([3], np.float32)})


def crash(model: bytes) -> bytes:
    """Fails where the picture is smooth: it looks up row 1000 of a table of one."""
    nodes = [
        helper.make_node("Less", ["roughness", "limit"], ["is_smooth"]),
        helper.make_node("Cast", ["is_smooth"], ["index"], to=TensorProto.INT64),
        helper.make_node("Mul", ["index", "thousand"], ["row"]),
        helper.make_node("Gather", ["table", "row"], ["found"]),
        helper.make_node("Add", ["was", "found"], ["OUT"]),
    ]
    constants = {"limit": np.array([SMOOTH], np.float32), "thousand": np.array([1000]), "table": np.zeros(1, np.float32)}
    return _extend(model, nodes, constants)


def wrong(model: bytes) -> bytes:
    """Takes a masked face for a bare one and the reverse where the picture is smooth."""
    nodes = [
        helper.make_node("Less", ["roughness", "limit"], ["is_smooth"]),
        helper.make_node("Sub", ["whole", "was"], ["swapped"]),
        helper.make_node("Where", ["is_smooth", "swapped", "was"], ["OUT"]),
    ]
    return _extend(model, nodes, {"limit": np.array([SMOOTH], np.float32), "whole": np.array([1], np.float32)})


def slow(model: bytes, side: int = 1200) -> bytes:
    """Multiplies two large matrices in vain: 2 x 1200^3 operations, a tenth of a second and more."""
    nodes = [
        helper.make_node("ReduceMean", ["roughness"], ["number"], axes=[0], keepdims=1),
        helper.make_node("Mul", ["number", "nothing"], ["none"]),
        helper.make_node("Expand", ["none", "square"], ["large"]),
        helper.make_node("MatMul", ["large", "large"], ["product"]),
        helper.make_node("ReduceMax", ["product"], ["most"], axes=[0, 1], keepdims=0),
        helper.make_node("Add", ["was", "most"], ["OUT"]),
    ]
    constants = {"nothing": np.array([0], np.float32), "square": np.array([side, side])}
    return _extend(model, nodes, constants)


def greedy(model: bytes) -> bytes:
    """Wants 4 GB."""
    return slow(model, side=32_000)
