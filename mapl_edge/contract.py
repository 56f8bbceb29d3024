"""InputContract: how a camera picture becomes the model's input. It travels in the bundle."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class InputContract(BaseModel):
    """The one preparation of a model, obeyed by `prepare` everywhere.

    Colour order, normalisation and layout are inside the graph; what remains is crop and resize.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size_hw: tuple[int, int] = (256, 256)
    """Height and width of the prepared picture in pixels, multiples of 32."""
    roi_xywh: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)], int, int] | None = None
    """Crop of the camera picture before resizing: left, top, width, height in pixels. None: the whole picture."""
    resize: Literal["halve", "area"] = "halve"
    """Both average when shrinking, so that fine defects are not skipped over. halve: means of 2x2 pixels while both
    sides are at least twice too long, then linearly to the nearest power of two of each wanted side, then means of
    what is left; whole numbers throughout, so every processor finds the same. area: cv2.INTER_AREA, as earlier
    bundles have it; up to five times as slow."""

    @field_validator("size_hw")
    @classmethod
    def _multiple_of_32(cls, size_hw: tuple[int, int]) -> tuple[int, int]:
        if any(side < 32 or side > 4096 or side % 32 for side in size_hw):
            raise ValueError(f"must be multiples of 32 from 32 to 4096, got {size_hw[0]}x{size_hw[1]}")
        return size_hw

    @field_validator("roi_xywh")
    @classmethod
    def _large_enough(cls, roi: tuple[int, int, int, int] | None) -> tuple[int, int, int, int] | None:
        if roi is not None and min(roi[2:]) < 16:
            raise ValueError(f"must be at least 16x16 px, got {roi[2]}x{roi[3]}")
        return roi
