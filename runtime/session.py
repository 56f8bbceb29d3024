"""Session: one graph, loaded by one library. An engine is one session, or two with a search between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from mapl_edge.arrays import AnyArray


class Session(Protocol):
    """A loaded graph. Arrays have the batch first."""

    @property
    def name(self) -> str:
        """For people: library, version, device."""
        ...

    @property
    def inputs(self) -> Mapping[str, tuple[int | None, ...]]:
        """Shapes by name; None: any size."""
        ...

    def run(self, feeds: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """Outputs by name. The arrays are the caller's own until the next call.

        Raises:
            BackendError: the library failed.
        """
        ...

    def close(self) -> None:
        """Free it; calling it twice is harmless."""
        ...


OpenSession = Callable[[Path, int], Session]
"""open_session(graph file, threads); 0 threads: as many as the library likes."""
