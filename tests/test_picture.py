"""One reader for all pictures: what it accepts, what it does to the values, what it refuses and how it says so."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapl_edge.errors import PictureError
from mapl_edge.picture import PICTURE_SUFFIXES, picture_from_bytes, picture_from_file


def scene(h: int = 40, w: int = 56, seed: int = 0) -> np.ndarray:
    """A smooth random scene, uint8 (h, w, 3), BGR."""
    noise = np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 2)


def encoded(pixels: np.ndarray, suffix: str) -> bytes:
    """The pixels as the bytes of an image file."""
    done, data = cv2.imencode(suffix, pixels)
    assert done
    return data.tobytes()


def jpeg_with_thumbnail() -> bytes:
    """A JPEG as cameras write it: the EXIF segment holds a smaller JPEG with an end marker of its own."""
    whole, thumbnail = encoded(scene(), ".jpg"), encoded(scene(16, 16), ".jpg")
    body = b"Exif\0\0" + thumbnail
    return whole[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + whole[2:]


WHOLE = {
    "png": encoded(scene(), ".png"),
    "jpeg": encoded(scene(), ".jpg"),
    "jpeg with thumbnail": jpeg_with_thumbnail(),
}


@given(h=st.integers(16, 48), w=st.integers(16, 48), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_8_bit_png_comes_back_exact(h: int, w: int, seed: int) -> None:
    """Whatever a lossless file holds is what the model sees."""
    image = np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)

    assert np.array_equal(picture_from_bytes(encoded(image, ".png"), "part.png"), image)


@pytest.mark.parametrize("suffix", sorted(PICTURE_SUFFIXES))
def test_every_suffix_that_is_promised_can_be_read(suffix: str, tmp_path: Path) -> None:
    """The suffixes are what folders are searched for; one that the decoder lacks would fail on every picture."""
    path = tmp_path / f"part{suffix}"
    path.write_bytes(encoded(scene(), suffix))

    image = picture_from_file(path)

    assert image.shape == scene().shape
    assert np.abs(image.astype(int) - scene()).mean() < 8


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        pytest.param(np.full((20, 30), 77, np.uint8), [77, 77, 77], id="grey"),
        pytest.param(np.full((20, 30), 77 * 257, np.uint16), [77, 77, 77], id="grey-16-bit"),
        pytest.param(np.full((20, 30, 3), (1, 2, 3), np.uint8), [1, 2, 3], id="colour"),
        pytest.param(np.full((20, 30, 3), (257, 514, 771), np.uint16), [1, 2, 3], id="colour-16-bit"),
        pytest.param(np.full((20, 30, 4), (1, 2, 3, 4), np.uint8), [1, 2, 3], id="alpha-is-dropped-not-blended"),
        pytest.param(np.full((20, 30, 4), (257, 514, 771, 9), np.uint16), [1, 2, 3], id="alpha-16-bit"),
    ],
)
def test_every_kind_of_pixel_becomes_bgr_of_8_bit(pixels: np.ndarray, expected: list[int]) -> None:
    """Behind the reader there is one kind of picture only."""
    image = picture_from_bytes(encoded(pixels, ".png"), "part.png")

    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.shape == (20, 30, 3)
    assert (image == expected).all()


@given(value=st.integers(0, 65535), others=st.integers(0, 65535))
@settings(max_examples=50, deadline=None)
def test_16_bit_light_means_the_same_whatever_else_is_in_the_picture(value: int, others: int) -> None:
    """Stretching each picture to its own range would turn a dark part into a bright one."""
    pixels = np.full((16, 16), others, np.uint16)
    pixels[3, 5] = value

    image = picture_from_bytes(encoded(pixels, ".png"), "part.png")

    assert image[3, 5].tolist() == [round(value / 257)] * 3


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_values_of_unknown_scale_are_refused(dtype: type, tmp_path: Path) -> None:
    """Nobody can say what light 0.5 is in a float TIFF; guessing would pass or fail every part."""
    path = tmp_path / "part.tif"
    path.write_bytes(encoded(np.ones((20, 20), dtype), ".tif"))

    with pytest.raises(PictureError, match=rf"part\.tif: has {np.dtype(dtype).name} values, expected 8 or 16 bit"):
        picture_from_file(path)


@pytest.mark.parametrize(
    ("hw", "usable"), [((1, 1), False), ((15, 100), False), ((100, 15), False), ((16, 16), True)], ids=str
)
def test_16_pixels_are_the_least(hw: tuple[int, int], usable: bool) -> None:
    """A picture of one pixel is a fault of the camera, not a part."""
    data = encoded(np.zeros(hw, np.uint8), ".png")
    if usable:
        assert picture_from_bytes(data, "part.png").shape == (*hw, 3)
        return

    with pytest.raises(PictureError, match=rf"part\.png: is {hw[1]}x{hw[0]} px, expected at least 16x16"):
        picture_from_bytes(data, "part.png")


@pytest.mark.parametrize("kind", ["jpeg", "jpeg with thumbnail"])
@pytest.mark.parametrize("share", [0.05, 0.25, 0.5, 0.75, 0.95, 1.0], ids="{:.0%}".format)
def test_truncated_jpeg_is_refused(kind: str, share: float) -> None:
    """Decoders fill the missing part with grey, which is an anomaly of the network, not of the part."""
    data = WHOLE[kind]

    with pytest.raises(PictureError, match=r"part\.jpg: .*replace or remove it"):
        picture_from_bytes(data[: int(len(data) * share) - 1], "part.jpg")


def test_end_marker_of_a_thumbnail_does_not_count() -> None:
    """The file was cut in the picture itself, yet it holds a whole small JPEG."""
    data = jpeg_with_thumbnail()
    cut = data[:-20]
    assert b"\xff\xd9" in cut

    with pytest.raises(PictureError, match="the JPEG is truncated"):
        picture_from_bytes(cut, "part.jpg")


@pytest.mark.parametrize("missing", [1, 12, 13, 200], ids="{} bytes missing".format)
def test_truncated_png_is_refused(missing: int) -> None:
    """Even where only the end chunk is gone: the copy did not finish."""
    with pytest.raises(PictureError, match=r"part\.png: the PNG is truncated; replace or remove it"):
        picture_from_bytes(WHOLE["png"][:-missing], "part.png")


@pytest.mark.parametrize("suffix", [".bmp", ".tif", ".webp"])
def test_truncation_is_seen_in_the_other_formats(suffix: str) -> None:
    """No format may hand over half a picture."""
    data = encoded(scene(), suffix)

    for share in (0.2, 0.5, 0.9):
        with pytest.raises(PictureError, match="part"):
            picture_from_bytes(data[: int(len(data) * share)], f"part{suffix}")


@given(at=st.integers(0, len(WHOLE["png"]) - 1), bit=st.integers(0, 7))
@settings(max_examples=60, deadline=None)
def test_flipped_bit_in_a_png_is_refused(at: int, bit: int) -> None:
    """Every byte of a PNG is under a checksum or fixed, and all of them are checked."""
    data = bytearray(WHOLE["png"])
    data[at] ^= 1 << bit

    with pytest.raises(PictureError, match=r"part\.png: "):
        picture_from_bytes(bytes(data), "part.png")


def test_checksum_message_names_the_chunk() -> None:
    """A wrong checksum is told apart from a file that is cut."""
    data = bytearray(WHOLE["png"])
    data[data.index(b"IDAT") + 10] ^= 0xFF

    with pytest.raises(PictureError, match=r"the PNG is damaged \(checksum of chunk IDAT\)"):
        picture_from_bytes(bytes(data), "part.png")


@given(
    kind=st.sampled_from(sorted(WHOLE)),
    trailer=st.binary(max_size=30).filter(lambda t: b"\xff" not in t),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_cut_picture_is_refused_and_a_cut_trailer_changes_nothing(
    kind: str, trailer: bytes, data: st.DataObject
) -> None:
    """Wherever a copy stopped, the answer is the whole picture or an error that names the file."""
    whole = WHOLE[kind]
    n_kept = data.draw(st.integers(0, len(whole + trailer)) | st.integers(len(whole) - 3, len(whole) + len(trailer)))
    kept = (whole + trailer)[:n_kept]

    if n_kept >= len(whole):
        assert np.array_equal(picture_from_bytes(kept, "part"), picture_from_bytes(whole, "part"))
        return
    with pytest.raises(PictureError, match=r"^part: ") as caught:
        picture_from_bytes(kept, "part")
    assert caught.value.path == "part"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", r"part\.png: the file is empty; replace or remove it", id="empty"),
        pytest.param(b"see the other folder\n", r"part\.png: not a picture that can be decoded", id="text"),
        pytest.param(b"\x89PNG\r\n\x1a\n", r"part\.png: the PNG is truncated", id="signature-only"),
        pytest.param(None, r"part\.png: cannot be read \(No such file or directory\); check the path", id="missing"),
    ],
)
def test_file_that_is_no_picture_is_named(content: bytes | None, message: str, tmp_path: Path) -> None:
    """The operator must find the file among thousands."""
    path = tmp_path / "part.png"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(PictureError, match=message) as caught:
        picture_from_file(path)
    assert str(caught.value.path) == str(path)


def test_folder_in_place_of_a_picture_is_named(tmp_path: Path) -> None:
    """A folder called x.png is a typing error, not a fault of ours."""
    with pytest.raises(PictureError, match="cannot be read"):
        picture_from_file(tmp_path)


def test_enormous_size_in_the_header_is_refused() -> None:
    """A header of 60000x60000 px must not take the station's memory."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")

    with pytest.raises(PictureError, match=r"part\.png"):
        picture_from_bytes(data, "part.png")
