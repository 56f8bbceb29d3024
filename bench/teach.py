"""How long `mapl-edge teach` takes for one part, stage by stage, from the command line to the new bundle in its place.

    python bench/teach.py bottle.mapl data/bottle/test/good/000.jpg --calibration data/bottle/train/good
                          [--calibration data/bottle/test] [--patches 50] [--rounds 5] [--json]
    python bench/teach.py bottle.mapl 17 --store store --calibration data/bottle/train/good

The bundle, which must be calibrated, is copied before each round; every round is a process of its own and teaches the
same part, a picture file or a number of the store. Beside the seconds that passed stand those of the processor: where
other work runs on the machine the first tell of that too. Stages are wall seconds; what the command does before and
after them (Python, its imports, its end) is the line "start and end". A first round is not counted: it may compile
Python files, which an installed package has compiled (so PYTHONDONTWRITEBYTECODE is taken out of the environment).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

WANTED_S = 2.0


def measure(bundle: Path, part: str, flags: list[str], rounds: int) -> list[dict[str, Any]]:
    """One dictionary a round: `whole_s`, `processor_s`, `stages_s` by name, `known_parts`, `load`."""
    found = []
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for _ in range(1 + rounds):
        with tempfile.TemporaryDirectory(
            dir=bundle.resolve().parent
        ) as folder:  # the same disk, so files can be linked
            copy = Path(folder) / "part.mapl"
            shutil.copytree(bundle, copy)
            command = [sys.executable, "-m", "mapl_edge", "teach", str(copy), "--good", part, "--json", *flags]
            load, used, started = os.getloadavg()[0], _processor_s(), time.monotonic()
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            whole, used = time.monotonic() - started, _processor_s() - used
        if done.returncode:
            sys.exit(done.stderr.strip().splitlines()[-1])
        told = json.loads(done.stdout)
        stages = {"start and end": whole - told["seconds"], **told["stages_s"]}
        known = told["known_parts"]["good"] + told["known_parts"]["defect"]
        found.append({"whole_s": whole, "processor_s": used, "stages_s": stages, "known_parts": known, "load": load})
    return found[1:]


def summary_of(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds, and the fastest whole."""
    return {
        "rounds": len(rounds),
        "known_parts": rounds[0]["known_parts"],
        "whole_s": statistics.median(one["whole_s"] for one in rounds),
        "fastest_s": min(one["whole_s"] for one in rounds),
        "processor_s": statistics.median(one["processor_s"] for one in rounds),
        "least_processor_s": min(one["processor_s"] for one in rounds),
        "load": statistics.median(one["load"] for one in rounds),
        "stages_s": {
            name: statistics.median(one["stages_s"][name] for one in rounds) for name in rounds[0]["stages_s"]
        },
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("part", help="a picture file, or a number of --store")
    parser.add_argument("--calibration", type=Path, action="append", default=[])
    parser.add_argument("--store", type=Path)
    parser.add_argument("--patches", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args()
    flags = ["--patches", str(options.patches)]
    for folder in options.calibration:
        flags += ["--calibration", str(folder)]
    if options.store is not None:
        flags += ["--store", str(options.store)]
    told = summary_of(measure(options.bundle, options.part, flags, options.rounds))
    table = Table("stage", "seconds", title=f"{options.bundle}: one part taught, median of {told['rounds']}")
    for name, seconds in told["stages_s"].items():
        table.add_row(name, f"{seconds:.2f}")
    table.add_section()
    table.add_row("whole command", f"{told['whole_s']:.2f} (fastest {told['fastest_s']:.2f}, wanted {WANTED_S:g})")
    table.add_row("processor", f"{told['processor_s']:.2f} (least {told['least_processor_s']:.2f})")
    people = Console(stderr=True)
    people.print(table)
    people.print(f"{told['known_parts']} known parts scored again; {os.cpu_count()} cores, load {told['load']:.1f}")
    if options.as_json:
        print(json.dumps(told))


def _processor_s() -> float:
    """Of all ended children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
