"""Run by CI inside the lean environment: the installed wheel inspects a stream, and torch is nowhere.

python -I tests/lean_run.py BUNDLE WORK_FOLDER
"""

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

TRAINING_ONLY = ("torch", "onnx", "onnxscript", "matplotlib", "scipy", "sklearn")


def main(bundle: Path, work: Path) -> None:
    """Raise unless the lean install can run, refuses to train by name, and never loads torch."""
    for name in TRAINING_ONLY:
        assert importlib.util.find_spec(name) is None, f"{name} is installed: this is not the lean install"
    command = str(Path(sys.executable).parent / "mapl-edge")
    out = work / "verdicts.jsonl"

    started = time.monotonic()
    arguments = [str(bundle), "--source", "line:?parts=5&size=96", "--out", str(out)]
    subprocess.run([command, "run", *arguments], check=True, timeout=60)
    print(f"lean run: 5 verdicts in {time.monotonic() - started:.2f} s, start included")
    verdicts = [json.loads(line) for line in out.read_text().splitlines()]
    assert [v["seq"] for v in verdicts] == list(range(5))
    assert all(v["verdict"] in {"PASS", "FAIL"} for v in verdicts)

    refused = subprocess.run(
        [command, "train", str(bundle / "memory"), "--out", str(work / "m")], capture_output=True, text=True
    )
    assert refused.returncode == 6, refused
    assert "pip install 'mapl-edge[train]'" in refused.stderr, refused.stderr

    imported = "import sys, mapl_edge.cli, mapl_edge.runtime, mapl_edge.calibrate; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-I", "-c", imported], check=True, capture_output=True, text=True)
    assert answer.stdout.strip() == "False"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
