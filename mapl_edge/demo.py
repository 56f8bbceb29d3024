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
from mapl_edge.calibrate.report import Reject, RunRow, html_from_run
from mapl_edge.config import TrainConfig
from mapl_edge.dataset import good_samples
from mapl_edge.engine_record import plain_engine
from mapl_edge.export import bundle_from_checkpoint
from mapl_edge.files import check_absent, new_folder
from mapl_edge.frame import Frame
from mapl_edge.model.train import train
from mapl_edge.prepare import prepare
from mapl_edge.runtime import FusedEngine, Inspection, Inspector, JsonLines, engine_of, run, source_from_uri
from mapl_edge.runtime.inspector import look
from mapl_edge.testing.line import SyntheticLine
from mapl_edge.verdict import Outcome

N_TRAIN, N_CALIBRATE = 100, 300
MAX_FALSE_REJECT = 0.03
STRONGEST = 10
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
        page = html_from_run(
            "mapl-edge demo", _facts(bundle), collector.rows, bundle.calibration.limits.fail, collector.rejects(bundle)
        )
        (work / REPORT).write_text(page, encoding="utf-8")
    good = [row.outcome is Outcome.PASS for row in collector.rows if row.label == "good"]
    bad = [row.outcome is Outcome.FAIL for row in collector.rows if row.label != "good"]
    return DemoResult(float(np.mean(good)), float(np.mean(bad)), len(good), len(bad), out / REPORT)


class _Collector:
    """A sink that keeps a row of every verdict and the strongest rejects."""

    def __init__(self, total: int, progress: Callable[[str, int, int], None]) -> None:
        self.rows: list[RunRow] = []
        self._strongest: list[Inspection] = []
        self._total, self._progress = total, progress

    def emit(self, inspection: Inspection) -> None:
        verdict = inspection.verdict
        label = verdict.name.partition("-")[2]  # the line names its parts `000017-scratch`
        if verdict.score is not None:
            self.rows.append(RunRow(label, verdict.outcome, verdict.score, verdict.stage_ms.total))
        if verdict.outcome is Outcome.FAIL:
            self._strongest.append(inspection)
            self._strongest.sort(key=lambda i: -(i.verdict.score or 0.0))
            del self._strongest[STRONGEST:]
        self._progress("inspecting", verdict.seq + 1, self._total)

    def close(self) -> None:
        pass

    def rejects(self, bundle: Bundle) -> list[Reject]:
        return [
            Reject(
                f"{i.verdict.name}: score {i.verdict.score:.3f}",
                prepare(i.shot.image, bundle.contract),
                i.reading.map,
                bundle.memory_picture(i.reading.nearest),
                i.judgement,
            )
            for i in self._strongest
            if isinstance(i.shot, Frame) and i.reading is not None
        ]


def _facts(bundle: Bundle) -> list[tuple[str, str]]:
    training = bundle.manifest.training
    return [
        ("bundle", bundle.digest[:12]),
        ("trained on", f"{training['pictures']['train']} good parts in {training['seconds']:.0f} s"),
        ("memory", f"{bundle.manifest.memory.samples} of scope {bundle.manifest.memory.scope}"),
        ("limit", f"{bundle.calibration.limits.fail:.4f}"),
        ("promise", str(bundle.calibration.promise)),
    ]
