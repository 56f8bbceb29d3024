"""Memory: what normal looks like, and the normal sample that a picture is compared with (MAPL §2.3).

ImageMemory is the paper's: N whole pyramids, the nearest one for the whole picture (Eq. 7 and 8). PatchMemory is ours,
for parts that lie at any angle or differ from each other: the nearest patch for each place, from any picture and place.
Both answer with a `Match` and are modules with buffers: saved, moved and exported with the model. What they do falls
into three parts, so that another may do the middle one: `queries`, the search for the nearest of `vectors`, and `at`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mapl_edge.model.coreset import cluster_centres, coreset
from mapl_edge.search import CODE, NEIGHBOURS, NEVER

SAMPLED = 100_000  # patches whose principal components are taken, and that k-means chooses from
SEARCH_DIMS = 64  # of the principal components that patches are searched by
BATCH = 8  # pictures that are described at once
BLOCK = 64  # patches whose nearest is found first, before the nearest block: minima are faster than their places


@dataclass(frozen=True)
class Match:
    """What a batch of pictures was compared with.

    Attributes:
        values: m, float32 (B, C, H, W) for each level: the features of the nearest normal.
        distance: float32 (B, 1, H/8, W/8): between the descriptors of x and m at each place of stride 8; from a patch
            memory measured by how far its own patches lie from each other there.
        sources: int64 (B, H/8, W/8): which normal picture m is from at each place.
    """

    values: list[Tensor]
    distance: Tensor
    sources: Tensor


class Memory(nn.Module, ABC):
    """Memory bank MB. Features are pyramids at strides 4, 8, 16, one (B, C, H, W) per level."""

    scope: Literal["image", "patch"]
    source: Tensor

    @property
    def size(self) -> int:
        """K, how many samples or patches it holds."""
        return len(self.source)

    @abstractmethod
    def fill(self, features: Sequence[Tensor], sources: Tensor) -> None:
        """Learn from K normal pyramids, one (K, C, H, W) per level; `sources` int64 (K,) says whose they are."""

    @abstractmethod
    def queries(self, features: Sequence[Tensor]) -> Tensor:
        """What of x is searched for, float32 (B, Q, S): Q is H/8 · W/8 places, or 1 for the whole picture."""

    @abstractmethod
    def vectors(self) -> Tensor:
        """What is searched, float32 (K, S); the one with the least sum of squared differences to a query is nearest."""

    @abstractmethod
    def nearest(self, queries: Tensor, exclude: Tensor | None = None) -> Tensor:
        """Which of the vectors is nearest to each query, int64 (B, Q). `exclude` as in `match`."""

    @abstractmethod
    def at(self, features: Sequence[Tensor], index: Tensor) -> Match:
        """x compared with the entries of an index, int64 (B, Q), in the order of the queries."""

    def match(self, features: Sequence[Tensor], exclude: Tensor | None = None) -> Match:
        """The nearest normal.

        Args:
            features: x, one (B, C, H, W) per level.
            exclude: int64 (B,), a source to leave out for each picture, -1 for none: a picture that is itself in the
                memory must not be compared with itself, or training would see differences that no new part has.
        """
        return self.at(features, self.nearest(self.queries(features), exclude))


class ImageMemory(Memory):
    """Memory information MI (§2.3): K whole pyramids.

    Attributes:
        bank: float32 (K, D), each row one sample's pyramid, flattened level by level.
        source: int64 (K,), whose pyramid it is.
        shapes: (C, H, W) of each level.
    """

    scope = "image"
    bank: Tensor

    def __init__(self, samples: int, shapes: Sequence[tuple[int, int, int]]) -> None:
        super().__init__()
        self.shapes = tuple(shapes)
        self.sizes = [c * h * w for c, h, w in self.shapes]
        self.register_buffer("bank", torch.zeros(samples, sum(self.sizes)))
        self.register_buffer("source", torch.zeros(samples, dtype=torch.int64))

    def fill(self, features: Sequence[Tensor], sources: Tensor) -> None:
        """See `Memory`; K must be the number of samples."""
        self.bank.copy_(_flat(features))
        self.source.copy_(sources)

    def queries(self, features: Sequence[Tensor]) -> Tensor:
        """See `Memory`: all levels, flattened."""
        return _flat(features).unsqueeze(1)  # (B, 1, D)

    def vectors(self) -> Tensor:
        """See `Memory`."""
        return self.bank

    def nearest(self, queries: Tensor, exclude: Tensor | None = None) -> Tensor:
        """See `Memory`. Eq. 7: the sample with the least sum of squared differences over all levels.

        |x - m|² = |x|² - 2 x·m + |m|², and |x|² is the same for all m: one matrix product finds the minimum.
        """
        partial = self.bank.square().sum(1) - 2 * F.linear(queries[:, 0], self.bank)  # (B, K)
        if exclude is not None:
            partial = partial.masked_fill(exclude.unsqueeze(1) == self.source, float("inf"))
        return partial.argmin(1, keepdim=True)

    def at(self, features: Sequence[Tensor], index: Tensor) -> Match:
        """See `Memory`. Eq. 8."""
        index = index[:, 0]
        rows = torch.split(self.bank[index], self.sizes, dim=1)
        values = [row.view(-1, *shape) for row, shape in zip(rows, self.shapes, strict=True)]
        distance = (descriptors(features) - descriptors(values)).square().sum(1, keepdim=True).sqrt()
        _, h, w = self.shapes[1]
        return Match(values, distance, self.source[index].view(-1, 1, 1).expand(-1, h, w))


class PatchMemory(Memory):
    """Patches of normal pictures: for each place of stride 8 the features of all levels there.

    A patch is searched by a code of its descriptor, which keeps the matrix product small, and compared by the whole
    descriptor. The code is the leading principal components, turned by a random rotation so that all vary alike, in
    whole numbers of at most 7 bits: float32 adds them up without rounding, so all engines find the same patch, and
    those that multiply bytes faster may do so.

    Attributes:
        columns: float32 (K, D): features of all levels at a place: four of stride 4, one of stride 8, one of stride 16
            interpolated.
        descriptors: float32 (K, E): of the same places, see `descriptors`, and with a position code two values more.
        source: int64 (K,): the picture that the patch is from.
        codes: float32 (S, 64·n), whole numbers from -63 to 63: a column for each of the same places, zeros up to a
            whole number of blocks.
        squares: float32 (64·n,): |m|² of each column, and where there is no place more than any can have.
        spread: float32 (K,), in steps of the code: mean distance of a patch to the five nearest others, at least 1.
        mean, basis: float32 (E,), (E, S): a code is (descriptor - mean) @ basis, rounded.
        position_weight: how much a patch's place counts: its distance from the middle of the picture, at most 1 in
            each direction, times the descriptors' standard deviation over all places, times this.
    """

    scope = "patch"
    columns: Tensor
    descriptors: Tensor
    codes: Tensor
    squares: Tensor
    spread: Tensor
    mean: Tensor
    basis: Tensor
    place_unit: Tensor

    def __init__(
        self,
        patches: int,
        channels: Sequence[int],
        reduction: Literal["coreset", "kmeans"] = "coreset",
        position_weight: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        c1, c2, c3 = self.channels = tuple(channels)
        self.reduction, self.position_weight, self.seed = reduction, position_weight, seed
        dims = c1 + c2 + c3 + (2 if position_weight else 0)
        self.register_buffer("columns", torch.zeros(patches, 4 * c1 + c2 + c3))
        self.register_buffer("descriptors", torch.zeros(patches, dims))
        self.register_buffer("source", torch.zeros(patches, dtype=torch.int64))
        self.register_buffer("place_unit", torch.ones(()))
        self.register_buffer("mean", torch.zeros(dims))
        self.register_buffer("basis", torch.zeros(dims, min(SEARCH_DIMS, dims)))
        self.register_buffer("codes", torch.zeros(min(SEARCH_DIMS, dims), patches + -patches % BLOCK))
        self.register_buffer("spread", torch.ones(patches))
        self.register_buffer("squares", torch.full((self.codes.shape[1],), float(NEVER)))

    def fill(self, features: Sequence[Tensor], sources: Tensor) -> None:
        """See `Memory`. Where there are fewer patches than the memory holds, the last is repeated."""
        with torch.no_grad():
            generator = torch.Generator().manual_seed(self.seed)
            self.place_unit.copy_(descriptors([level[:64] for level in features]).var(dim=(0, 2, 3)).sum().sqrt())
            per_picture = features[1].shape[2] * features[1].shape[3]
            described = torch.empty(len(sources) * per_picture, self.descriptors.shape[1])  # (N, E), filled in place
            for one, rows in zip(_in_batches(features), torch.split(described, BATCH * per_picture), strict=True):
                rows.copy_(self._described(one))
            some = torch.randperm(len(described), generator=generator)[:SAMPLED]
            self.mean.copy_(described[some].mean(0))
            centred = described[some] - self.mean
            _, vectors = torch.linalg.eigh(centred.T @ centred)  # ascending
            dims = self.basis.shape[1]
            turned = vectors[:, -dims:] @ torch.linalg.qr(torch.randn(dims, dims, generator=generator)).Q
            # k-means would take minutes with all
            picked, reduce = {
                "coreset": (torch.arange(len(described)), coreset),
                "kmeans": (some, cluster_centres),
            }[self.reduction]
            within = torch.cat([(described[few] - self.mean) @ turned for few in torch.split(picked, SAMPLED)])
            kept = reduce(within, len(self.source), self.seed)
            kept = torch.cat([kept, kept[-1:].expand(len(self.source) - len(kept))])
            step = within[kept].abs().amax().clamp_min(1e-6) / CODE
            self.basis.copy_(turned / step)
            chosen = picked[kept]
            self.descriptors.copy_(described[chosen])
            self._index()
            self.source.copy_(sources[chosen // per_picture])
            first = 0
            for one in _in_batches(features):  # a batch at a time: all columns at once would be gigabytes
                columns = _places(_columns(one))
                here = (chosen >= first) & (chosen < first + len(columns))
                self.columns[here] = columns[chosen[here] - first]
                first += len(columns)

    def queries(self, features: Sequence[Tensor]) -> Tensor:
        """See `Memory`: codes, row by row."""
        return self._queries(self._described(features), features[0].shape[0])

    def vectors(self) -> Tensor:
        """See `Memory`: codes."""
        return self.codes.T[: self.size]

    def nearest(self, queries: Tensor, exclude: Tensor | None = None) -> Tensor:
        """See `Memory`; of several that are equally near the first."""
        b, q, s = queries.shape
        if exclude is not None:
            own = (exclude.unsqueeze(1) == self.source) * 1e30  # (B, K)
            codes, squares = self.codes[:, : self.size], self.squares[: self.size] + own
            others = zip(queries, squares, strict=True)  # one at a time stays in the cache
            return torch.stack([torch.addmm(away, x, codes, alpha=-2).argmin(1) for x, away in others])
        # |x - m|² without |x|², (B·Q, K) in blocks
        away = torch.addmm(self.squares, queries.view(-1, s), self.codes, alpha=-2).view(b * q, -1, BLOCK)
        block = away.amin(2).argmin(1)
        # a plain Gather would be faster, but OpenVINO 2026.4 then answers wrongly where convolutions are in int8
        within = away.gather(1, block.view(-1, 1, 1).expand(-1, 1, BLOCK))[:, 0].argmin(1)
        return (block * BLOCK + within).view(b, q)

    def at(self, features: Sequence[Tensor], index: Tensor) -> Match:
        """See `Memory`."""
        return self._at(features, index, self._described(features))

    def match(self, features: Sequence[Tensor], exclude: Tensor | None = None) -> Match:
        """See `Memory`; describes x once where the parts would twice."""
        described = self._described(features)
        return self._at(features, self.nearest(self._queries(described, features[0].shape[0]), exclude), described)

    def margin(self, features: Sequence[Tensor]) -> Tensor:
        """How far the choice of the nearest patches is from being another one, in steps of the code, float32 (B,).

        Components that lie so near the middle between two whole numbers may be rounded either way, by engines that
        add up in another order, and at some place that could make the second patch as near as the first.
        """
        exact, codes = (self._described(features) - self.mean) @ self.basis, self.vectors()
        rounded = exact.round().clamp(-CODE, CODE)
        two = torch.cdist(rounded, codes).topk(min(2, self.size), largest=False)
        first, last = (codes[two.indices[:, i]] for i in (0, -1))
        gap = (rounded - last).square().sum(1, keepdim=True) - (rounded - first).square().sum(1, keepdim=True)
        room, order = (0.5 - (exact - exact.round()).abs()).sort(dim=1)
        could_change = (2 * (first - last).abs()).gather(1, order).cumsum(1)
        least = room.masked_fill(could_change < gap, 0.5).amin(1) * (gap[:, 0] > 0)
        return least.view(features[1].shape[0], -1).amin(1)

    def _described(self, features: Sequence[Tensor]) -> Tensor:
        """Row by row, (B·h·w, E)."""
        # each level by itself: its channels are moved last where it is computed, and not once more behind
        found = [_places(level) for level in _described_levels(features)]
        if self.position_weight:
            b, _, h, w = features[1].shape
            y = torch.linspace(-1, 1, h).view(1, h, 1, 1).expand(b, h, w, 1)
            x = torch.linspace(-1, 1, w).view(1, 1, w, 1).expand(b, h, w, 1)
            place = torch.cat([y, x], dim=3).reshape(-1, 2)
            found.append(self.position_weight * self.place_unit * place)
        return torch.cat(found, dim=1)

    def _index(self) -> None:
        """Codes of the descriptors that are there now."""
        self.codes[:, : self.size] = self._coded(self.descriptors).T
        self.squares[: self.size] = self.vectors().square().sum(1)
        count = min(1 + NEIGHBOURS, self.size)
        some = torch.split(self.vectors(), 1024)  # all at once would be gigabytes where there are many
        near = [torch.cdist(few, self.vectors()).topk(count, largest=False).values for few in some]
        self.spread.copy_(
            torch.cat(near)[:, 1:].mean(1).nan_to_num(1.0).clamp_min(1.0)
        )  # the first is the patch itself

    def _coded(self, rows: Tensor) -> Tensor:
        return ((rows - self.mean) @ self.basis).round().clamp(-CODE, CODE)  # (N, E) → (N, S)

    def _queries(self, described: Tensor, pictures: int) -> Tensor:
        return self._coded(described).view(pictures, -1, self.basis.shape[1])  # (B·Q, E) → (B, Q, S)

    def _at(self, features: Sequence[Tensor], index: Tensor, described: Tensor) -> Match:
        b, _, h, w = features[1].shape
        index = index.view(-1)  # (B·h·w,)
        # index_select is a plain Gather when exported, indexing a dearer GatherND
        away = described - self.descriptors.index_select(0, index)
        distance = (away * away).sum(1).div(self.spread.index_select(0, index)).sqrt()
        c1, c2, _ = self.channels
        # a table for each level, laid out as it is read: libraries do that once, when they load a graph
        table = self.columns[:, : 4 * c1].view(-1, c1, 2, 2).permute(0, 2, 3, 1)  # (K, 2, 2, C1)
        fine = table.index_select(0, index).view(b, h, w, 2, 2, c1).transpose(2, 3).reshape(b, 2 * h, 2 * w, c1)
        middle = self.columns[:, 4 * c1 : 4 * c1 + c2].index_select(0, index).view(b, h, w, -1)
        coarse = self.columns[:, 4 * c1 + c2 :].index_select(0, index).view(b, h, w, -1)
        at_strides = [level.permute(0, 3, 1, 2) for level in (fine, middle, coarse)]  # (B, C, H, W) each
        values = [*at_strides[:2], F.avg_pool2d(at_strides[2], 2)]
        return Match(values, distance.view(b, 1, h, w), self.source.index_select(0, index).view(b, h, w))


def descriptors(features: Sequence[Tensor]) -> Tensor:
    """What a place of stride 8 looks like: all levels there, each averaged over 3x3 of its own cells (PatchCore §3.1).

    Cells outside the picture count as zeros. So places at the border look unlike all others and find each other: border
    effects of the encoder are no defects.

    Args:
        features: one (B, C, H, W) per level, strides 4, 8, 16.

    Returns:
        float32 (B, C1 + C2 + C3, H/8, W/8).
    """
    return torch.cat(_described_levels(features), dim=1)


def _described_levels(features: Sequence[Tensor]) -> list[Tensor]:
    fine, middle, coarse = (F.avg_pool2d(x, 3, 1, 1) for x in features)
    return [F.avg_pool2d(fine, 2), middle, _twice(coarse)]


def _columns(features: Sequence[Tensor]) -> Tensor:
    fine, middle, coarse = features
    return torch.cat([F.pixel_unshuffle(fine, 2), middle, _twice(coarse)], dim=1)


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def _places(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])  # (B, C, H, W) → (B·H·W, C)


def _in_batches(features: Sequence[Tensor]) -> list[list[Tensor]]:
    return [[level[i : i + BATCH] for level in features] for i in range(0, len(features[0]), BATCH)]


def _flat(features: Sequence[Tensor]) -> Tensor:
    return torch.cat([level.flatten(1) for level in features], dim=1)
