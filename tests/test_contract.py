"""The input contract: which sizes and crops it accepts, and that it travels unchanged."""

import pytest
from pydantic import ValidationError

from mapl_edge.contract import InputContract


@pytest.mark.parametrize("size_hw", [(32, 32), (256, 256), (96, 64), (64, 4096), (4096, 4096)], ids=str)
def test_multiples_of_32_are_accepted(size_hw: tuple[int, int]) -> None:
    """The encoder halves five times; the sides need not be equal."""
    assert InputContract(size_hw=size_hw).size_hw == size_hw


@pytest.mark.parametrize("size_hw", [(0, 32), (-32, 32), (31, 32), (32, 33), (256, 250), (4128, 32), (16, 16)], ids=str)
def test_other_sizes_are_refused(size_hw: tuple[int, int]) -> None:
    """The message names the rule and the size."""
    with pytest.raises(ValidationError, match=rf"multiples of 32 from 32 to 4096, got {size_hw[0]}x{size_hw[1]}"):
        InputContract(size_hw=size_hw)


@pytest.mark.parametrize("size_hw", [(256,), (256, 256, 3), 256, "256x256", (256.5, 256)], ids=repr)
def test_size_is_two_whole_numbers(size_hw: object) -> None:
    """A third side or half a pixel is a mistake, not something to round."""
    with pytest.raises(ValidationError):
        InputContract(size_hw=size_hw)


@pytest.mark.parametrize(
    ("roi", "message"),
    [
        pytest.param((-1, 0, 64, 64), "greater than or equal to 0", id="left-of-the-picture"),
        pytest.param((0, -1, 64, 64), "greater than or equal to 0", id="above-the-picture"),
        pytest.param((0, 0, 15, 64), "at least 16x16 px, got 15x64", id="narrow"),
        pytest.param((0, 0, 64, 15), "at least 16x16 px, got 64x15", id="low"),
        pytest.param((0, 0, -64, 64), "at least 16x16 px, got -64x64", id="negative"),
        pytest.param((0, 0, 64), "roi_xywh", id="three-numbers"),
    ],
)
def test_impossible_region_is_refused(roi: tuple[int, ...], message: str) -> None:
    """What no picture can hold is told when it is written, not at the first part."""
    with pytest.raises(ValidationError, match=message):
        InputContract(roi_xywh=roi)


def test_least_region_is_accepted() -> None:
    """Sixteen pixels are the least that any picture may have."""
    assert InputContract(roi_xywh=(0, 0, 16, 16)).roi_xywh == (0, 0, 16, 16)


def test_contract_travels_as_json() -> None:
    """The manifest carries it; lists must come back as the tuples they were."""
    contract = InputContract(size_hw=(96, 64), roi_xywh=(1, 2, 30, 40))

    assert InputContract.model_validate_json(contract.model_dump_json()) == contract


def test_contract_of_another_kind_is_refused() -> None:
    """An unknown key or a resize that is not known would prepare pictures in another way than training did."""
    with pytest.raises(ValidationError, match="extra"):
        InputContract.model_validate({"letterbox": True})
    with pytest.raises(ValidationError, match="'area'"):
        InputContract.model_validate({"resize": "nearest"})
