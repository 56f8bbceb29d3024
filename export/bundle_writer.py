"""From a model folder to a bundle: graph, golden answers, memory pictures, manifest; proved before it appears."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np

from mapl_edge import __version__
from mapl_edge.bundle import GOLDEN, MANIFEST, MODEL, Golden, MemorySummary, memory_name, write_manifest
from mapl_edge.engine import Engine
from mapl_edge.export.onnx_graph import onnx_from_detector
from mapl_edge.files import new_folder
from mapl_edge.model.checkpoint import Checkpoint, readings
from mapl_edge.parity import Parity, require_parity
from mapl_edge.verdict import utc_text


def bundle_from_checkpoint(
    checkpoint: Checkpoint, out: Path, open_engine: Callable[[Path], Engine], *, overwrite: bool = False
) -> Parity:
    """Write `out` (part.mapl) and prove it: the graph must answer the golden pictures as the torch model does.

    Args:
        checkpoint: the trained model.
        out: the bundle's folder; it appears whole or not at all.
        open_engine: loads the ONNX file that was written.
        overwrite: replace `out` if it exists.

    Raises:
        OutputError: `out` exists or the disk refuses.
        ParityError: the graph answers differently; nothing is written.
    """
    record = checkpoint.record
    with new_folder(out, MANIFEST, overwrite=overwrite) as work:
        onnx_from_detector(checkpoint.detector, work / MODEL)
        scores, maps, _ = readings(checkpoint.detector, checkpoint.golden_pictures)
        golden = Golden(checkpoint.golden_pictures, scores, maps)
        np.savez_compressed(work / GOLDEN, pictures=golden.pictures, scores=golden.scores, maps=golden.maps)
        (work / "memory").mkdir()
        for i, picture in enumerate(checkpoint.memory_pictures):
            _, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 92])
            (work / memory_name(i)).write_bytes(jpeg.tobytes())
        engine = open_engine(work / MODEL)
        try:
            result = require_parity(engine, golden)
        finally:
            engine.close()
        write_manifest(
            work,
            family=record.family,
            created_at=utc_text(datetime.now(timezone.utc)),
            contract=record.config.contract,
            memory=MemorySummary(scope=checkpoint.detector.memory.scope, samples=record.memory_samples),
            tools=record.tools | {"mapl-edge": __version__},
            training={"seed": record.config.seed, "steps": record.config.steps, **record.summary},
            trained_on=tuple(record.trained_on.values()),
            held_out=record.held_out,
        )
    return result
