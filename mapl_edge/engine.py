"""Engine: anything that turns prepared pictures into raw scores and anomaly maps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, TypeVar

import numpy as np

from mapl_edge.arrays import AnyArray, FloatArray, UInt8Array
from mapl_edge.errors import BackendError, ContractMismatch


@dataclass(frozen=True, slots=True)
class Reading:
    """What a model says of one prepared picture, before any threshold.

    Attributes:
        score: raw anomaly score, higher is more anomalous; never clamped or rescaled.
        map: anomaly map, float32, shape (H, W) of the prepared picture, higher is more anomalous.
        nearest: index of the normal picture that the most anomalous place was compared with (Eq. 8).
    """

    score: float
    map: FloatArray
    nearest: int


class Engine(Protocol):
    """One model: a graph run by some library (`runtime`), torch (`mapl_edge.model`) or the fake in `testing`."""

    @property
    def name(self) -> str:
        """For people: library, device, precision."""
        ...

    def load(self) -> None:
        """Get ready to infer; calling it twice is harmless, and `infer` does it where nobody has."""
        ...

    def infer(self, picture: UInt8Array) -> Reading:
        """Read one prepared picture: uint8 (H, W, 3), BGR, exactly the contract's size."""
        ...

    def infer_many(self, pictures: UInt8Array) -> list[Reading]:
        """Read a batch, uint8 (B, H, W, 3), in one call."""
        ...

    def close(self) -> None:
        """Free the engine; calling it twice is harmless."""
        ...


EngineT = TypeVar("EngineT", bound="BaseEngine")


class BaseEngine(ABC):
    """What all engines share: loading once, checking what goes in and what comes out.

    Attributes:
        name: for people; what it is made from until it is loaded.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._size_hw: tuple[int, int] | None = None
        self._closed = False

    def load(self) -> None:
        """See `Engine`.

        Raises:
            BackendUnavailable: its library or device is missing.
            BackendError: the library refuses the files, or the engine was closed.
        """
        if self._closed:
            raise BackendError(f"{self.name}: was closed; make a new engine")
        if self._size_hw is None:
            self._size_hw = self._load()

    def infer(self, picture: UInt8Array) -> Reading:
        """See `Engine` and `infer_many`."""
        return self.infer_many(picture[None])[0]

    def infer_many(self, pictures: UInt8Array) -> list[Reading]:
        """See `Engine`.

        Raises:
            ContractMismatch: the pictures are not what the model takes.
            BackendError: the answer has not the shape that it must have, or the library failed.
        """
        self.load()
        assert self._size_hw is not None
        expected = *self._size_hw, 3
        if pictures.shape[1:] != expected or pictures.dtype != np.uint8:
            raise ContractMismatch(
                f"picture is {pictures.dtype} {pictures.shape[1:]}, the model takes uint8 {expected}"
            )
        scores, maps, nearest = self._answer(np.ascontiguousarray(pictures))
        b = len(pictures)
        shapes = {"score": (b,), "map": (b, *self._size_hw), "nearest": (b,)}
        for (what, shape), found in zip(shapes.items(), (scores, maps, nearest), strict=True):
            if found.shape != shape:
                raise BackendError(f"{self.name}: {what} has shape {found.shape}, expected {shape}; export again")
        return [Reading(float(scores[i]), maps[i], int(nearest[i])) for i in range(b)]

    def close(self) -> None:
        """See `Engine`."""
        if self._size_hw is not None and not self._closed:
            self._free()
        self._closed = True

    def __enter__(self: EngineT) -> EngineT:
        self.load()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _load(self) -> tuple[int, int]:
        """Load, and say the height and width of the pictures that it takes."""

    @abstractmethod
    def _answer(self, pictures: UInt8Array) -> tuple[AnyArray, AnyArray, AnyArray]:
        """Scores (B,), maps (B, H, W), nearest (B,) of uint8 (B, H, W, 3)."""

    @abstractmethod
    def _free(self) -> None: ...
