"""Where the seconds went."""

from mapl_edge.stages import Stages
from mapl_edge.testing import ManualClock


def test_each_stage_has_its_own_seconds() -> None:
    """One that comes again adds to what it took."""
    clock = ManualClock()
    stages = Stages(clock)
    for name, seconds in (("read", 1.0), ("write", 2.5), ("read", 0.5)):
        clock.advance(seconds)
        stages.end(name)

    assert stages.seconds == {"read": 1.5, "write": 2.5}
