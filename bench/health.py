"""What the camera-health gate costs, what it stops wrongly, and what it finds.

    python bench/health.py --data data [--n-reference 40] [--json]

For each data set under --data: the reference comes from pictures of train/good, as calibrating takes it (all of them or
so many, evenly spread). Every picture of test/<label> is judged as it is, then with each fault injected. A share counts
as found whatever check found it.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mapl_edge.arrays import UInt8Array
from mapl_edge.camera_health import CameraReference, fault_in, measure, reference_from_measures
from mapl_edge.dataset import good_samples, labelled_samples
from mapl_edge.picture import picture_from_file
from mapl_edge.testing.faults import spoiled

TIMED_HW = (960, 1280)
Spoil = Callable[[UInt8Array], UInt8Array]


def _moved(image: UInt8Array, dx: float, dy: float) -> UInt8Array:
    h, w = image.shape[:2]
    by = np.array([[1, 0, dx * w], [0, 1, dy * h]], np.float32)
    return np.asarray(cv2.warpAffine(image, by, (w, h), borderMode=cv2.BORDER_REPLICATE), np.uint8)


def _light(image: UInt8Array, gain: float) -> UInt8Array:
    return np.asarray(cv2.convertScaleAbs(image, alpha=gain), np.uint8)


def _blurred(image: UInt8Array, sigma_px: float) -> UInt8Array:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma_px), np.uint8)


FAULTS: dict[str, Spoil] = {
    "lens cap": partial(_light, gain=0.02),
    "light x 1/4": partial(spoiled, kind="dark"),
    "light x 1/2": partial(_light, gain=0.5),
    "light x 2": partial(_light, gain=2.0),
    "light x 3": partial(spoiled, kind="overexposed"),
    "blur, sigma 1 px": partial(_blurred, sigma_px=1.0),
    "blur, sigma 1.5 px": partial(_blurred, sigma_px=1.5),
    "blur, sigma 2 px": partial(_blurred, sigma_px=2.0),
    "motion, 7 px across": lambda image: np.asarray(cv2.blur(image, (7, 1)), np.uint8),
    "motion, 7 px down": lambda image: np.asarray(cv2.blur(image, (1, 7)), np.uint8),
    "red and blue swapped": lambda image: image[:, :, ::-1].copy(),
    "shift 3 %": partial(_moved, dx=0.03, dy=0.0),
    "shift 5 %": partial(_moved, dx=0.0, dy=-0.05),
    "shift 8 %": partial(spoiled, kind="shift"),
    "shift 20 %": partial(_moved, dx=-0.2, dy=0.0),
    "8 px narrower": lambda image: image[:, :-8].copy(),
}


def judge_set(data: Path, n_reference: int | None) -> dict[str, Any]:
    """False faults by label, and the share found by fault, of one data set."""
    good = good_samples(data)
    if n_reference is not None and n_reference < len(good):
        good = [good[int(at)] for at in np.linspace(0, len(good) - 1, n_reference)]
    reference = reference_from_measures([measure(picture_from_file(sample.path)) for sample in good])
    labels: dict[str, dict[str, int]] = {}
    pictures = []
    for sample in labelled_samples(data):
        image = picture_from_file(sample.path)
        pictures.append(image)
        count = labels.setdefault(sample.label, {"pictures": 0, "faults": 0})
        count["pictures"] += 1
        count["faults"] += fault_in(measure(image), reference) is not None
    found = {
        name: float(np.mean([fault_in(measure(spoil(image)), reference) is not None for image in pictures]))
        for name, spoil in FAULTS.items()
    }
    untold = {check.value: why for check, why in reference.untold.items()}
    return {"n_reference": reference.n, "labels": labels, "found": found, "untold": untold}


def ms_of(image: UInt8Array, times: int = 200) -> tuple[float, float]:
    """Median and 99th percentile of measuring and judging one picture, every check on, in milliseconds."""
    reference = _full_reference(image)
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        fault_in(measure(image), reference)
        taken.append(1e3 * (time.perf_counter() - begun))
    return float(np.median(taken)), float(np.percentile(taken, 99))


def _full_reference(image: UInt8Array) -> CameraReference:
    reference = reference_from_measures([measure(image)] * 3)
    assert not reference.untold, reference.untold
    return reference


def _timed_picture() -> UInt8Array:
    """Coloured, with edges and noise, so that every check has work to do."""
    rng = np.random.default_rng(0)
    scene = cv2.resize(rng.integers(40, 200, (12, 16, 3), np.uint8), TIMED_HW[::-1], interpolation=cv2.INTER_CUBIC)
    scene = cv2.subtract(scene, np.full_like(scene, (0, 10, 30)))
    return np.asarray(cv2.add(scene, rng.integers(0, 6, scene.shape, np.uint8)), np.uint8)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of data sets; without it only the time is measured")
    parser.add_argument("--n-reference", type=int, help="pictures of train/good that the reference comes from")
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    median_ms, p99_ms = ms_of(_timed_picture())
    folders = (
        [] if options.data is None else sorted(p for p in options.data.iterdir() if (p / "test" / "good").is_dir())
    )
    sets = {folder.name: judge_set(folder, options.n_reference) for folder in folders}
    if options.as_json:
        print(json.dumps({"median_ms": median_ms, "p99_ms": p99_ms, "sets": sets}))
        return
    h, w = TIMED_HW
    print(f"{platform.machine()}, one thread, {w}x{h} px: p50 {median_ms:.2f} ms, p99 {p99_ms:.2f} ms")
    for name, figures in sets.items():
        counts = ", ".join(f"{one['faults']} of {one['pictures']} {label}" for label, one in figures["labels"].items())
        print(f"{name}, reference of {figures['n_reference']}: camera faults on {counts}")
        for check, why in figures["untold"].items():
            print(f"  no {check}: {why}")
    if sets:
        print(f"{'found of':>22} " + " ".join(f"{name:>14}" for name in sets))
    for fault in FAULTS if sets else ():
        print(f"{fault:>22} " + " ".join(f"{figures['found'][fault]:14.1%}" for figures in sets.values()))


if __name__ == "__main__":
    main()
