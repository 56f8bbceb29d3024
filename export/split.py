"""The split form of a model: encoder, index and decoder in three files, for memories too large for one graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from mapl_edge.arrays import UInt8Array
from mapl_edge.bundle import DECODER, ENCODER, MEMORY
from mapl_edge.export.onnx_graph import decoder_from_detector, encoder_from_detector
from mapl_edge.model.detector import Detector
from mapl_edge.search import SearchSummary, index_from_vectors, write_index


def split_from_detector(detector: Detector, folder: Path, pictures: UInt8Array) -> SearchSummary:
    """Write encoder.onnx, memory.faiss and decoder.onnx into an existing folder.

    Args:
        detector: the trained model.
        folder: where to; see `mapl_edge.files.new_folder`.
        pictures: prepared, uint8 (N, H, W, 3): what a search in a large memory is tuned and measured with. Best are
            ones that the memory does not hold; what it does hold of them is left out.

    Returns:
        What the index is and how often it finds what exact search finds, to be kept with the files.
    """
    detector.eval()
    encoder_from_detector(detector, folder / ENCODER)
    decoder_from_detector(detector, folder / DECODER)
    with torch.inference_mode():
        vectors = detector.memory.vectors().numpy()
        batches = np.array_split(pictures, -(-len(pictures) // 8)) if len(pictures) else []
        queries = [detector.memory.queries(detector.encode(torch.from_numpy(batch))).numpy() for batch in batches]
    index, summary = index_from_vectors(vectors, np.concatenate(queries) if queries else None)
    write_index(index, folder / MEMORY)
    return summary
