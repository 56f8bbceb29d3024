"""Triton: a bundle's fused graph as a model repository for NVIDIA's Triton Inference Server."""

from __future__ import annotations

import shutil
from pathlib import Path

from mapl_edge.bundle import Bundle
from mapl_edge.files import new_folder

MAX_BATCH = 8
CONFIG = "config.pbtxt"


def triton_from_bundle(bundle: Bundle, out: Path, *, overwrite: bool = False) -> str:
    """Write a model repository with one model, and return the model's name.

        out/
          NAME/config.pbtxt     Triton's ModelConfig in text form
          NAME/1/model.onnx     the fused graph
          repository.txt        which bundle it is from

    The server runs ONNX Runtime, or TensorRT inside it where there is a GPU; it batches what several cameras send at a
    time. Thresholds stay where they are: the client judges the raw score.

    Raises:
        OutputError: `out` exists or the disk refuses.
    """
    name = "".join(c if c.isalnum() or c in "-_" else "_" for c in bundle.path.name.removesuffix(".mapl")) or "mapl"
    with new_folder(out, "repository.txt", overwrite=overwrite) as work:
        (work / name / "1").mkdir(parents=True)
        shutil.copyfile(bundle.model_path, work / name / "1" / "model.onnx")
        (work / name / CONFIG).write_text(_config(name, *bundle.contract.size_hw), encoding="utf-8")
        (work / "repository.txt").write_text(f"mapl-edge bundle {bundle.digest}\n", encoding="utf-8")
    return name


def _config(name: str, h: int, w: int) -> str:
    """ModelConfig: https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto."""
    tensors = {
        "input": [("image", "TYPE_UINT8", f"{h}, {w}, 3")],
        # A scalar for each picture: [1] in Triton's words, reshaped to what the graph gives.
        "output": [("score", "TYPE_FP32", ""), ("map", "TYPE_FP32", f"{h}, {w}"), ("nearest", "TYPE_INT64", "")],
    }
    lines = [f'name: "{name}"', 'backend: "onnxruntime"', f"max_batch_size: {MAX_BATCH}"]
    for kind, members in tensors.items():
        parts = []
        for tensor, dtype, dims in members:
            shape = f"dims: [ {dims} ]" if dims else "dims: [ 1 ]\n    reshape { shape: [ ] }"
            parts.append(f'  {{\n    name: "{tensor}"\n    data_type: {dtype}\n    {shape}\n  }}')
        lines.append(f"{kind} [\n" + ",\n".join(parts) + "\n]")
    lines.append("dynamic_batching { max_queue_delay_microseconds: 2000 }")
    lines.append("instance_group [ { count: 1, kind: KIND_AUTO } ]")
    return "\n".join(lines) + "\n"
