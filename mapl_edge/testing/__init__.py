"""Public test doubles for those who build on mapl-edge and for our tests: line, clock, engine, TensorRT, CUDA."""

from mapl_edge.testing.clock import ManualClock
from mapl_edge.testing.cuda import FakeCuda, FakePyCuda
from mapl_edge.testing.engine import FakeEngine
from mapl_edge.testing.line import DEFECTS, Part, SyntheticLine
from mapl_edge.testing.tensorrt import FakeTensorRt

__all__ = ["DEFECTS", "FakeCuda", "FakeEngine", "FakePyCuda", "FakeTensorRt", "ManualClock", "Part", "SyntheticLine"]
