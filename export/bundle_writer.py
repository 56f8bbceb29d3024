"""From a model folder to a bundle: graph, golden answers, memory pictures, manifest; proved before it appears."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np

from mapl_edge import __version__
from mapl_edge.arrays import UInt8Array
from mapl_edge.bundle import (
    GOLDEN,
    MANIFEST,
    MODEL,
    Bundle,
    MemorySummary,
    memory_name,
    open_bundle,
    validation_name,
    write_manifest,
)
from mapl_edge.engine_record import Graph, OpenEngine, plain_engine
from mapl_edge.export.onnx_graph import onnx_from_detector
from mapl_edge.export.search_graph import search_in_form
from mapl_edge.export.split import split_from_detector
from mapl_edge.files import new_folder
from mapl_edge.model.checkpoint import Checkpoint, readings
from mapl_edge.parity import Parity, pattern, require_parity
from mapl_edge.prepare import prepare
from mapl_edge.verdict import utc_text


def bundle_from_checkpoint(
    checkpoint: Checkpoint, out: Path, open_engine: OpenEngine, *, overwrite: bool = False
) -> tuple[Parity, Parity]:
    """Write `out` (part.mapl) and prove it: its graphs must answer the golden pictures as the torch model does.

    Args:
        checkpoint: the trained model.
        out: the bundle's folder; it appears whole or not at all.
        open_engine: makes an engine of the graphs that were written.
        overwrite: replace `out` if it exists.

    Returns:
        How near the fused and the split graphs are.

    Raises:
        OutputError: `out` exists or the disk refuses.
        ParityError: a graph answers differently; nothing is written.
    """
    record = checkpoint.record
    with new_folder(out, MANIFEST, overwrite=overwrite) as work:
        onnx_from_detector(checkpoint.detector, work / MODEL)
        search_in_form(work / MODEL, work / MODEL, "integer")
        unseen = checkpoint.validation_pictures if len(checkpoint.validation_pictures) else checkpoint.golden_pictures
        search = split_from_detector(checkpoint.detector, work, unseen)
        scores, maps, _ = readings(checkpoint.detector, checkpoint.golden_pictures)
        contract = record.config.contract
        prepared = prepare(pattern(contract), contract)
        np.savez_compressed(
            work / GOLDEN, pictures=checkpoint.golden_pictures, scores=scores, maps=maps, pattern=prepared
        )
        for i, picture in enumerate(checkpoint.memory_pictures):
            _write_jpeg(work / memory_name(i), picture)
        half = len(checkpoint.validation_pictures) // 2
        for i, picture in enumerate(checkpoint.validation_pictures):
            _write_jpeg(work / validation_name(i, anomalous=i >= half), picture)
        write_manifest(
            work,
            family=record.family,
            created_at=utc_text(datetime.now(timezone.utc)),
            contract=record.config.contract,
            memory=MemorySummary(
                scope=checkpoint.detector.memory.scope, samples=record.memory_samples, search=search.as_dict()
            ),
            tools=record.tools | {"mapl-edge": __version__},
            training={"seed": record.config.seed, "steps": record.config.steps, **record.summary},
            trained_on=tuple(record.trained_on.values()),
            held_out=record.held_out,
        )
        fused, split = (_proved(open_bundle(work), graph, open_engine) for graph in ("fused", "split"))
    return fused, split


def _proved(bundle: Bundle, graph: Graph, open_engine: OpenEngine) -> Parity:
    engine = open_engine(plain_engine(bundle, graph=graph))
    try:
        return require_parity(engine, bundle.golden())
    finally:
        engine.close()


def _write_jpeg(path: Path, picture: UInt8Array) -> None:
    path.parent.mkdir(exist_ok=True)
    _, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 92])
    path.write_bytes(jpeg.tobytes())
