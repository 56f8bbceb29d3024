"""Trigger socket: a Unix socket on which any program says TRIGGER and reads the verdict, one JSON line for each.

    TRIGGER [id]\n   ->   {"seq": 0, "picture": "id", ... }\n

No client holds a verdict: each has threads of its own, and one that does not read its answers is hung up on.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import socket
import stat
import struct
import threading
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

from mapl_edge.errors import CameraError, OutputError
from mapl_edge.files import files_errors
from mapl_edge.runtime.inspector import Inspection
from mapl_edge.runtime.triggers import Triggers

logger = logging.getLogger(__name__)
LONGEST = 256  # bytes of a line
SEND_S = 2  # how long a client may take to read an answer
MAX_CLIENTS = 32
LOOK_S = 0.5


class TriggerSocket:
    """Serves one camera's triggers. A context manager.

    Args:
        path: made with mode 0600 for its owner; what a station that was killed left there is replaced.
        station: fields that all answers share, as in verdict lines.

    Raises:
        OutputError: somebody serves there, something else is there, or the system refuses.
    """

    def __init__(self, path: Path, triggers: Triggers, station: dict[str, str]) -> None:
        self._path, self._triggers, self._station = path, triggers, station
        self._closing = threading.Event()
        self._clients: set[socket.socket] = set()
        self._socket = _listening(path)
        self._inode = path.stat().st_ino
        self._thread = threading.Thread(target=self._accept, name="trigger", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Hang up and take the socket away; calling it twice is harmless."""
        self._closing.set()
        self._thread.join(4 * LOOK_S)
        self._socket.close()
        for client in list(self._clients):
            with suppress(OSError):
                client.shutdown(socket.SHUT_RD)  # answers on their way still go out
        with suppress(OSError):
            if self._path.stat().st_ino == self._inode:  # not that of a station that has taken over
                self._path.unlink()

    def __enter__(self) -> TriggerSocket:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                client, _ = self._socket.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            if len(self._clients) >= MAX_CLIENTS:
                client.close()
                logger.warning("%s: %d clients are connected, one more was sent away", self._path, MAX_CLIENTS)
                continue
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_S, 0))
            self._clients.add(client)
            answers: queue.SimpleQueue[Future[Inspection] | str | None] = queue.SimpleQueue()
            for work in (self._read, self._write):
                threading.Thread(target=work, args=(client, answers), name="trigger", daemon=True).start()

    def _read(self, client: socket.socket, answers: queue.SimpleQueue[Future[Inspection] | str | None]) -> None:
        try:
            with client.makefile("rb") as lines:
                while line := lines.readline(LONGEST + 1):
                    answers.put(self._asked(line))
                    if len(line) > LONGEST:
                        break
        except OSError:
            pass
        finally:
            answers.put(None)

    def _asked(self, line: bytes) -> Future[Inspection] | str:
        """What a line asks for, or what is wrong with it."""
        word, _, name = line.decode("utf-8", "backslashreplace").strip().partition(" ")
        if word != "TRIGGER" or not line.endswith(b"\n") or len(line) > LONGEST or not name.isprintable():
            return f"found {line[:40]!r}, expected a line TRIGGER or TRIGGER id, at most {LONGEST} bytes"
        try:
            return self._triggers.trigger(name.strip())
        except CameraError as exc:
            return str(exc)

    def _write(self, client: socket.socket, answers: queue.SimpleQueue[Future[Inspection] | str | None]) -> None:
        try:
            while (answer := answers.get()) is not None:
                client.sendall((self._line(answer) + "\n").encode())
        except OSError:  # it has gone, or does not read: its verdicts stand all the same
            pass
        finally:
            self._clients.discard(client)
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            client.close()

    def _line(self, answer: Future[Inspection] | str) -> str:
        if not isinstance(answer, str):
            try:
                return answer.result().verdict.json_line(**self._station)
            except CameraError as exc:
                answer = str(exc)
        return json.dumps({"error": answer})


def _listening(path: Path) -> socket.socket:
    with files_errors(path):
        if path.exists() or path.is_symlink():
            _remove_stale(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)  # 0600 from its first moment on
        try:
            listening.bind(str(path))
            listening.listen(MAX_CLIENTS)
        except OSError as exc:
            listening.close()
            raise OutputError(f"{path}: cannot listen there ({exc}); name another socket") from exc
        finally:
            os.umask(before)
    listening.settimeout(LOOK_S)
    return listening


def _remove_stale(path: Path) -> None:
    """Delete a socket that nobody serves."""
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise OutputError(f"{path}: exists and is no socket, so it is not replaced; name another")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(LOOK_S)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError:
            pass
    raise OutputError(f"{path}: another station serves it; end that one, or name another socket")
