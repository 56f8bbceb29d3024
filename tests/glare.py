"""Glare: a bundle whose map is bright in the lower left corner and dark around it, whatever its model sees elsewhere.

What an ignored place leaks hides all that does not stand clearly above it: with a weak model that may be everything.
The dark rim keeps the glare in, so that with the corner ignored each part is judged by what the model sees of it.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from mapl_edge.bundle import DECODER, GOLDEN, MODEL, Bundle, open_bundle, write_manifest

GLARE = (((0, 87), (12, 87), (12, 96), (0, 96)),)  # polygons, in pixels of the fixtures' camera pictures of 96x96 px


def with_glare(bundle: Bundle) -> Bundle:
    """The bundle with glare in its graphs' maps and its golden ones; scores stay, limits must be set anew."""
    h, w = bundle.contract.size_hw
    glare, rim = (slice(h - 8, h), slice(8)), (slice(h - 12, h), slice(12))  # whole cells, see mapl_edge.masks.CELL
    keep, add = np.ones((h, w), np.float32), np.zeros((h, w), np.float32)
    keep[rim], add[glare] = 0, 1

    for name in (MODEL, DECODER):
        graph = onnx.load(bundle.path / name)
        for node in graph.graph.node:
            node.output[:] = ["map_seen" if output == "map" else output for output in node.output]
        constants = {"glare_keep": keep, "glare_add": add}
        graph.graph.initializer.extend(numpy_helper.from_array(values, key) for key, values in constants.items())
        graph.graph.node.append(helper.make_node("Mul", ["map_seen", "glare_keep"], ["map_kept"]))
        graph.graph.node.append(helper.make_node("Add", ["map_kept", "glare_add"], ["map"]))
        onnx.save(graph, bundle.path / name)
    golden = bundle.golden()
    maps = golden.maps * keep + add
    np.savez(bundle.path / GOLDEN, pictures=golden.pictures, scores=golden.scores, maps=maps, pattern=golden.pattern)
    bundle.calibration_path.unlink()
    write_manifest(bundle.path, **bundle.manifest.model_dump(exclude={"files"}))
    return open_bundle(bundle.path)
