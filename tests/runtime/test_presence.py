"""Presence: one trigger for each part that goes by, whatever belt, light and neighbours do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mapl_edge.arrays import UInt8Array
from mapl_edge.calibration import Limits
from mapl_edge.config import PresenceConfig
from mapl_edge.contract import InputContract
from mapl_edge.errors import CameraError
from mapl_edge.frame import Frame
from mapl_edge.runtime import Inspection, Inspector, TriggeredSource, Triggers, run, source_from_uri
from mapl_edge.runtime.presence import ALONG, CENTRED, FROZEN, LEARN, STANDS, STILL, Presence
from mapl_edge.testing import FakeEngine, ManualClock
from mapl_edge.verdict import Outcome

H, W = 32, 128
CELL = 1 / ALONG


class Belt:
    """A drawn belt: parts as plates on a rough ground, in picture widths; a sensor with noise, a lamp that flickers.

    Args:
        parts: (start, length) of each, along the belt; they move by `at`, which is 0 where nothing has come yet.
    """

    def __init__(self, parts: list[tuple[float, float]], flicker: float = 0.0, level: int = 130, seed: int = 0) -> None:
        self._parts, self._flicker, self._level = parts, flicker, level
        self._rng = np.random.default_rng(seed)
        self._ground = self._rng.normal(60, 3, (H, W, 3))
        self._seq = 0

    def frame(self, at: float) -> Frame:
        """The belt having moved so far."""
        scene = self._ground.copy()
        for start, length in self._parts:
            low, high = (round((edge + at) * W) for edge in (start, start + length))
            scene[6:-6, max(0, low) : max(0, high)] = self._level
        scene = scene * (1 + self._flicker * self._rng.uniform(-1, 1)) + self._rng.normal(0, 2, scene.shape)
        self._seq += 1
        image = np.clip(scene, 0, 255).astype(np.uint8)
        return Frame(image, self._seq - 1, self._seq / 30, ManualClock().utc(), f"{at:.4f}")


def queued(lengths: list[float], gaps: list[float]) -> list[tuple[float, float]]:
    """Parts one behind the other, left of the picture; they come in as the belt moves right."""
    parts, edge = [], 0.0
    for length, gap in zip(lengths, gaps, strict=True):
        parts.append((edge - length, length))
        edge -= length + gap
    return parts


def watch(presence: Presence, belt: Belt, path: list[float]) -> list[tuple[float, str]]:
    """Where the belt was in each part's picture, and what was wrong."""
    found = []
    for at in [0.0] * LEARN + path:
        found += [(float(seen.frame.name), seen.problem) for seen in presence.look(belt.frame(at))]
    return found


def furthest_off(queue: list[tuple[float, float]], chosen: list[float], path: list[float]) -> float:
    """By how much a part's picture is farther from the middle than its nearest one; in picture widths.

    Of frames up to the first that is past the middle, and beyond what a cell can tell: then a part is decided.
    """
    worst = 0.0
    for (start, length), at in zip(queue, chosen, strict=True):
        ahead = [0.5 - (start + length / 2 + each) for each in path]
        decided = next((i for i, each in enumerate(ahead) if each < -CELL), len(path))
        nearest = min(map(abs, ahead[: decided + 1]))
        worst = max(worst, abs(0.5 - (start + length / 2 + at)) - nearest)
    return worst


LENGTHS, GAPS = st.floats(0.15, 0.8), st.floats(0.15, 1.0)


@settings(max_examples=30, deadline=None)
@given(
    parts=st.lists(st.tuples(LENGTHS, GAPS), min_size=1, max_size=6),
    share=st.floats(0.03, 0.4),
    stops=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 40)), max_size=4),
    back=st.lists(st.floats(0, 1), max_size=2),
    flicker=st.floats(0, 0.08),
    seed=st.integers(0, 99),
)
@example([(0.15625, 0.34375), (0.5, 1.0)], 0.1953125, [(0.25, 18)], [0.5], 0.0, 0)  # it stands with the twitch
@example([(0.3125, 0.75), (0.5, 0.53125)], 0.125, [(0.25, 18)], [0.5], 0.0, 0)  # the first one triggers standing
def test_every_part_triggers_once_in_the_frame_nearest_to_the_middle(
    parts: list[tuple[float, float]],
    share: float,
    stops: list[tuple[float, int]],
    back: list[float],
    flicker: float,
    seed: int,
) -> None:
    """By the drawing's own truth; belts stop anywhere for any time, twitch back, and the lamp flickers.

    What stands so near to the middle that it triggers there may be as far off as that.
    """
    lengths, gaps = [length for length, _ in parts], [gap for _, gap in parts]
    queue = queued(lengths, gaps)
    speed = min(share * min(length + gap for length, gap in parts), 0.3)  # less than half of the smallest pitch
    path = list(np.arange(0.0, 1.3 - queue[-1][0], speed))
    for place, frames in stops:
        i = int(place * (len(path) - 1))
        path[i:i] = [path[i]] * frames
    for place in back:
        i = int(place * (len(path) - 1))
        path[i:i] = [path[i] - 0.02] * 2
    presence = Presence(PresenceConfig(), tell=lambda line: None)

    found = watch(presence, Belt(queue, flicker, seed=seed), path)

    assert [problem for _, problem in found if problem] == []
    assert len(found) == len(parts)
    stood = speed < STILL or any(np.ptp(path[i : i + STANDS + 1]) <= STILL + CELL for i in range(len(path) - STANDS))
    off = furthest_off(queue, [at for at, _ in found], path)
    assert off <= (CENTRED + STILL if stood else 0.0) + 3 * CELL


@settings(max_examples=25, deadline=None)
@given(
    parts=st.lists(st.tuples(st.floats(0.15, 1.0), GAPS), min_size=1, max_size=5),
    share=st.floats(0.1, 0.4),
    jitter=st.floats(0, 0.8),
    lost=st.floats(0, 0.3),
    flicker=st.floats(0, 0.08),
    seed=st.integers(0, 99),
)
def test_the_nearest_frame_is_taken_whatever_speed_jitter_and_lost_frames(
    parts: list[tuple[float, float]], share: float, jitter: float, lost: float, flicker: float, seed: int
) -> None:
    """No frame of a part is nearer to the middle than its picture by more than cells can tell.

    The belt goes by a step of its own from frame to frame, and frames are lost, never two in a row.
    """
    lengths, gaps = [length for length, _ in parts], [gap for _, gap in parts]
    queue, rng = queued(lengths, gaps), np.random.default_rng(seed)
    speed = min(share * min(length + gap for length, gap in parts), 0.3) / 2 / (1 + jitter)  # twice where one is lost
    steps = speed * (1 + jitter * rng.uniform(-1, 1, int((1.5 - queue[-1][0]) / (speed * (1 - jitter))) + 10))
    drawn = [0.0, *np.cumsum(steps)]
    gone = rng.random(len(drawn)) < lost
    path = [at for i, at in enumerate(drawn) if not gone[i] or (i and gone[i - 1])]
    presence = Presence(PresenceConfig(), tell=lambda line: None)

    found = watch(presence, Belt(queue, flicker, seed=seed), path)

    assert [problem for _, problem in found] == [""] * len(parts)
    assert furthest_off(queue, [at for at, _ in found], path) <= 3 * CELL


def test_the_nearest_frame_may_be_the_one_before_the_middle_or_behind_it() -> None:
    """By a belt that goes faster or slower than it did: no speed seen before tells which of the two."""
    for path, nearest in (
        ([0.1, 0.3, 0.5, 0.66, 0.92, 1.2, 1.5], 0.66),  # ahead by 0.04, then past by 0.22
        ([0.1, 0.3, 0.5, 0.62, 0.72, 1.0, 1.3], 0.72),
        ([0.1, 0.3, 0.5, 0.68, 0.70, 1.0, 1.3], 0.70),  # slower of a sudden
    ):
        presence = Presence(PresenceConfig(), tell=lambda line: None)

        assert watch(presence, Belt([(-0.4, 0.4)]), path) == [(nearest, "")]


def test_what_stands_before_the_middle_and_goes_on_has_a_fresh_picture() -> None:
    """Its deadline counts from its picture's capture, so of frames that are as near the newest is it."""
    presence = Presence(PresenceConfig(), tell=lambda line: None)
    belt, before = Belt([(-0.4, 0.4)]), [0.1, 0.3, 0.5, *[0.66] * (STANDS - 5)]
    for at in [0.0] * LEARN + before:
        assert presence.look(belt.frame(at)) == []

    (seen,) = presence.look(belt.frame(0.9))

    assert seen.frame.seq == LEARN + len(before) - 1


def test_a_part_that_is_lost_from_sight_at_the_middle_has_its_nearest_frame() -> None:
    """The belt goes on, so it must have passed: no error, and no waiting for it."""
    presence = Presence(PresenceConfig(), tell=lambda line: None)
    belt = Belt([(-0.4, 0.4)])
    for at in [0.0] * LEARN + [0.2, 0.4, 0.65]:
        assert presence.look(belt.frame(at)) == []

    (seen,) = presence.look(belt.frame(3.0))

    assert (seen.frame.name, seen.problem) == ("0.6500", "")
    assert [presence.look(belt.frame(3.0)) for _ in range(5)] == [[]] * 5


@settings(max_examples=20, deadline=None)
@given(parts=st.lists(st.tuples(LENGTHS, st.floats(0.6, 1.5)), min_size=1, max_size=5), speed=st.floats(0.3, 0.45))
@example(parts=[(0.1875, 0.625), (0.5, 1.0)], speed=0.4375)  # the second's front is nearer to the first than it itself
@example(parts=[(0.43, 1.36), (0.32, 1.45), (0.22, 1.29), (0.16, 0.81)], speed=0.4306)  # the last comes up behind it
def test_on_a_fast_line_no_part_is_silent(parts: list[tuple[float, float]], speed: float) -> None:
    """Where a part is seen once or twice in all, it has its trigger or a line that says why not; none is skipped."""
    queue = queued([length for length, _ in parts], [gap for _, gap in parts])
    path = list(np.arange(0.0, 1.3 - queue[-1][0] + 5 * speed, speed))
    seen = [any(start + at < 0.9 and start + length + at > 0.1 for at in path) for start, length in queue]
    presence = Presence(PresenceConfig(), tell=lambda line: None)

    found = watch(presence, Belt(queue), path)

    assert len(found) == sum(seen)


@pytest.mark.parametrize(
    "motion",
    [
        "conveyor=0.05",
        "conveyor=0.01",
        "conveyor=0.3",
        "conveyor=0.05&dwell=25",
        "conveyor=0.05&pitch=1",
        "conveyor=0.2&pitch=1.1&flicker=0.08",
        "conveyor=0.05&flicker=0.09&faults=drop:0.1",
        "conveyor=0.05&faults=corrupt:0.05",
    ],
)
def test_the_lines_parts_trigger_once_each_by_name(motion: str) -> None:
    """The frame that triggers shows the part, not its neighbour or the belt."""
    presence = Presence(PresenceConfig(), tell=lambda line: None)
    source = source_from_uri(f"line:?parts=6&size=96&seed=3&{motion}", ManualClock())

    names = [
        seen.frame.name[:6] + seen.problem
        for shot in source.shots()
        if isinstance(shot, Frame)
        for seen in presence.look(shot)
    ]

    assert names == [f"{index:06d}" for index in range(6)]


@pytest.mark.parametrize("axis", ["x", "y"])
@pytest.mark.parametrize("way", [1, -1], ids=["forth", "back"])
def test_parts_may_come_from_any_side(axis: str, way: int) -> None:
    """Nobody has to say from which; only along which axis."""
    turn: Callable[[UInt8Array], UInt8Array] = {
        ("x", 1): lambda image: image,
        ("x", -1): lambda image: image[:, ::-1],
        ("y", 1): lambda image: image.transpose(1, 0, 2),
        ("y", -1): lambda image: image.transpose(1, 0, 2)[::-1],
    }[axis, way]
    presence = Presence(PresenceConfig(axis=axis), tell=lambda line: None)  # type: ignore[arg-type]
    belt = Belt(queued([0.4, 0.3], [0.2, 0.2]))
    found = []
    for at in [0.0] * LEARN + list(np.arange(0, 2.4, 0.05)):
        frame = belt.frame(at)
        turned = Frame(turn(frame.image).copy(), frame.seq, frame.t_mono, frame.captured_at)
        found += [seen.problem for seen in presence.look(turned)]

    assert found == ["", ""]


def test_a_part_that_stands_triggers_once_and_again_only_after_it_has_left() -> None:
    """A robot lays it into the middle, takes it away, and lays the next one."""
    presence = Presence(PresenceConfig(), tell=lambda line: None)
    belt, without = Belt([(0.3, 0.4)], flicker=0.05), Belt([], flicker=0.05)
    without._ground = belt._ground

    def show(which: Belt, frames: int) -> list[str]:
        return [seen.problem for _ in range(frames) for seen in presence.look(which.frame(0))]

    show(without, LEARN)
    first, gone, second = show(belt, 300), show(without, 10), show(belt, 300)

    assert (first, gone, second) == ([""], [], [""])


def test_what_leaves_before_its_frame_came_is_said() -> None:
    """A hand, or a part taken off the belt: no silent skip."""
    presence = Presence(PresenceConfig(), tell=lambda line: None)
    belt = Belt(queued([0.3], [0.2]))

    found = watch(presence, belt, [0.1, 0.2, 0.25, 0.2, 0.1] + [0.0] * 8)

    assert len(found) == 1
    assert "left again before it had reached the middle" in found[0][1]


OUTAGES = [(0.47, 0.52), (0.45, 0.2), (0.55, 0.4), (0.6, 0.45), (0.7, 0.1), (0.55, 0.36), (0.3, 0.1), (0.42, 0.6)]


def outage(before: float, after: float, away_s: float, live: bool = True) -> list[str]:
    """What triggers once a part's middle was seen at `before`, the camera was away, and then one's is at `after`."""
    presence, found = Presence(PresenceConfig(), tell=lambda line: None), []
    belt, away = Belt([(-0.3, 0.2), (-1.8, 0.2)]), 0.0
    first, second = [*np.arange(0.0, 1.7, 0.05)], [*np.arange(1.7, before + 1.7 + 1e-6, 0.05)]
    for at in [0.0] * LEARN + first + second + [None] + [*np.arange(after + 1.7, 3.1, 0.05)]:
        if at is None:
            away, found = away_s, [f"{len(found)} before"]
            continue
        frame = belt.frame(at)
        found += [
            seen.problem or seen.frame.name for seen in presence.look(replace(frame, t_mono=frame.t_mono + away), live)
        ]
    return found


@pytest.mark.parametrize(("before", "after"), OUTAGES)
def test_after_an_outage_parts_are_followed_anew(before: float, after: float) -> None:
    """What is there then is another part: it has its trigger, of its own picture; one that had none before is told."""
    told, *lost, triggered = outage(before, after, away_s=600.0)

    assert told == ("1 before" if before < 0.5 else "2 before")
    assert len(lost) == (before < 0.5)
    assert all("last seen at" in line and "camera gave no frame for 600 s" in line for line in lost)
    assert abs(float(triggered) - 1.7 - max(after, 0.5)) < 0.04


@pytest.mark.parametrize(("away_s", "live"), [(0.3, True), (600.0, False)], ids=["late frames", "a file"])
def test_a_pause_is_no_outage(away_s: float, live: bool) -> None:
    """The network's hiccup delays frames and loses none; nor does a file, which waits for the engine."""
    assert len(outage(0.3, 0.35, away_s, live)) == 2
    assert outage(0.7, 0.75, away_s, live) == ["2 before"]


def test_a_camera_that_becomes_slow_has_no_outage_in_every_frame() -> None:
    """At night it may expose for a second."""
    presence, found = Presence(PresenceConfig(), tell=lambda line: None), []
    belt = Belt([(-0.3, 0.2), (-1.3, 0.2)])
    for n, at in enumerate([0.0] * 2 * LEARN + [*np.arange(0.0, 2.6, 0.05)]):
        frame = belt.frame(at)
        t_mono = frame.t_mono if n < LEARN else 1.5 * n
        found += [seen.problem for seen in presence.look(replace(frame, t_mono=t_mono))]

    assert found == ["", ""]


def test_light_that_fades_over_a_day_is_followed() -> None:
    """From full to a third, and parts still trigger once."""
    presence = Presence(PresenceConfig(), tell=lambda line: None)
    belt = Belt(queued([0.4] * 4, [3.0] * 4))
    found: list[str] = []
    path = [0.0] * LEARN + list(np.arange(0, 14, 0.02))
    for n, at in enumerate(path):
        frame = belt.frame(at)
        image = cv2.convertScaleAbs(frame.image, alpha=1 - 0.66 * n / len(path))
        faded = Frame(np.asarray(image, np.uint8), n, n / 30, frame.captured_at)
        found += [seen.problem for seen in presence.look(faded)]

    assert found == [""] * 4


def test_a_given_background_needs_no_empty_belt_at_the_start(tmp_path: Path) -> None:
    """A station may start with a part in the picture; a picture of another size is told."""
    belt, path = Belt([(0.05, 0.3)]), tmp_path / "empty.png"
    cv2.imwrite(str(path), np.clip(belt._ground, 0, 255).astype(np.uint8))
    presence = Presence(PresenceConfig(background=path), tell=lambda line: None)
    found = [seen.problem for at in np.arange(0, 1.2, 0.05) for seen in presence.look(belt.frame(at))]
    other = Presence(PresenceConfig(background=path), tell=lambda line: None)
    small = Frame(np.zeros((32, 32, 3), np.uint8), 0, 0.0, ManualClock().utc())

    assert found == [""]
    with pytest.raises(CameraError, match=r"empty\.png is 128x32 px, the camera's pictures are 32x32 px"):
        other.look(small)
    with pytest.raises(CameraError, match="presence looks at x 0 to 100"):
        Presence(PresenceConfig(roi=(0, 0, 100, 10))).look(small)


def test_only_the_roi_counts() -> None:
    """People walk through the rest of the picture."""
    presence = Presence(PresenceConfig(roi=(0, 0, W, 6)), tell=lambda line: None)  # above the plates

    assert watch(presence, Belt(queued([0.4], [0.2])), list(np.arange(0, 1.5, 0.05))) == []


def test_what_stands_for_long_and_a_frozen_picture_are_told() -> None:
    """A wrongly learned belt or a dead sensor would let parts go by unseen."""
    told: list[str] = []
    presence = Presence(PresenceConfig(), tell=told.append)
    belt = Belt(queued([0.4], [0.2]))

    watch(presence, belt, [*np.arange(0, 0.7, 0.05), *[0.7] * 2000])
    frozen = belt.frame(0.7)
    for _ in range(2 * FROZEN):
        presence.look(frozen)

    assert len(told) == 3
    assert "something stands at 30% to 70% for 60 s" in told[1]
    assert "150 pictures in a row are the same" in told[2]


@pytest.mark.parametrize(("n", "times"), [(0, 0), (LEARN - 1, 1), (LEARN, 0)])
def test_a_source_too_short_to_learn_the_belt_is_told_once(n: int, times: int) -> None:
    """Else nobody knows why a picture with a part got no verdict."""
    told: list[str] = []
    presence = Presence(PresenceConfig(), tell=told.append)
    frame = Belt([]).frame(0.0)
    for _ in range(n):
        presence.look(frame)

    for _ in range(2):
        presence.end()

    assert sum(f"the source ended after {n} frames" in line for line in told) == times


class Kept:
    """A sink that keeps inspections."""

    def __init__(self) -> None:
        self.inspections: list[Inspection] = []

    def emit(self, inspection: Inspection) -> None:
        """See `Sink`."""
        self.inspections.append(inspection)

    def close(self) -> None:
        """See `Sink`."""


@pytest.mark.parametrize("live", ["", "&fps=200"], ids=["every frame", "live"])
def test_a_run_has_one_verdict_for_each_part(live: str) -> None:
    """From the frame that triggered, counted by triggers; none is a picture of the belt."""
    triggers, kept = Triggers(), Kept()
    camera = source_from_uri(f"line:?parts=4&size=64&seed=3&conveyor=0.1{live}")
    source = TriggeredSource(camera, triggers, 1.0, presence=Presence(PresenceConfig(), tell=lambda line: None))
    inspector = Inspector(FakeEngine(), InputContract(size_hw=(32, 32)), Limits(fail=0.9))

    summary = run(source, inspector, [triggers, kept])

    verdicts = [inspection.verdict for inspection in kept.inspections]
    assert [(v.seq, v.name[:6], v.outcome) for v in verdicts] == [(n, f"{n:06d}", Outcome.PASS) for n in range(4)]
    assert summary.frames == 4
    assert source.camera_is_live == bool(live)


def test_parts_that_come_faster_than_verdicts_are_overrun_not_skipped() -> None:
    """The queue is bounded; each of them has its verdict."""
    triggers, kept, go_on = Triggers(most=2), Kept(), threading.Event()
    camera = source_from_uri("line:?parts=6&size=64&seed=3&conveyor=0.2&fps=500")
    source = TriggeredSource(camera, triggers, 60.0, presence=Presence(PresenceConfig(), tell=lambda line: None))

    def slow(picture: UInt8Array) -> float:
        assert go_on.wait(30)
        return 0.1

    inspector_of = partial(Inspector, contract=InputContract(size_hw=(32, 32)), limits=Limits(fail=0.9))
    running = threading.Thread(target=run, args=(source, inspector_of(FakeEngine(slow)), [triggers, kept]))
    running.start()
    source._thread.join(30)
    go_on.set()
    running.join(30)

    outcomes = [inspection.verdict.outcome for inspection in kept.inspections]
    assert len(outcomes) == 6
    assert outcomes.count(Outcome.PASS) == 3, "one in the engine, two in the queue"
    assert outcomes[3:] == [Outcome.ERROR] * 3
    assert "overrun" in (kept.inspections[-1].verdict.error or "")
