"""The entry point, before any command has begun."""

import os
import subprocess
import sys
from importlib import import_module
from pkgutil import iter_modules

import pytest

import mapl_edge.cli
from mapl_edge.cli.app import HOMES, app
from mapl_edge.openblas import CPUINFO, kernels_for

INTERRUPTED = """
import os, signal, sys, time

wanted = sys.argv.pop(1)

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == wanted:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupt())
from mapl_edge.__main__ import main
sys.argv += ["history", "--help"]
main()
"""


def cpuinfo() -> str:
    """Of this machine; nothing where there is no such file."""
    return CPUINFO.read_text() if CPUINFO.is_file() else ""


@pytest.mark.parametrize("module", ["mapl_edge.cli", "mapl_edge.cli.records"])
def test_an_interrupt_while_modules_load_is_one_line(module: str) -> None:
    """No traceback, and the exit code that shells give for it."""
    words = [sys.executable, "-c", INTERRUPTED, module]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)

    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "interrupted\n")


def test_every_command_of_every_module_is_listed() -> None:
    """A command whose name is missing in HOMES, or leads to another module, could not be typed."""
    for module in iter_modules(mapl_edge.cli.__path__):
        import_module(f"mapl_edge.cli.{module.name}")
    functions = [one.callback for one in app.registered_commands if one.callback is not None]

    assert {one.__name__: one.__module__.rpartition(".")[2] for one in functions} == HOMES


def test_a_command_imports_no_other_commands_module() -> None:
    """Who types one command waits for what that needs."""
    code = "import sys; sys.argv[1:] = ['history', '--help']\nfrom mapl_edge.__main__ import main\n"
    code += "try: main()\nexcept SystemExit: print(*(n for n in sys.modules if n.startswith('mapl_edge.cli.')))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    imported = {name.removeprefix("mapl_edge.cli.") for name in ran.stdout.splitlines()[-1].split()}
    assert imported == {"app", "common", "records"}


AVX512 = "avx512f avx512dq avx512cd avx512bw avx512vl"


@pytest.mark.parametrize(
    ("about", "kernels"),
    [
        (f"flags\t\t: fpu avx avx2 fma {AVX512} vaes", "SKYLAKEX"),
        ("flags\t\t: fpu avx avx2 fma avx512f", "HASWELL"),  # a hypervisor hides the others
        ("flags\t\t: fpu sse2 avx", None),
        ("Features\t: fp asimd", None),  # ARM
    ],
)
def test_openblas_is_told_what_a_processor_can_do(about: str, kernels: str | None) -> None:
    """And no more: instructions that it lacks would end the process."""
    core = f"processor\t: 0\n{about}\nbogomips\t: 5192.24\n\n"

    assert kernels_for(2 * core) == kernels


@pytest.mark.skipif(kernels_for(cpuinfo()) is None, reason="not a processor with AVX2")
@pytest.mark.parametrize("named", [None, "HASWELL"])
def test_numpy_and_faiss_use_what_the_processor_has(named: str | None) -> None:
    """Seen with the real libraries; what somebody has named stays."""
    code = "import sys; sys.argv[1:] = ['--version']\nfrom mapl_edge.__main__ import main\n"
    code += "try: main()\nexcept SystemExit: import numpy, faiss, threadpoolctl\n"
    code += "print({one['architecture'] for one in threadpoolctl.threadpool_info() if 'architecture' in one})"
    env = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    env |= {"OPENBLAS_CORETYPE": named} if named else {}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)

    expected = {"SKYLAKEX": "SkylakeX", "HASWELL": "Haswell"}[named or kernels_for(cpuinfo()) or ""]
    assert ran.stdout.splitlines()[-1] == str({expected})
