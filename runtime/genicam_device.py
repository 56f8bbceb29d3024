"""GenICam by harvesters: GigE Vision and USB3 Vision cameras, through their maker's GenTL producer (.cti)."""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pydantic import Field

from mapl_edge.arrays import AnyArray
from mapl_edge.config import Section, config_from_dict
from mapl_edge.errors import BackendUnavailable, CameraError, CameraStalled, CameraUnreachable, MaplEdgeError
from mapl_edge.redact import redact

_FROM_RGB = {1: None, 3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGR}
_FROM_BAYER = {  # OpenCV names a pattern by its second row, GenICam by its first
    "BayerRG": cv2.COLOR_BayerBG2BGR,
    "BayerBG": cv2.COLOR_BayerRG2BGR,
    "BayerGB": cv2.COLOR_BayerGR2BGR,
    "BayerGR": cv2.COLOR_BayerGB2BGR,
}


class GenicamUri(Section):
    """What may follow `genicam:<serial>?`."""

    cti: Path | None = None
    """The GenTL producer; None: all in the folders of GENICAM_GENTL64_PATH, where makers' installers put them."""
    exposure_us: float | None = Field(default=None, gt=0)
    gain: float | None = Field(default=None, ge=0)
    pixel_format: str | None = None


class GenicamDevice:
    """A `Device` on one GenICam camera.

    Args:
        uri: genicam:<serial>?cti=/path/producer.cti&exposure_us=5000&gain=0&pixel_format=Mono8
        read_timeout_s: for every picture.

    Raises:
        BackendUnavailable: harvesters is not installed.
        CameraUnreachable: no producer, no such serial, the camera is taken, or it refuses a setting.
        ConfigError: an unknown key or a wrong value.
    """

    def __init__(self, uri: str, read_timeout_s: float) -> None:
        serial, _, query = uri.removeprefix("genicam:").partition("?")
        given = config_from_dict(dict(urllib.parse.parse_qsl(query)), GenicamUri, where=redact(uri))
        self._name, self._timeout_s = f"GenICam camera {serial!r}", read_timeout_s
        producers = _producers(given.cti)
        self._harvester, self._camera = _harvester(), None
        try:
            with _errors(self._name, CameraUnreachable):
                for producer in producers:
                    self._harvester.add_file(str(producer))
                self._harvester.update()
                found = [str(device.serial_number) for device in self._harvester.device_info_list]
                if serial not in found:
                    raise CameraUnreachable(
                        f"{self._name} is not there; serials found by {', '.join(p.name for p in producers)}: "
                        f"{', '.join(found) or 'none'}; check the cable, the network, and the serial"
                    )
                self._camera = self._harvester.create({"serial_number": serial})
                self._set(given)
                self._camera.start()
        except BaseException:
            self.close()
            raise

    def read(self) -> AnyArray:
        """See `Device`."""
        assert self._camera is not None
        with _errors(self._name, CameraError):
            buffer = self._camera.try_fetch(timeout=self._timeout_s)
            if buffer is None:
                raise CameraStalled(f"{self._name} gave no frame for {self._timeout_s:.1f} s; check trigger and cable")
            try:
                part = buffer.payload.components[0]
                return bgr_from_genicam(part.data, part.width, part.height, part.data_format)
            finally:
                buffer.queue()

    def close(self) -> None:
        """See `Device`."""
        with _errors(self._name, CameraError):
            if self._camera is not None:
                self._camera.destroy()
            self._harvester.reset()

    def _set(self, given: GenicamUri) -> None:
        assert self._camera is not None
        nodes = self._camera.remote_device.node_map
        settings = {"PixelFormat": given.pixel_format, "ExposureTime": given.exposure_us, "Gain": given.gain}
        for name, value in settings.items():
            if value is None:
                continue
            if not nodes.has_node(name):
                raise CameraUnreachable(f"{self._name} has no setting {name}; leave it out of the address")
            try:
                nodes.get_node(name).value = value
            except Exception as exc:  # genapi's exceptions have no common root that it exports
                said = " ".join(str(exc).split())
                raise CameraUnreachable(f"{self._name} refuses {name}={value}: {said}") from exc


def bgr_from_genicam(data: AnyArray, width: int, height: int, pixel_format: str) -> AnyArray:
    """A component's flat buffer in one of GenICam's pixel formats → (H, W) or (H, W, 3) BGR of its own, 8 or 16 bit.

    10 and 12 bit values are shifted up to 16, so that the same light gives the same value in every format.

    Raises:
        CameraError: a format that is not read here, such as packed or YUV ones.
    """
    bits = next((b for b in (8, 10, 12, 16) if pixel_format.endswith((str(b), f"a{b}"))), None)
    kind = pixel_format.removesuffix(str(bits))
    channels = {"Mono": 1, "RGB": 3, "BGR": 3, "RGBa": 4, "BGRa": 4, **dict.fromkeys(_FROM_BAYER, 1)}.get(kind)
    if bits is None or channels is None or data.size != width * height * channels:
        raise CameraError(
            f"pixel format {pixel_format!r} is not read here; expected Mono, Bayer, RGB, BGR, RGBa or BGRa with 8 "
            "bits, or 10, 12, 16 unpacked; set pixel_format= in the address"
        )
    pixels = np.array(data).reshape(height, width, channels)  # a copy: the buffer goes back to the camera
    if bits in (10, 12):
        pixels = pixels.astype(np.uint16) << (16 - bits)
    if kind in _FROM_BAYER:
        return np.asarray(cv2.cvtColor(pixels, _FROM_BAYER[kind]))
    conversion = _FROM_RGB[channels]
    if kind.startswith("RGB") and conversion is not None:
        return np.asarray(cv2.cvtColor(pixels, conversion))
    return pixels[:, :, 0] if channels == 1 else np.ascontiguousarray(pixels[:, :, :3])


def _producers(cti: Path | None) -> list[Path]:
    if cti is not None:
        if not cti.is_file():
            raise CameraUnreachable(f"{cti}: there is no such GenTL producer; check cti= in the address")
        return [cti]
    folders = [Path(part) for part in os.environ.get("GENICAM_GENTL64_PATH", "").split(os.pathsep) if part]
    found = sorted(path for folder in folders for path in folder.glob("*.cti"))
    if not found:
        raise CameraUnreachable(
            "no GenTL producer: GENICAM_GENTL64_PATH leads to no .cti file; install the camera maker's software, "
            "or give its producer as genicam:<serial>?cti=/path/producer.cti"
        )
    return found


def _harvester() -> Any:
    try:
        from harvesters.core import Harvester
    except ImportError as exc:
        raise BackendUnavailable(f"{exc.name} is not installed; pip install 'mapl-edge[genicam]'") from exc
    return Harvester()


@contextmanager
def _errors(name: str, kind: type[CameraError]) -> Iterator[None]:
    """Whatever harvesters and the producer raise, as `kind`."""
    try:
        yield
    except MaplEdgeError:
        raise
    except Exception as exc:  # each producer has exceptions of its own
        raise kind(f"{name}: {type(exc).__name__}: {' '.join(str(exc).split())}") from exc
