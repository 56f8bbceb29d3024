"""Public test doubles for those who build on mapl-edge and for our tests: line, camera, clock, engines, CUDA."""

from mapl_edge.testing.ageing import Ageing
from mapl_edge.testing.camera import HangingDevice
from mapl_edge.testing.clock import ManualClock
from mapl_edge.testing.conveyor import Conveyor
from mapl_edge.testing.cuda import FakeCuda, FakePyCuda
from mapl_edge.testing.engine import FakeEngine
from mapl_edge.testing.faults import Faults
from mapl_edge.testing.genicam import FakeGenicam
from mapl_edge.testing.hanging import HangingEngine
from mapl_edge.testing.line import DEFECTS, Part, SyntheticLine
from mapl_edge.testing.line_server import LineServing, MjpegServer
from mapl_edge.testing.rtsp_server import RtspServer
from mapl_edge.testing.tensorrt import FakeTensorRt

__all__ = [
    "DEFECTS",
    "Ageing",
    "Conveyor",
    "FakeCuda",
    "FakeEngine",
    "FakeGenicam",
    "FakePyCuda",
    "FakeTensorRt",
    "Faults",
    "HangingDevice",
    "HangingEngine",
    "LineServing",
    "ManualClock",
    "MjpegServer",
    "Part",
    "RtspServer",
    "SyntheticLine",
]
