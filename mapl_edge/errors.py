"""What can go wrong, for users: every error says what was found, what was expected and what to do.

MaplEdgeError                 exit code 1
├─ ConfigError                3   the YAML is wrong; .mistakes lists all of them
├─ DataError                  4   the pictures or folders given are wrong
│   ├─ PictureError           4   one picture cannot be used; .path names it
│   └─ OptionError            2   a value that was asked for is impossible, or one is missing
├─ TrainingError              4   training cannot go on
├─ BundleError                5   the artefact is wrong
│   ├─ Uncalibrated           5   no threshold: run mapl-edge calibrate
│   └─ ContractMismatch       5   picture, model and contract disagree
├─ BackendError               6   an inference engine failed
│   └─ BackendUnavailable     6   its library or device is missing; names the extra to install
├─ ParityError                6   an engine does not answer what the reference answered
├─ CameraError                7   the source of pictures failed
│   ├─ CameraUnreachable      7   it could not be opened
│   └─ CameraStalled          7   it opened, but gives no frame in time
└─ OutputError                8   a result cannot be written: it exists, the disk is full, no permission

Exit code 0 is success, 2 a wrong command line, 1 a fault of ours (with a traceback).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class MaplEdgeError(Exception):
    """The root of all errors that a user can cause or mend."""

    exit_code = 1


class ConfigError(MaplEdgeError):
    """A configuration file is wrong; all mistakes are told together.

    Attributes:
        mistakes: one line each, "path.to.key: what is wrong, what to do".
    """

    exit_code = 3

    def __init__(self, where: str, mistakes: Sequence[str]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__(f"{where}: " + "; ".join(self.mistakes))


class DataError(MaplEdgeError):
    """The pictures or folders given cannot serve."""

    exit_code = 4


class PictureError(DataError):
    """One picture cannot be used: `problem` is what the message says after its `path`."""

    def __init__(self, path: str | Path, problem: str) -> None:
        self.path, self.problem = path, problem
        super().__init__(f"{path}: {problem}")


class OptionError(DataError):
    """A value on the command line, or given to a function in its place, is impossible, or one is missing."""

    exit_code = 2


class TrainingError(MaplEdgeError):
    """Training cannot go on."""

    exit_code = 4


class BundleError(MaplEdgeError):
    """A bundle or model folder is not what it claims to be."""

    exit_code = 5


class Uncalibrated(BundleError):  # noqa: N818 - a state of the bundle, named as users say it
    """The bundle has no thresholds yet."""


class ContractMismatch(BundleError):  # noqa: N818 - names the relation that is broken
    """Picture, model and contract disagree on size, channels or digest."""


class BackendError(MaplEdgeError):
    """An inference engine failed."""

    exit_code = 6


class BackendUnavailable(BackendError):  # noqa: N818 - a state, like Uncalibrated
    """A library or device is missing; the message names the extra that brings it."""


class ParityError(MaplEdgeError):
    """An engine does not reproduce the reference's answers."""

    exit_code = 6


class CameraError(MaplEdgeError):
    """A source of pictures failed."""

    exit_code = 7


class CameraUnreachable(CameraError):  # noqa: N818 - a state, like Uncalibrated
    """A source of pictures could not be opened."""


class CameraStalled(CameraError):  # noqa: N818 - a state, like Uncalibrated
    """A camera gives no frame in time."""


class OutputError(MaplEdgeError):
    """A result cannot be written."""

    exit_code = 8
