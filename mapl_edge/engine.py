"""Engine: anything that turns prepared pictures into raw scores and anomaly maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from mapl_edge.arrays import FloatArray, UInt8Array


@dataclass(frozen=True, slots=True)
class Reading:
    """What a model says of one prepared picture, before any threshold.

    Attributes:
        score: raw anomaly score, higher is more anomalous; never clamped or rescaled.
        map: anomaly map, float32, shape (H, W) of the prepared picture, higher is more anomalous.
        nearest: index of the memory sample that the picture was compared with (Eq. 8).
    """

    score: float
    map: FloatArray
    nearest: int


class Engine(Protocol):
    """One model, loaded: ONNX Runtime (`runtime`), torch (`mapl_edge.model`) or the fake in `testing`."""

    @property
    def name(self) -> str:
        """For people: library, device, precision."""
        ...

    def infer(self, picture: UInt8Array) -> Reading:
        """Read one prepared picture: uint8 (H, W, 3), BGR, exactly the contract's size."""
        ...

    def close(self) -> None:
        """Free the engine; calling it twice is harmless."""
        ...
