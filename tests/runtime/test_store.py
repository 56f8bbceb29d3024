"""The store: nothing acknowledged is lost, every trigger is accounted for, and the disk may be as full as it likes."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import count, islice
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from mapl_edge.calibration import Limits
from mapl_edge.cli import app
from mapl_edge.config import StoreConfig
from mapl_edge.contract import InputContract
from mapl_edge.errors import DataError, OutputError
from mapl_edge.frame import Frame
from mapl_edge.picture import picture_from_file
from mapl_edge.runtime import (
    Blank,
    Inspection,
    Inspector,
    RunIdentity,
    Store,
    open_store,
    run,
    store_database,
    store_pictures,
    store_retention,
)
from mapl_edge.runtime import store as store_module
from mapl_edge.runtime.history import Wanted, open_history
from mapl_edge.runtime.ledger import STOPPED
from mapl_edge.runtime.store import FLUSH_S
from mapl_edge.runtime.store_batch import Batch
from mapl_edge.runtime.store_database import BUSY_S, DATABASE, MIGRATIONS, connect
from mapl_edge.testing import FakeEngine, ManualClock
from mapl_edge.verdict import Outcome, StageTimes, Verdict

LIMITS = Limits(fail=0.5)
CONFIG = StoreConfig(min_free_mb=0)
SCORES = {Outcome.PASS: 0.1, Outcome.REVIEW: 0.4, Outcome.FAIL: 0.9}


def opened(
    folder: Path, name: str = "r1", config: StoreConfig = CONFIG, clock: ManualClock | None = None, camera: str = "c"
) -> Store:
    """A store for one run."""
    return open_store(folder, RunIdentity(name, camera, "bundle", "calibration", "fake", LIMITS), config, clock)


def blank(seq: int, clock: ManualClock) -> Blank:
    """A shot without a picture."""
    return Blank(seq, clock.monotonic(), clock.utc(), f"{seq}", "no picture")


def given_verdict(shot: Blank, outcome: Outcome = Outcome.PASS) -> Inspection:
    """A verdict for it."""
    verdict = Verdict(outcome, shot.seq, shot.name, shot.captured_at, SCORES.get(outcome), 0.5, StageTimes(compute=3))
    return Inspection(verdict, shot, None)


def answer(store: Store, clock: ManualClock, *seqs: int, outcome: Outcome = Outcome.PASS) -> None:
    """Trigger and verdict of some shots."""
    for seq in seqs:
        store.expect(blank(seq, clock))
        store.emit(given_verdict(blank(seq, clock), outcome))


def frame(seq: int, clock: ManualClock, grey: int = 200, side: int = 32) -> Frame:
    """A picture with noise: PNG cannot make it small."""
    image = np.random.default_rng(seq).integers(grey - 50, grey + 50, (side, side, 3), dtype=np.uint8)
    return Frame(image, seq, clock.monotonic(), clock.utc(), f"{seq}")


def inspector(clock: ManualClock) -> Inspector:
    """Fails above a grey of 127."""
    return Inspector(FakeEngine(), InputContract(size_hw=(32, 32)), LIMITS, clock)


def entries(folder: Path, **wanted: object) -> list[tuple[int, Outcome]]:
    """What the store holds, read as others read it."""
    with open_history(folder) as history:
        return [(entry.seq, entry.verdict) for entry in history.entries(Wanted(**wanted))]  # type: ignore[arg-type]


def pictures(folder: Path) -> list[str]:
    """Names of the files that are there."""
    return sorted(path.name for path in folder.glob("pictures/*/*"))


class Frames:
    """A source of frames with rejects in between."""

    live = False

    def __init__(self, clock: ManualClock, n: int) -> None:
        self._clock, self._n = clock, n

    def shots(self):  # type: ignore[no-untyped-def]
        for seq in range(self._n):
            self._clock.advance(0.1)
            yield frame(seq, self._clock, 200 if seq % 4 == 3 else 60)

    def close(self) -> None: ...


def test_a_run_is_kept_whole(tmp_path: Path) -> None:
    """Every verdict with its stamps, times and digests; rejects and the first of every so many passes with pictures."""
    clock = ManualClock()
    store = opened(tmp_path, config=StoreConfig(min_free_mb=0, pass_every=4), clock=clock)

    run(Frames(clock, 12), inspector(clock), [store])

    assert str(store.ledger()) == ("run r1, camera c: 12 triggers = 9 PASS + 0 REVIEW + 3 FAIL + 0 LATE + 0 ERROR")
    with open_history(tmp_path) as history:
        kept = list(history.entries(Wanted()))
    assert [entry.seq for entry in kept] == list(range(12))
    assert [e.seq for e in kept if e.stored_picture] == [0, 3, 5, 7, 10, 11]
    fail = kept[3]
    assert (fail.run, fail.camera, fail.bundle, fail.calibration, fail.engine) == (
        "r1", "c", "bundle", "calibration", "fake",
    )  # fmt: skip
    assert (fail.verdict, fail.threshold, fail.latency_ms) == (Outcome.FAIL, 0.5, 0.0)
    assert fail.captured_at == ManualClock().utc().replace(microsecond=400_000)
    assert set(fail.stage_ms) >= {"queue", "prepare", "compute", "judge"}
    assert fail.stored_picture is not None
    assert fail.stored_map is not None
    np.testing.assert_array_equal(picture_from_file(fail.stored_picture), frame(3, clock).image)
    assert picture_from_file(fail.stored_map).shape == (32, 32, 3)
    json.dumps(fail.as_json())
    assert list(tmp_path.glob(".run-*")) == []


def test_a_flushed_verdict_is_on_the_disk(tmp_path: Path) -> None:
    """Acknowledged: another process can read it while the station goes on."""
    clock = ManualClock()
    with opened(tmp_path, clock=clock) as store:
        answer(store, clock, 0)
        store.flush()

        assert entries(tmp_path) == [(0, Outcome.PASS)]
        assert store.ledger().running


def test_a_name_that_is_not_utf8_is_kept(tmp_path: Path) -> None:
    """File names on Linux are bytes."""
    clock = ManualClock()
    shot = Blank(0, clock.monotonic(), clock.utc(), "Teil-\udcff.png", "cannot be read: Teil-\udcff.png")
    with opened(tmp_path, clock=clock) as store:
        store.expect(shot)
        store.emit(inspector(clock).inspect(shot))

    with open_history(tmp_path) as history:
        (kept,) = history.entries(Wanted())
    assert kept.picture == "Teil-\\udcff.png"


def test_kills_lose_nothing_acknowledged(tmp_path: Path) -> None:
    """50 SIGKILLs at random moments: accounts balance at each start, no verdict is twice, another start adds none."""
    script = Path(__file__).with_name("kill_store.py")

    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), "1"], capture_output=True, text=True, check=False, timeout=240
    )

    assert done.returncode == 0, done.stderr
    first, second = json.loads(done.stdout)
    assert first == second
    assert first["acknowledged"] > 50
    wrong = ("alarms", "lost", "twice", "half_files", "locks")
    assert {key: first[key] for key in wrong if first[key]} == {}
    assert first["balanced"]
    assert first["pictures_known"]
    assert 0 < first["stopped"] <= 50, "one shot at most is in flight at a kill"


def test_a_kill_after_a_runs_first_verdict_leaves_the_run_in_the_store(tmp_path: Path) -> None:
    """SIGKILL as soon as the verdict can be read: the run and its first part are there, and the account balances."""
    script = Path(__file__).with_name("kill_first.py")
    with subprocess.Popen([sys.executable, str(script), str(tmp_path)], stdout=subprocess.PIPE, text=True) as station:
        assert station.stdout is not None
        said = station.stdout.readline()
        station.kill()

    with opened(tmp_path, "r2") as store:
        account = store.ledger("r1", "c")
    assert said == "PASS\n"
    assert (account.triggers, account.balanced, account.running) == (1, True, False)
    assert entries(tmp_path, run="r1") == [(0, Outcome.ERROR)], "its verdict was not on the disk yet"


def test_a_disk_that_refuses_holds_the_first_part_for_a_moment_only(tmp_path: Path) -> None:
    """Verdicts flow, whatever the store can do."""
    clock = ManualClock()
    store = opened(tmp_path, clock=clock)
    make_full(store)
    started = time.monotonic()
    answer(store, clock, 0)
    took_s = time.monotonic() - started
    make_room(store)
    store.close()

    assert took_s < store_module.FIRST_S + 1
    assert entries(tmp_path) == [(0, Outcome.PASS)]


def abandoned(folder: Path, clock: ManualClock, *, answered: int, in_flight: int) -> None:
    """A run whose process is gone: its lock is free, and it never said goodbye."""
    store = opened(folder, "dead", clock=clock)
    answer(store, clock, *range(answered))
    for seq in range(answered, answered + in_flight):
        store.expect(blank(seq, clock))
    store.close()
    with closing(connect(folder, write=True)) as connection:
        connection.execute("UPDATE shots SET outcome = NULL, error = NULL WHERE seq >= ?", (answered,))
        connection.execute("UPDATE runs SET ended_us = NULL")


def test_shots_in_flight_become_errors_once(tmp_path: Path) -> None:
    """However often the station starts again."""
    clock = ManualClock()
    abandoned(tmp_path, clock, answered=3, in_flight=2)

    for start in range(3):
        with opened(tmp_path, f"r{start}", clock=clock) as store:
            assert store.alarms == ()
            account = store.ledger("dead", "c")
            assert account.balanced
            assert account.verdicts == {Outcome.PASS: 3, Outcome.ERROR: 2}

    with open_history(tmp_path) as history:
        stopped = list(history.entries(Wanted(verdict=Outcome.ERROR)))
    assert [(entry.seq, entry.error, entry.latency_ms) for entry in stopped] == [(3, STOPPED, None), (4, STOPPED, None)]


def test_a_run_that_lives_is_left_alone(tmp_path: Path) -> None:
    """Two cameras may share a store; one that starts must not end the other's shots."""
    clock = ManualClock()
    with opened(tmp_path, "r1", clock=clock) as first:
        first.expect(blank(0, clock))
        first.flush()

        with opened(tmp_path, "r2", clock=clock, camera="d") as second:
            assert second.ledger("r1", "c").running
        first.emit(given_verdict(blank(0, clock)))

    assert entries(tmp_path) == [(0, Outcome.PASS)]


def test_an_imbalance_is_an_alarm_with_its_numbers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A verdict that vanished from the database is missed at every start."""
    clock = ManualClock()
    with opened(tmp_path, "r1", clock=clock) as store:
        answer(store, clock, *range(8))
    with closing(connect(tmp_path, write=True)) as connection:
        connection.execute("UPDATE shots SET outcome = NULL WHERE seq IN (2, 3, 6)")
        connection.execute("DELETE FROM shots WHERE seq = 7")

    with opened(tmp_path, "r2", clock=clock) as store:
        (account,) = store.alarms

    assert account.missing == (range(2, 4), range(6, 7))
    assert "8 triggers ≠ 4 PASS" in str(account)
    assert "without a verdict: 2-3, 6" in caplog.text


def test_a_verdict_without_a_trigger_is_an_alarm(tmp_path: Path) -> None:
    """Where it came from nobody knows."""
    clock = ManualClock()
    with opened(tmp_path, clock=clock) as store:
        answer(store, clock, 0)
        store.emit(given_verdict(blank(7, clock)))

    account = store.ledger()
    assert account.unexpected == (7,)
    assert not account.balanced


@pytest.mark.parametrize("flushed", [False, True], ids=["waiting", "committed"])
def test_the_first_verdict_stands(tmp_path: Path, flushed: bool) -> None:
    """What comes after a verdict went out changes nothing."""
    clock = ManualClock()
    with opened(tmp_path, clock=clock) as store:
        answer(store, clock, 0)
        if flushed:
            store.flush()
        answer(store, clock, 0, outcome=Outcome.FAIL)
        store.flush()
        account = store.ledger()

    assert store.repeated == 2
    assert account.balanced
    assert entries(tmp_path) == [(0, Outcome.PASS)]


STEPS = st.lists(
    st.tuples(
        st.integers(1, 3),  # how far seq moves on: live cameras leave gaps
        st.sampled_from([*Outcome, None]),  # None: no verdict comes
        st.sampled_from(["", "flush", "late", "tidy"]),
    ),
    max_size=30,
)


@settings(max_examples=40, deadline=None)
@given(steps=STEPS, keep=st.integers(1, 40), killed=st.booleans())
def test_triggers_are_conserved(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, Outcome | None, str]], keep: int, killed: bool
) -> None:
    """Whatever the order of triggers, verdicts, commits, retention and restarts, each shot is counted once."""
    folder, clock = tmp_path_factory.mktemp("store"), ManualClock()
    store = opened(folder, config=StoreConfig(keep_verdicts=keep), clock=clock)
    seq, expected, late = -1, dict.fromkeys(Outcome, 0), []
    for step, outcome, then in steps:
        seq += step
        store.expect(blank(seq, clock))
        if outcome is None:
            expected[Outcome.ERROR] += 1
        else:
            expected[outcome] += 1
            late.append(given_verdict(blank(seq, clock), outcome))
            if then != "late":
                for inspection in late:
                    store.emit(inspection)
                late = []
        if then == "tidy":
            clock.advance(61)
        if then:
            store.flush()
    for inspection in late:
        store.emit(inspection)
    store.close()
    if killed:
        with closing(connect(folder, write=True)) as connection:
            connection.execute("UPDATE shots SET outcome = NULL WHERE error = ?", (STOPPED,))
            connection.execute("UPDATE runs SET ended_us = NULL")
        opened(folder, "r2", config=StoreConfig(keep_verdicts=keep), clock=clock).close()

    account = store.ledger()
    assert account.balanced, account
    assert account.triggers == len(steps)
    assert {o: n for o, n in account.verdicts.items() if n} == {o: n for o, n in expected.items() if n}
    assert len(entries(folder)) == len({seq for seq, _ in entries(folder)})


def test_old_verdicts_go_by_age(tmp_path: Path) -> None:
    """With their pictures; the ledger still counts them."""
    clock = ManualClock()
    with opened(tmp_path, config=StoreConfig(keep_days=2, min_free_mb=0), clock=clock) as store:
        for seq in range(4):
            store.expect(frame(seq, clock))
            store.emit(inspector(clock).inspect(frame(seq, clock)))
            store.flush(pictures=True)
            clock.advance(86400)
        store.flush()
        account = store.ledger()

    assert entries(tmp_path) == [(2, Outcome.FAIL), (3, Outcome.FAIL)]
    assert pictures(tmp_path) == ["000000002.map.jpg", "000000002.png", "000000003.map.jpg", "000000003.png"]
    assert (account.triggers, account.balanced) == (4, True)


YEAR_S = 365 * 86400.0


@pytest.mark.parametrize(
    "by_s", [-3600.0, 3600.0, -YEAR_S, 3 * YEAR_S], ids=["hour back", "hour on", "year back", "years on"]
)
def test_a_clock_that_is_set_reorders_deletes_and_doubles_nothing(
    tmp_path: Path, by_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Daylight saving done wrong, a time server, a dead battery: and set right again half an hour later."""
    clock = ManualClock()
    with opened(tmp_path, config=StoreConfig(keep_days=2, min_free_mb=0), clock=clock) as store:
        for seq in range(30):
            if seq in (10, 20):
                clock.set_utc(by_s if seq == 10 else -by_s)
            answer(store, clock, seq)
            store.flush()
            clock.advance(180)
        store.flush()
        account = store.ledger()
        for hour in range(3):  # the clock is right and even by now
            clock.advance(3600)
            answer(store, clock, 30 + hour)
            store.flush()

        assert account.balanced
        assert account.verdicts == {Outcome.PASS: 30}
        assert [seq for seq, _ in entries(tmp_path)] == list(range(33))
    assert caplog.text.count("the clock was set by") == 2


def test_what_is_old_by_a_wrong_clock_goes_in_its_turn(tmp_path: Path) -> None:
    """A morning recorded as 1970 goes with its neighbours, when they are old."""
    clock = ManualClock()
    with opened(tmp_path, config=StoreConfig(keep_days=2, min_free_mb=0), clock=clock) as store:
        for seq in range(6):
            clock.set_utc({2: -50 * YEAR_S, 4: 50 * YEAR_S}.get(seq, 0.0))
            answer(store, clock, seq)
            store.flush()
            clock.advance(61)
        clock.advance(86400)
        answer(store, clock, 6)
        store.flush()
        after_a_day = [seq for seq, _ in entries(tmp_path)]
        clock.advance(1.5 * 86400)
        answer(store, clock, 7)
        store.flush()
        store.flush()
        after_more = [seq for seq, _ in entries(tmp_path)]

    assert after_a_day == list(range(7))
    assert after_more == [6, 7]


def test_old_verdicts_go_by_number(tmp_path: Path) -> None:
    """The newest stay."""
    clock = ManualClock()
    with opened(tmp_path, config=StoreConfig(keep_verdicts=5), clock=clock) as store:
        answer(store, clock, *range(20))
        store.flush()
        clock.advance(61)
        store.flush()

        assert [seq for seq, _ in entries(tmp_path)] == list(range(15, 20))
        assert store.ledger().balanced


def test_two_cameras_of_one_store_delete_each_verdict_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both look at the same moment; the account of neither counts what the other deleted."""
    clock, config = ManualClock(), StoreConfig(keep_verdicts=50, min_free_mb=0)
    monkeypatch.setattr(store_retention, "CHUNK", 20)
    with (
        opened(tmp_path, config=config, clock=clock) as left,
        opened(tmp_path, config=config, clock=clock, camera="d") as right,
    ):
        for first in range(0, 600, 60):
            for store in (left, right):
                answer(store, clock, *range(first, first + 60))
            clock.advance(61)
            flushes = [threading.Thread(target=store.flush) for store in (left, right) for _ in range(4)]
            for flush in flushes:
                flush.start()
            for flush in flushes:
                flush.join()
        accounts = left.ledger(), right.ledger()

    assert len(entries(tmp_path)) < 600
    for account in accounts:
        assert account.balanced, str(account)
        assert account.verdicts == {Outcome.PASS: 600}


def test_verdicts_are_counted_once_a_minute_while_few_are_too_many(tmp_path: Path) -> None:
    """At its bound a store would otherwise count all its rows for each commit."""
    clock = ManualClock()
    with opened(tmp_path, config=StoreConfig(keep_verdicts=5), clock=clock) as store:
        answer(store, clock, *range(20))
        store.flush()
        clock.advance(61)
        store.flush()
        asked: list[str] = []
        store._database.set_trace_callback(asked.append)
        for seq in range(20, 30):
            answer(store, clock, seq)
            store.flush()
        store._database.set_trace_callback(None)

    assert [sql for sql in asked if "INSERT" in sql]
    assert not [sql for sql in asked if "count(*)" in sql]


def test_a_picture_that_cannot_be_deleted_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Told once; it goes when the disk lets it go."""
    clock, refuse, real = ManualClock(), True, os.unlink

    def unlink(path: str) -> None:
        if refuse and "000000000" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        real(path)

    monkeypatch.setattr(store_pictures.os, "unlink", unlink)
    with opened(tmp_path, config=StoreConfig(keep_pictures_mb=0.03, min_free_mb=0), clock=clock) as store:
        for seq in range(8):
            store.expect(frame(seq, clock, side=64))
            store.emit(inspector(clock).inspect(frame(seq, clock, side=64)))
            store.flush(pictures=True)
            store.flush()
        with_it = pictures(tmp_path)
        refuse = False
        clock.advance(61)
        store.flush()
        answer(store, clock, 8)
        store.expect(frame(9, clock, side=64))
        store.emit(inspector(clock).inspect(frame(9, clock, side=64)))
        for _ in range(3):
            store.flush(pictures=True)

    assert "000000000.png" in with_it
    assert "000000001.png" not in with_it
    assert "000000000.png" not in pictures(tmp_path)
    assert len(entries(tmp_path)) == 10
    assert caplog.text.count("an old picture cannot be deleted, told once: [Errno 13] Permission denied") == 1


def test_files_of_others_among_the_pictures_hold_no_start_up(tmp_path: Path) -> None:
    """After a kill the pictures of its run are gone through."""
    clock = ManualClock()
    dead = opened(tmp_path, clock=clock)
    dead.expect(frame(0, clock))
    dead.emit(inspector(clock).inspect(frame(0, clock)))
    dead.flush(pictures=True)
    with closing(sqlite3.connect(tmp_path / DATABASE)) as db, db:
        db.execute("DELETE FROM pictures")
    (place,) = tmp_path.glob("pictures/*")
    (place / "000000000 (copy).png").touch()
    (place / "\u00b2.png").touch()
    (place / "000000007.png").symlink_to("nowhere")
    (place / "000000001.png.partial").mkdir()
    os.close(dead._lock.handle)  # as the kernel does with a killed process

    with opened(tmp_path, "r2", clock=clock) as again:
        assert again.ledger("r1", "c").balanced
    assert entries(tmp_path, with_picture=True) == [(0, Outcome.FAIL)]
    assert not list(tmp_path.glob(".run-*.lock"))


def test_pictures_keep_to_their_quota(tmp_path: Path) -> None:
    """The oldest go first, and their verdicts stay."""
    clock = ManualClock()
    with opened(tmp_path, config=StoreConfig(keep_pictures_mb=0.05, min_free_mb=0), clock=clock) as store:
        for seq in range(12):
            store.expect(frame(seq, clock, side=64))
            store.emit(inspector(clock).inspect(frame(seq, clock, side=64)))
            store.flush(pictures=True)
            store.flush()

    left = list(tmp_path.glob("pictures/*/*"))
    assert 10_000 < sum(path.stat().st_size for path in left) <= 50_000
    assert max(path.name for path in left) == "000000011.png"
    assert len(entries(tmp_path)) == 12
    kept = entries(tmp_path, with_picture=True)
    assert [f"{seq:09d}.png" for seq, _ in kept] == sorted(p.name for p in left if p.suffix == ".png")


def test_names_of_pictures_are_not_interned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter's table of interned strings grows by the holes that their names leave: megabytes in a day."""
    clock, interned = ManualClock(), []
    monkeypatch.setattr(sys, "intern", lambda words: interned.append(words) or words)
    with opened(tmp_path, config=StoreConfig(keep_pictures_mb=0.02, min_free_mb=0), clock=clock) as store:
        for seq in range(10):
            store.expect(frame(seq, clock))
            store.emit(inspector(clock).inspect(frame(seq, clock)))
            store.flush(pictures=True)
    names = [words for words in interned if words.startswith("00000000")]

    assert 0 < len(pictures(tmp_path)) < 2 * 10, "some were written and deleted"
    assert names == []


def test_a_full_queue_drops_the_picture_never_the_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow disk must not hold the line up; told once."""
    clock, may_write = ManualClock(), threading.Event()
    write = store_pictures.PictureWriter._write

    def slow(self: store_pictures.PictureWriter, picture: store_pictures.StoredPicture) -> None:
        assert may_write.wait(30)
        write(self, picture)

    monkeypatch.setattr(store_pictures.PictureWriter, "_write", slow)
    monkeypatch.setattr(store_module, "QUEUE_BYTES", 3 * 32 * 32 * 3)
    with opened(tmp_path, clock=clock) as store:
        for seq in range(20):
            store.expect(frame(seq, clock))
            store.emit(inspector(clock).inspect(frame(seq, clock)))
        may_write.set()

    assert len(entries(tmp_path)) == 20
    assert store.dropped_pictures >= 16
    assert len(pictures(tmp_path)) == 2 * (20 - store.dropped_pictures)


def test_a_disk_that_refuses_pictures_keeps_verdicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No half file stays; told once, not for each."""
    clock = ManualClock()

    def full(path: str, mode: str) -> IO[bytes]:
        Path(path).touch()
        return open("/dev/full", "wb")

    monkeypatch.setattr(store_pictures, "open", full, raising=False)
    with opened(tmp_path, clock=clock) as store:
        for seq in range(5):
            store.expect(frame(seq, clock))
            store.emit(inspector(clock).inspect(frame(seq, clock)))

    assert store.dropped_pictures == 5
    assert pictures(tmp_path) == []
    assert len(entries(tmp_path)) == 5
    assert caplog.text.count("pictures are dropped: No space left on device") == 1


def make_full(store: Store) -> None:
    """No page more: what SQLite then says is what it says on a full disk."""
    (pages,) = store._database.execute("PRAGMA page_count").fetchone()
    store._database.execute(f"PRAGMA max_page_count = {pages}")


def make_room(store: Store) -> None:
    """Somebody deleted something."""
    store._database.execute("PRAGMA max_page_count = 1000000")


def test_on_a_full_disk_pictures_go_and_verdicts_wait(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Kept in memory, told once, written when there is room; nothing is missing then."""
    clock = ManualClock()
    with opened(tmp_path, clock=clock) as store:
        store.expect(frame(0, clock))
        store.emit(inspector(clock).inspect(frame(0, clock)))
        store.flush(pictures=True)
        assert len(pictures(tmp_path)) == 2

        make_full(store)
        answer(store, clock, *range(1, 2000))
        for _ in range(3):
            with pytest.raises(OutputError, match="the disk is full; free some space; 1999 verdicts wait in memory"):
                store.flush()
        assert pictures(tmp_path) == []
        make_room(store)
        answer(store, clock, 2000)
        store.flush()

        assert store.ledger().balanced
        assert len(entries(tmp_path)) == 2001
    assert caplog.text.count("verdicts wait in memory") == 1
    assert caplog.text.count("written again") == 1


def test_what_comes_while_the_disk_refuses_stays_behind_what_came_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else history and retention would take the newest for the oldest."""
    clock, seqs = ManualClock(), count()
    with opened(tmp_path, clock=clock) as store:

        def no_picture_left(_: int) -> int:
            """Asked by the writing thread in the middle of its attempt."""
            answer(store, clock, next(seqs))
            return 0

        make_full(store)
        answer(store, clock, *islice(seqs, 100))
        monkeypatch.setattr(store._retention, "remove_pictures", no_picture_left)
        with pytest.raises(OutputError, match="disk is full"):
            store.flush()
        make_room(store)
        store.flush()

        assert [seq for seq, _ in entries(tmp_path)] == list(range(next(seqs)))


def test_verdicts_that_wait_are_few_objects(tmp_path: Path) -> None:
    """A thousand small ones for each stall of a disk leave memory that is free, scattered and never given back."""
    clock = ManualClock()
    with opened(tmp_path, clock=clock) as store:
        make_full(store)
        answer(store, clock, 0)
        before = sys.getallocatedblocks()
        answer(store, clock, *range(1, 5000))
        with pytest.raises(OutputError, match="5000 verdicts wait"):
            store.flush()
        objects = sys.getallocatedblocks() - before
        make_room(store)
        store.flush()

        assert store.ledger().balanced
        assert [seq for seq, _ in entries(tmp_path)] == list(range(5000))
    assert objects < 15_000  # over 50,000 where each is kept as it comes


def test_beyond_its_bound_memory_keeps_only_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger then names what was lost."""
    clock = ManualClock()
    monkeypatch.setattr(store_module, "KEPT", 500)
    with opened(tmp_path, clock=clock) as store:
        make_full(store)
        answer(store, clock, *range(2000))
        with pytest.raises(OutputError, match="500 verdicts wait"):
            store.flush()
        make_room(store)
        store.flush()
        account = store.ledger()

    assert account.triggers == 2000
    assert account.verdicts == {Outcome.PASS: 500}
    assert account.missing == (range(500, 2000),)


def test_a_disk_that_stays_full_is_told_at_the_end(tmp_path: Path) -> None:
    """With how much is lost; the next start counts the shots that were on the disk."""
    clock = ManualClock()
    store = opened(tmp_path, clock=clock)
    store.expect(blank(0, clock))
    store.flush()
    make_full(store)
    store.emit(given_verdict(blank(0, clock)))
    answer(store, clock, *range(1, 1000))

    with pytest.raises(OutputError, match="1000 verdicts are lost"):
        store.close()
    store.close()

    with opened(tmp_path, "r2", clock=clock) as again:
        assert again.ledger("r1", "c").verdicts == {Outcome.ERROR: 1}


def test_closing_waits_for_a_program_that_holds_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backup or a look into it for longer than one attempt; the verdicts that wait go in behind it."""
    clock = ManualClock()
    monkeypatch.setattr(store_database, "BUSY_S", 0.01)
    monkeypatch.setattr(store_module, "RETRY_S", 0.01)
    store = opened(tmp_path, clock=clock)
    refused = threading.Event()
    tell = store._tell_trouble
    times = count()

    def told(why: str) -> None:
        tell(why)
        if next(times) >= 3:
            refused.set()

    monkeypatch.setattr(store, "_tell_trouble", told)
    with closing(sqlite3.connect(tmp_path / DATABASE, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        answer(store, clock, *range(100))
        ending = threading.Thread(target=store.close)
        ending.start()
        assert refused.wait(10)
        other.execute("ROLLBACK")
        ending.join(10)

    assert not ending.is_alive()
    with opened(tmp_path, "r2", clock=clock) as again:
        assert again.ledger("r1", "c").verdicts == {Outcome.PASS: 100}


def test_the_service_manager_waits_longer_than_a_store_that_closes() -> None:
    """Or it kills the station while verdicts go to the disk."""
    unit = (Path(__file__).parents[2] / "deploy" / "mapl-edge.service").read_text()
    (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)

    pictures_s, verdicts_s = FLUSH_S, FLUSH_S + 2 * BUSY_S
    assert int(seconds) > pictures_s + verdicts_s


def test_a_run_is_ended_though_tidying_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the next start would call it killed."""
    clock = ManualClock()

    def refuse() -> None:
        raise sqlite3.OperationalError("disk I/O error")

    store = opened(tmp_path, clock=clock)
    answer(store, clock, 0)
    monkeypatch.setattr(store._retention, "tidy", refuse)
    store.close()

    with closing(connect(tmp_path, write=False)) as db:
        assert db.execute("SELECT count(*) FROM runs WHERE ended_us IS NULL").fetchone() == (0,)


@pytest.mark.parametrize(("code", "full"), [(errno.EDQUOT, True), (errno.ENOSPC, True), (errno.EIO, False), (0, False)])
def test_a_quota_that_is_used_up_is_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, full: bool
) -> None:
    """SQLite says "disk I/O error" of it; pictures are given up only where a file does not go on the disk either."""

    def fsync(handle: int) -> None:
        if code:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(store_database.os, "fsync", fsync)
    assert store_database.is_full(sqlite3.OperationalError("disk I/O error"), tmp_path) is full
    assert store_database.is_full(sqlite3.OperationalError("database or disk is full"), tmp_path)
    assert not store_database.is_full(sqlite3.OperationalError("database is locked"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_lost_for_hours_is_a_few_numbers() -> None:
    """One shot between two attempts on a disk that refuses: neighbours, not a list of all."""
    batch = Batch()
    for seq in range(1000):
        later = Batch({seq: ("", 0, 0.0)})
        later.lose(seq)
        batch = batch.followed_by(later)

    assert batch.lost == [range(1000)]
    assert batch.n_triggers == 1000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if (mounted := subprocess.run(mount, capture_output=True, check=False)).returncode != 0:
        pytest.skip(f"cannot mount a small disk here: {mounted.stderr.decode().strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_real_small_disk_keeps_its_verdicts(disk: Path) -> None:
    """Pictures fill it; verdicts go on at their cost."""
    clock = ManualClock()
    with opened(disk / "store", clock=clock) as store:
        for seq in range(100):
            store.expect(frame(seq, clock, side=96))
            store.emit(inspector(clock).inspect(frame(seq, clock, side=96)))
            if seq % 10 == 9:
                store.flush(pictures=True)
        account = store.ledger()
        assert account.balanced
        assert account.triggers == 100
        assert store.dropped_pictures > 0


def test_a_start_on_a_full_disk_gives_pictures_up(disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A station that comes back after a power cut does not wait for somebody who cleans up."""
    clock = ManualClock()
    with opened(disk / "store", clock=clock) as store:
        for seq in range(10):
            store.expect(frame(seq, clock, side=96))
            store.emit(inspector(clock).inspect(frame(seq, clock, side=96)))
            store.flush(pictures=True)
    before = len(pictures(disk / "store"))
    free = shutil.disk_usage(disk).free
    (disk / "other").write_bytes(bytes(free - 40 * 1024))  # SQLite's index of its journal takes 32 of these

    with opened(disk / "store", "r2", clock=clock) as again:
        answer(again, clock, 0)
        again.flush()
        assert again.ledger().balanced
    assert len(pictures(disk / "store")) < before == 20
    assert caplog.text.count("the disk is full, so old pictures are given up") == 1
    assert len(entries(disk / "store")) == 11
    for entry_seq, _ in entries(disk / "store", with_picture=True):
        assert f"{entry_seq:09d}.png" in pictures(disk / "store")


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """Writing into it could spoil what a newer version wrote; not a byte is changed."""
    with opened(tmp_path):
        pass
    with closing(sqlite3.connect(tmp_path / DATABASE)) as connection:
        newer = len(MIGRATIONS) + 1
        connection.execute(f"PRAGMA user_version = {newer}")
    before = (tmp_path / DATABASE).read_bytes()

    with pytest.raises(DataError, match=rf"schema {newer} is newer than this version reads \({newer - 1}\); update"):
        opened(tmp_path, "r2")
    with pytest.raises(DataError, match="newer"), open_history(tmp_path):
        pass

    assert (tmp_path / DATABASE).read_bytes() == before


def test_an_older_schema_is_brought_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the migrations that are missing, once; readers say who does it."""
    clock = ManualClock()
    with opened(tmp_path, clock=clock) as store:
        answer(store, clock, 0)
    monkeypatch.setattr(
        "mapl_edge.runtime.store_database.MIGRATIONS", [*MIGRATIONS, ("ALTER TABLE runs ADD COLUMN note TEXT",)]
    )

    with pytest.raises(DataError, match="older"), open_history(tmp_path):
        pass
    for name in ("r2", "r3"):
        opened(tmp_path, name, clock=clock).close()

    assert entries(tmp_path) == [(0, Outcome.PASS)]


@pytest.mark.parametrize("content", ["text", "other"])
def test_a_file_of_somebody_else_is_refused(tmp_path: Path, content: str) -> None:
    """A wrong folder must not cost them their data."""
    path = tmp_path / DATABASE
    if content == "text":
        path.write_text("notes of somebody, long enough to be no database header at all")
    else:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE notes (id)")
    before = path.read_bytes()

    with pytest.raises(DataError, match=r"not a database|another program"):
        opened(tmp_path)

    assert path.read_bytes() == before


def test_a_run_has_its_own_name(tmp_path: Path) -> None:
    """Two runs of one name would share their sequence numbers."""
    opened(tmp_path).close()

    with pytest.raises(OutputError, match="give each run its own name"):
        opened(tmp_path)
    assert list(tmp_path.glob(".run-*")) == []


def test_a_reader_needs_a_store(tmp_path: Path) -> None:
    """And makes none."""
    with pytest.raises(DataError, match="mapl-edge run --store"), open_history(tmp_path):
        pass

    assert list(tmp_path.iterdir()) == []


def test_a_closed_store_takes_nothing(tmp_path: Path) -> None:
    """It would be lost."""
    clock = ManualClock()
    store = opened(tmp_path, clock=clock)
    store.close()

    with pytest.raises(OutputError, match="was closed"):
        answer(store, clock, 0)


def test_history_is_filtered(tmp_path: Path) -> None:
    """By camera, verdict, time and number, newest last."""
    clock = ManualClock()
    for camera in ("c", "d"):
        with opened(tmp_path, clock=clock, camera=camera) as store:
            for seq in range(6):
                clock.advance(60)
                answer(store, clock, seq, outcome=Outcome.FAIL if seq % 2 else Outcome.PASS)
    middle = clock.utc().replace(minute=8)

    assert [seq for seq, _ in entries(tmp_path, last=3)] == [3, 4, 5]
    assert [seq for seq, _ in entries(tmp_path, camera="c")] == list(range(6))
    assert [seq for seq, _ in entries(tmp_path, verdict=Outcome.FAIL)] == [1, 3, 5] * 2
    assert [seq for seq, _ in entries(tmp_path, since=middle, verdict=Outcome.PASS)] == [2, 4]


def test_history_says_how_many_more_there_are(tmp_path: Path) -> None:
    """The fifty newest are shown; a count on stderr, which keeps the lines on stdout whole."""
    clock = ManualClock()
    store = opened(tmp_path, clock=clock)
    answer(store, clock, *range(60))
    answer(store, clock, *range(60, 65), outcome=Outcome.FAIL)
    store.close()

    with open_history(tmp_path) as past:
        counts = [past.count(wanted) for wanted in (Wanted(), Wanted(last=3), Wanted(verdict=Outcome.FAIL))]
    ran, few = (
        CliRunner().invoke(app, ["history", str(tmp_path), "--json", *more]) for more in ([], ["--verdict", "fail"])
    )

    assert counts == [65, 65, 5]
    assert (len(ran.stdout.splitlines()), len(few.stdout.splitlines())) == (50, 5)
    assert ran.stderr == "50 of 65 shown, the newest; --last 65 for all of them\n"
    assert few.stderr == ""
