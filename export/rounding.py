"""Weights in whole numbers, rounded so that what a convolution answers changes least.

Each weight rounded to the nearest whole number is the best for that weight alone. But the inputs of a convolution vary
together, so what one weight gets wrong the next ones can make good: GPTQ (Frantar et al., ICLR 2023, algorithm 1), for
convolutions. What stays wrong on average is for the bias (Nagel et al., ICCV 2019, §4.2).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from mapl_edge.arrays import AnyArray, Float64Array

PLACES = 200  # of each picture that are looked at
DAMPING = 0.01  # of the mean variance, added to all: rounding must not follow what few places seem to say


@dataclass
class Inputs:
    """What a convolution reads, place by place: mean and products of all places looked at so far.

    Attributes:
        shape: of its weights, (C_out, C_in / groups, h, w).
        groups, strides, pads, dilations: as ONNX's Conv has them.
        count: places.
        sums: float64 (groups, D), D = C_in / groups · h · w.
        products: float64 (groups, D, D), sums of x xᵀ.
    """

    shape: tuple[int, int, int, int]
    groups: int
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]
    count: int = 0
    sums: Float64Array = field(init=False)
    products: Float64Array = field(init=False)

    def __post_init__(self) -> None:
        depth = int(np.prod(self.shape[1:]))
        self.sums = np.zeros((self.groups, depth))
        self.products = np.zeros((self.groups, depth, depth))

    def add(self, x: AnyArray, rng: np.random.Generator) -> None:
        """Look at some places of what it reads, (B, C_in, H, W)."""
        top, left, bottom, right = self.pads
        padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
        (h, w), (dy, dx) = self.shape[2:], self.dilations
        windows = np.lib.stride_tricks.sliding_window_view(padded, ((h - 1) * dy + 1, (w - 1) * dx + 1), (2, 3))
        windows = windows[:, :, :: self.strides[0], :: self.strides[1], ::dy, ::dx]  # (B, C, H', W', h, w)
        b, _, rows, columns = windows.shape[:4]
        at = [rng.integers(0, n, PLACES) for n in (b, rows, columns)]
        seen = windows[at[0], :, at[1], at[2]].reshape(PLACES, self.groups, -1).transpose(1, 0, 2).astype(np.float64)
        self.count += PLACES
        self.sums += seen.sum(1)
        self.products += seen.transpose(0, 2, 1) @ seen

    @property
    def mean(self) -> Float64Array:
        """(groups, D)."""
        return self.sums / self.count


def inputs_of(convolution: NodeProto, weight: AnyArray) -> Inputs | None:
    """Nothing known yet of what it reads; None where its borders are not written out."""
    found = {a.name: helper.get_attribute_value(a) for a in convolution.attribute}
    if found.get("auto_pad", b"NOTSET") != b"NOTSET" or weight.ndim != 4:
        return None
    values: Any = [tuple(found.get(name, few)) for name, few in _WITHOUT.items()]
    return Inputs(weight.shape, found.get("group", 1), *values)


_WITHOUT = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1)}


def rounded(weight: AnyArray, scale: AnyArray, most: int, inputs: Inputs, *, biased: bool) -> AnyArray:
    """Whole numbers q of a convolution's weights, so that q · scale · x is near weight · x for what x it reads.

    Args:
        weight: float32 (C_out, C_in / groups, h, w).
        scale: float32 (C_out,).
        most: the largest whole number.
        inputs: of this convolution; at least one picture was looked at.
        biased: the mean error will be taken off by the bias, so that only deviations from it count.

    Returns:
        float64 of the shape of `weight`, whole numbers from -most to most.
    """
    groups, depth = inputs.sums.shape
    moments = inputs.products / inputs.count
    if biased:
        moments = moments - inputs.mean[:, :, None] * inputs.mean[:, None, :]
    variance = np.einsum("gdd->gd", moments)
    moments = moments + np.eye(depth) * (DAMPING * variance.mean(1) + 1e-12)[:, None, None]
    order = np.argsort(-variance, axis=1, kind="stable")  # what varies most is rounded first, while others can help
    turned = np.take_along_axis(np.take_along_axis(moments, order[:, :, None], 1), order[:, None, :], 2)
    upper = np.linalg.cholesky(np.linalg.inv(turned)).transpose(0, 2, 1)  # (G, D, D)
    left = weight.astype(np.float64).reshape(groups, -1, depth)
    left = np.take_along_axis(left, order[:, None, :], 2)  # (G, C_out / G, D)
    steps = scale.astype(np.float64).reshape(groups, -1)
    whole = np.empty_like(left)
    for d in range(depth):
        whole[:, :, d] = np.clip(np.round(left[:, :, d] / steps), -most, most)
        error = (left[:, :, d] - whole[:, :, d] * steps) / upper[:, None, d, d]
        left[:, :, d + 1 :] -= error[:, :, None] * upper[:, None, d, d + 1 :]
    back = np.argsort(order, axis=1)
    return np.take_along_axis(whole, back[:, None, :], 2).reshape(weight.shape)


def mean_error(weight: AnyArray, whole: AnyArray, scale: AnyArray, inputs: Inputs) -> Float64Array:
    """By how much the rounded weights answer too much on average, (C_out,)."""
    groups, depth = inputs.sums.shape
    wrong = whole * scale.astype(np.float64)[:, None, None, None] - weight
    error: Float64Array = np.einsum("god,gd->go", wrong.reshape(groups, -1, depth), inputs.mean).reshape(-1)
    return error
