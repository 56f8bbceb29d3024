"""Run by test_store.py: a run whose first verdict leaves on stdout, and which is then killed at once.

python kill_first.py FOLDER
"""

import sys
import threading
from pathlib import Path

import numpy as np

from mapl_edge.calibration import Limits
from mapl_edge.clock import SystemClock
from mapl_edge.config import StoreConfig
from mapl_edge.contract import InputContract
from mapl_edge.frame import Frame
from mapl_edge.runtime import Inspection, Inspector, RunIdentity, Store, open_store, run, store
from mapl_edge.testing import FakeEngine


class OneFrame:
    """A source of one picture, which then stands still."""

    live = False

    def shots(self):  # type: ignore[no-untyped-def]
        """See `Source`."""
        clock = SystemClock()
        yield Frame(np.full((32, 32, 3), 50, np.uint8), 0, clock.monotonic(), clock.utc(), "first")
        threading.Event().wait(60)

    def close(self) -> None:
        """See `Source`."""


class Said:
    """A sink that says the verdict to whoever kills this process."""

    def emit(self, inspection: Inspection) -> None:
        """See `Sink`."""
        print(inspection.verdict.outcome.value, flush=True)

    def close(self) -> None:
        """See `Sink`."""


def opened(folder: Path) -> Store:
    """A store that commits by itself only after a minute, as if the kill came at the worst moment."""
    store.GROUP_S = 60.0
    return open_store(folder, RunIdentity("r1", "c", "b", "k", "fake", Limits(fail=0.5)), StoreConfig(min_free_mb=0))


if __name__ == "__main__":
    inspector = Inspector(FakeEngine(), InputContract(size_hw=(32, 32)), Limits(fail=0.5))
    run(OneFrame(), inspector, [Said(), opened(Path(sys.argv[1]))])
