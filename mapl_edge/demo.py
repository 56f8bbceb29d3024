"""demo: the whole way on the synthetic line: pictures, train, export, calibrate, run, report.

Beside `cli` the one module of the core that looks into the rooms: it is the five commands, called in a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from mapl_edge.bundle import Bundle, open_bundle
from mapl_edge.calibrate import calibrate_bundle
from mapl_edge.calibrate.audit import audit
from mapl_edge.calibrate.labelled import Part, labelled_from_parts
from mapl_edge.calibrate.report import Report
from mapl_edge.calibrate.shown_part import ShownPart, pictures_of
from mapl_edge.config import TrainConfig
from mapl_edge.dataset import good_samples
from mapl_edge.engine_record import plain_engine
from mapl_edge.export import bundle_from_checkpoint
from mapl_edge.files import check_absent, new_folder
from mapl_edge.frame import Frame
from mapl_edge.model.train import train
from mapl_edge.runtime import FusedEngine, Inspection, Inspector, JsonLines, engine_of, run, source_from_uri
from mapl_edge.runtime.inspector import look
from mapl_edge.testing.line import SyntheticLine
from mapl_edge.verdict import Outcome

N_TRAIN, N_CALIBRATE = 100, 300
MAX_FALSE_REJECT = 0.03
MOST_SHOWN = 10
REPORT = "report.html"


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo saw: shares of good parts passed and of defective parts failed, and where the report lies."""

    good_passed: float
    bad_failed: float
    n_good: int
    n_bad: int
    report: Path


def demo(
    out: Path,
    parts: int,
    seed: int,
    steps: int,
    overwrite: bool = False,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> DemoResult:
    """Train on the synthetic line, then inspect `parts` parts that training never saw.

    Raises:
        OutputError: `out` exists or the disk refuses.
    """
    check_absent(out, REPORT, overwrite=overwrite)
    with new_folder(out, REPORT, overwrite=overwrite) as work:
        line = SyntheticLine(seed=seed)
        next_part = line.write_mvtec(work / "data", N_TRAIN, 0, 0)
        next_part = line.write_mvtec(work / "calibration", N_CALIBRATE, 0, 0, start=next_part)
        checkpoint = train(good_samples(work / "data"), TrainConfig(seed=seed, steps=steps), progress=progress)
        (work / "model").mkdir()
        checkpoint.save(work / "model")
        progress("exporting", 0, 1)
        bundle_from_checkpoint(checkpoint, work / "part.mapl", engine_of)
        progress("exporting", 1, 1)

        bundle = open_bundle(work / "part.mapl")
        with FusedEngine(bundle.model_path) as engine:
            calibrate_bundle(
                bundle,
                good_samples(work / "calibration"),
                partial(look, engine, bundle.contract),
                MAX_FALSE_REJECT,
                progress=progress,
                engine=plain_engine(bundle).record.name,
            )
            calibration = bundle.calibration
            inspector = Inspector(engine, bundle.contract, calibration.limits, normals=calibration.scores)
            collector = _Collector(parts, progress)
            verdicts = JsonLines(work / "verdicts.jsonl", {"run": "demo", "camera": "line"})
            source = source_from_uri(f"line:?parts={parts}&seed={seed}&start={next_part}")
            run(source, inspector, [verdicts, collector])
        report = Report(
            "mapl-edge demo",
            audit(bundle, f"mapl-edge demo --parts {parts} --seed {seed} --steps {steps}", engine.name),
            calibration,
            bundle.calibration_history,
            labelled_from_parts(collector.parts),
            "the synthetic line, whose parts name their defect",
            worst_false_rejects=collector.shown(bundle, good=True, passed=False),
            worst_misses=collector.shown(bundle, good=False, passed=True),
            strongest_finds=collector.shown(bundle, good=False, passed=False),
            latency_ms=tuple(collector.latency_ms),
        )
        (work / REPORT).write_text(report.html(), encoding="utf-8")
    good = [part.outcome is Outcome.PASS for part in collector.parts if part.is_good]
    bad = [part.outcome is Outcome.FAIL for part in collector.parts if not part.is_good]
    return DemoResult(float(np.mean(good)), float(np.mean(bad)), len(good), len(bad), out / REPORT)


class _Collector:
    """A sink that keeps every verdict, and the worst parts of each sort to look at."""

    def __init__(self, total: int, progress: Callable[[str, int, int], None]) -> None:
        self.parts: list[Part] = []
        self.latency_ms: list[float] = []
        self._worst: dict[tuple[bool, bool], list[Inspection]] = {
            (True, False): [],
            (False, True): [],
            (False, False): [],
        }
        self._total, self._progress = total, progress

    def emit(self, inspection: Inspection) -> None:
        verdict = inspection.verdict
        label = verdict.name.partition("-")[2]  # the line names its parts `000017-scratch`
        if verdict.score is not None:
            part = Part(verdict.name, label, verdict.score, verdict.outcome, bool(verdict.regions))
            self.parts.append(part)
            self.latency_ms.append(verdict.stage_ms.total)
            passed = verdict.outcome is Outcome.PASS
            worst = self._worst.get((part.is_good, passed))
            if worst is not None:
                worst.append(inspection)
                worst.sort(key=lambda i: (i.verdict.score or 0.0) * (1 if passed else -1))
                del worst[MOST_SHOWN:]
        self._progress("inspecting", verdict.seq + 1, self._total)

    def close(self) -> None:
        pass

    def shown(self, bundle: Bundle, good: bool, passed: bool) -> tuple[ShownPart, ...]:
        """The worst good or defective parts that passed, or did not."""
        return tuple(
            ShownPart(
                name=i.verdict.name,
                label=i.verdict.name.partition("-")[2],
                verdict=i.verdict.outcome.value,
                score=i.verdict.score,
                p_value=i.verdict.p_value,
                sha256="",
                nearest=i.reading.nearest,
                regions=tuple(region.as_json() for region in i.verdict.regions),
                pictures=pictures_of(i.shot.image, i.reading, i.judgement, bundle),
            )
            for i in self._worst[good, passed]
            if isinstance(i.shot, Frame) and i.reading is not None
        )
