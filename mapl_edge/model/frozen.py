"""The frozen encoder while training: run by ONNX Runtime, about five times as fast as eager torch on a CPU."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from mapl_edge.arrays import UInt8Array
from mapl_edge.model.encoder import STRIDES

Encode = Callable[[UInt8Array], list[Tensor]]


def frozen(encoder: nn.Module, size_hw: tuple[int, int]) -> Encode:
    """A function from uint8 pictures (B, H, W, 3) to features, one (B, C, H, W) per level, without gradient."""
    program = onnx_program(_Levels(encoder), {"image": blank(size_hw)}, outputs=[f"stride{s}" for s in STRIDES])
    buffer = io.BytesIO()
    program.save(buffer)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(buffer.getvalue(), options, providers=["CPUExecutionProvider"])

    def encode(pictures: UInt8Array) -> list[Tensor]:
        return [torch.from_numpy(level) for level in session.run(None, {"image": np.ascontiguousarray(pictures)})]

    return encode


def onnx_program(model: nn.Module, inputs: Mapping[str, Tensor], outputs: list[str]) -> Any:
    """Trace a model into an ONNX program: opset 18, any batch.

    Args:
        model: put into evaluation mode.
        inputs: an example of each argument by its name, in order, with a first dimension of 2, which is the batch.
        outputs: their names.
    """
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        return torch.onnx.export(
            model.eval(),
            tuple(inputs.values()),
            dynamo=True,
            opset_version=18,
            external_data=False,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=tuple({0: batch} for _ in inputs),
            verbose=False,
        )


def blank(size_hw: tuple[int, int]) -> Tensor:
    """Two black pictures, uint8 (2, H, W, 3): an example for `onnx_program`."""
    return torch.zeros((2, *size_hw, 3), dtype=torch.uint8)


class _Levels(nn.Module):
    """The exporter wants a tuple where the encoder gives a list."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.encoder(image))
