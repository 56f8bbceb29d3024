"""OpenBLAS: told what the processor can do. FAISS brings one of 2021 that takes a later processor for one of 2007."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
KERNELS = {  # the newest first, and what they need
    "SKYLAKEX": {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"},
    "HASWELL": {"avx2", "fma"},
}


def kernels_for(cpuinfo: str) -> str | None:
    """The kernels that suit this processor, from `/proc/cpuinfo`; None: OpenBLAS chooses."""
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    known = set(flags[1].split()) if flags else set()
    return next((name for name, needed in KERNELS.items() if known >= needed), None)


def name_kernels() -> None:
    """Name them in the environment, which is read as numpy and FAISS load, unless somebody has."""
    if "OPENBLAS_CORETYPE" in os.environ:
        return
    with suppress(OSError):
        kernels = kernels_for(CPUINFO.read_text(errors="replace"))
        if kernels is not None:
            os.environ["OPENBLAS_CORETYPE"] = kernels
