"""The fused graph as OpenVINO likes it: it finds minima fast along the outer axis only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper


def openvino_from_onnx(path: Path, out: Path) -> bool:
    """Write the graph with its patch search turned round: distances (K, queries) in place of (queries, K).

    The answers are the same; OpenVINO's time for the search falls to a fraction.

    Returns:
        Whether there was a search to turn round; otherwise nothing is written.
    """
    model = onnx.load(path)
    graph = model.graph
    made_by = {name: node for node in graph.node for name in node.output}
    nearest = next((node for node in graph.node if node.op_type == "ArgMin"), None)
    product = made_by.get(nearest.input[0]) if nearest is not None else None
    if nearest is None or product is None or product.op_type != "Gemm":
        return False
    attributes = {a.name: helper.get_attribute_value(a) for a in product.attribute}
    x, m, squares = product.input
    axes, upright = f"{product.name}_axes", f"{product.name}_upright"
    graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), axes))
    turned = [
        helper.make_node("Unsqueeze", [squares, axes], [upright], name=upright),
        helper.make_node(
            "Gemm",
            [m, x, upright],  # (A B)ᵀ = Bᵀ Aᵀ
            list(product.output),
            name=product.name,
            alpha=attributes.get("alpha", 1.0),
            beta=attributes.get("beta", 1.0),
            transA=1 - attributes.get("transB", 0),
            transB=1 - attributes.get("transA", 0),
        ),
    ]
    argmin = helper.make_node(
        "ArgMin", list(nearest.input), list(nearest.output), name=nearest.name, axis=0, keepdims=0
    )
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes += turned if node is product else [argmin] if node is nearest else [node]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]  # of shapes that are no more
    onnx.checker.check_model(model)
    onnx.save(model, out)
    return True
