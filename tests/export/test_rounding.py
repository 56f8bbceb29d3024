"""Weights in whole numbers: what their convolution answers counts, not each of them."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from mapl_edge.arrays import AnyArray, Float64Array
from mapl_edge.export.rounding import Inputs, inputs_of, mean_error, rounded


def watched(places: Float64Array, groups: int = 1) -> Inputs:
    """Of a convolution of 1x1 that reads these places, (N, C)."""
    one = Inputs((1, places.shape[1] // groups, 1, 1), groups, (1, 1), (0, 0, 0, 0), (1, 1), len(places))
    seen = places.reshape(len(places), groups, -1).transpose(1, 0, 2)
    one.sums[:], one.products[:] = seen.sum(1), seen.transpose(0, 2, 1) @ seen
    return one


def correlated(rng: np.random.Generator, n: int, c: int) -> Float64Array:
    """Places whose channels vary together, about a mean."""
    found: Float64Array = rng.normal(size=(n, 2)) @ rng.normal(size=(2, c)) + 0.2 * rng.normal(size=(n, c)) + 1
    return found


def answer_error(weight: AnyArray, whole: AnyArray, scale: AnyArray, places: Float64Array, biased: bool) -> float:
    """Mean squared error of all answers."""
    wrong = places @ (whole * scale[:, None, None, None] - weight).reshape(len(weight), -1).T
    return float(np.mean((wrong - wrong.mean(0) * biased) ** 2))


@pytest.mark.parametrize("biased", [True, False])
def test_answers_are_nearer_than_with_each_weight_rounded_by_itself(biased: bool) -> None:
    """On places that were not looked at; by less than half of the error in the mean of many convolutions."""
    rng, errors = np.random.default_rng(0), []
    for _ in range(50):
        places = correlated(rng, 400, 12)
        weight = rng.normal(size=(6, 12, 1, 1)).astype(np.float32)
        scale = np.abs(weight).max(axis=(1, 2, 3)) / 7
        plain = np.round(weight / scale[:, None, None, None])
        ours = rounded(weight, scale, 7, watched(places[:200]), biased=biased)
        errors.append([answer_error(weight, whole, scale, places[200:], biased) for whole in (ours, plain)])

    ours_error, plain_error = np.mean(errors, axis=0)
    assert ours_error < 0.5 * plain_error


def test_it_is_near_the_best_of_all_whole_numbers() -> None:
    """Every choice tried out, for three channels: its excess over the best is a fraction of plain rounding's."""
    rng, excess = np.random.default_rng(1), []
    for _ in range(30):
        places = correlated(rng, 300, 3)
        weight, scale = rng.uniform(-3, 3, size=(1, 3, 1, 1)), np.ones(1)

        def error(whole: AnyArray, weight: AnyArray = weight, places: Float64Array = places) -> float:
            return answer_error(weight, whole, np.ones(1), places, True)

        best = min(error(np.array(q, float).reshape(1, 3, 1, 1)) for q in product(range(-3, 4), repeat=3))
        ours = error(rounded(weight, scale, 3, watched(places), biased=True))
        excess.append([ours - best, error(np.round(weight)) - best])

    ours_excess, plain_excess = np.mean(excess, axis=0)
    assert 0 <= ours_excess < 0.5 * plain_excess


@given(seed=st.integers(0, 10_000), most=st.integers(1, 127), groups=st.sampled_from([1, 2, 6]))
@settings(max_examples=30, deadline=None)
def test_whole_numbers_within_their_range(seed: int, most: int, groups: int) -> None:
    """For any number of groups; scales may be anything."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(6, 6 // groups, 1, 1)) * 10 ** rng.uniform(-3, 3)
    scale = np.abs(weight).max(axis=(1, 2, 3)) / most * rng.uniform(0.5, 2, 6)

    whole = rounded(weight, scale, most, watched(correlated(rng, 50, 6), groups), biased=True)

    assert whole.shape == weight.shape
    assert np.array_equal(whole, np.round(whole))
    assert np.abs(whole).max() <= most


def test_channels_that_vary_by_themselves_are_rounded_by_themselves() -> None:
    """There is nothing to make good."""
    rng = np.random.default_rng(0)
    weight, scale = rng.normal(size=(4, 5, 1, 1)), np.full(4, 0.1)
    inputs = watched(np.concatenate([np.eye(5), -np.eye(5)]) * rng.uniform(1, 9, 5))

    assert np.array_equal(rounded(weight, scale, 127, inputs, biased=True), np.round(weight / 0.1))


def test_a_channel_that_never_varies_is_no_harm() -> None:
    """A dead one, at zero in all pictures."""
    places = correlated(np.random.default_rng(0), 100, 4)
    places[:, 2] = 0
    weight = np.random.default_rng(1).normal(size=(3, 4, 1, 1))

    whole = rounded(weight, np.full(3, 0.1), 127, watched(places), biased=False)

    assert np.isfinite(whole).all()


@pytest.mark.parametrize(
    ("groups", "stride", "dilation", "pads"),
    [(1, 1, 1, (0, 0, 0, 0)), (6, 2, 1, (0, 0, 0, 0)), (2, 1, 2, (0, 0, 0, 0)), (6, 2, 1, (0, 0, 1, 1))],
)
def test_inputs_are_what_a_convolution_reads(
    groups: int, stride: int, dilation: int, pads: tuple[int, int, int, int]
) -> None:
    """Patch times weight is the convolution's answer at that place, as torch computes it."""
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(1, 6, 11, 9)).astype(np.float32), rng.normal(size=(12, 6 // groups, 3, 3))
    node = helper.make_node(
        "Conv", ["x", "w"], ["y"], group=groups, strides=[stride] * 2, dilations=[dilation] * 2, pads=pads
    )
    inputs = inputs_of(node, weight)
    assert inputs is not None

    for _ in range(40):
        inputs.add(x, rng)

    top, left, bottom, right = pads
    padded = torch.nn.functional.pad(torch.from_numpy(x).double(), (left, right, top, bottom))
    answers = torch.nn.functional.conv2d(padded, torch.from_numpy(weight), None, stride, 0, dilation, groups).numpy()
    squares = np.einsum(
        "god,gde,goe->go",
        *(weight.reshape(groups, -1, inputs.sums.shape[1]), inputs.products / inputs.count),
        weight.reshape(groups, -1, inputs.sums.shape[1]),
    ).ravel()
    assert squares == pytest.approx((answers**2).mean((0, 2, 3)), rel=0.15)
    means = mean_error(weight, 2 * weight, np.ones(12), inputs)
    assert means == pytest.approx(answers.mean((0, 2, 3)), abs=0.25)


def test_borders_that_are_not_written_out_are_left_alone() -> None:
    """SAME_UPPER of older exporters: such weights are rounded each by itself."""
    assert inputs_of(helper.make_node("Conv", ["x", "w"], ["y"], auto_pad="SAME_UPPER"), np.zeros((1, 1, 3, 3))) is None
