"""The engines' table and their parity on this machine's GPU, and FAISS on it; says so where there is none.

    python bench/gpu_check.py [part.mapl] [--out bench/results] [--data data/bottle]

Without a bundle one is made from the synthetic line. Builds the CUDA, TensorRT and TensorRT for RTX engines that can be
built here, in fp32, fp16 and int8, fused and split, proves each, and writes what `mapl-edge bench` prints to --out.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

from mapl_edge.bundle import open_bundle
from mapl_edge.engine_record import Graph, Precision
from mapl_edge.errors import MaplEdgeError
from mapl_edge.export import add_engine
from mapl_edge.runtime import engine_of
from mapl_edge.runtime.engine_choice import LIBRARIES

COMMAND = [sys.executable, "-m", "mapl_edge"]


def main() -> None:
    """Build, prove and measure; exit code 0 without a GPU, 1 if an engine that was built does not prove itself."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    parser.add_argument("--data", type=Path)
    args = parser.parse_args()

    gpu = gpu_name()
    if gpu is None:
        sys.stderr.write("no NVIDIA GPU at hand (nvidia-smi finds none): nothing to check\n")
        return
    path = args.bundle or demo_bundle()
    built, refused = engines_built(path)
    data = ["--data", str(args.data)] if args.data else []
    done = subprocess.run([*COMMAND, "bench", str(path), "--json", *data], capture_output=True, text=True, check=True)
    table: dict[str, Any] = json.loads(done.stdout)
    sys.stderr.write(done.stderr)
    unproven = [row["engine"] for row in table["engines"] if not row["proven"]]
    result = {"gpu": gpu, "machine": platform.machine(), "faiss_gpu": faiss_gpu(), "built": built, "refused": refused}
    args.out.mkdir(parents=True, exist_ok=True)
    target = args.out / f"gpu-{gpu.lower().replace(' ', '-')}.json"
    target.write_text(json.dumps(result | table, indent=1) + "\n", encoding="utf-8")
    sys.stderr.write(f"{gpu}: {len(built)} engines built, written to {target}\n")
    for name, why in refused.items():
        sys.stderr.write(f"not built: {name}: {why}\n")
    if unproven:
        sys.exit(f"not proven: {', '.join(unproven)}")


def gpu_name() -> str | None:
    """The first NVIDIA GPU by its driver's own word."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.splitlines()[0].strip() if done.stdout.strip() else None


def faiss_gpu() -> bool:
    """Whether FAISS searches on the GPU here."""
    import faiss

    return hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0


def demo_bundle() -> Path:
    """A small bundle made from the synthetic line."""
    subprocess.run([*COMMAND, "demo", "--out", "demo-gpu", "--steps", "50", "--parts", "5", "--overwrite"], check=True)
    return Path("demo-gpu/part.mapl")


def engines_built(path: Path) -> tuple[list[str], dict[str, str]]:
    """Names of the engines that were added, and why others were not."""
    built, refused = [], {}
    for backend in LIBRARIES:
        for precision in get_args(Precision):
            for graph in get_args(Graph):
                try:
                    record = add_engine(
                        open_bundle(path), backend, precision, engine_of, graph=graph, overwrite=True, force=True
                    )
                    built.append(record.name)
                except MaplEdgeError as exc:
                    refused[f"{backend}-{precision}-{graph}"] = str(exc)
    return built, refused


if __name__ == "__main__":
    try:
        main()
    except MaplEdgeError as exc:
        sys.exit(f"{type(exc).__name__}: {exc}")
