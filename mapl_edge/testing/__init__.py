"""Public test doubles: a line, a clock and an engine, for those who build on mapl-edge and for our own tests."""

from mapl_edge.testing.clock import ManualClock
from mapl_edge.testing.engine import FakeEngine
from mapl_edge.testing.line import DEFECTS, Part, SyntheticLine

__all__ = ["DEFECTS", "FakeEngine", "ManualClock", "Part", "SyntheticLine"]
