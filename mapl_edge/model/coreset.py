"""Which of many patches a memory keeps: those farthest from each other, or the centres of their clusters."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

GROUP = 256  # vectors that are compared at once


def coreset(vectors: Tensor, count: int, seed: int) -> Tensor:
    """Greedy k-centre (PatchCore, algorithm 1): each next one is the farthest from all chosen so far.

    Rare normal patches are kept this way, however rare; of many alike one is enough. Distances to what is chosen only
    shrink, so an old one is a bound: a group of vectors is compared with what was chosen since only where its bound is
    the largest of all, and then with all of that in one product.

    Args:
        vectors: float32 (N, D).
        count: how many; all N where there are fewer.
        seed: draws the first.

    Returns:
        Indices, int64 (min(count, N),), in the order of choice.
    """
    n, dims = vectors.shape
    count = min(count, n)
    squares = vectors.square().sum(1)
    near = torch.full((n,), float("inf"))  # squared distance to the nearest that is chosen, at most
    groups = list(zip(*(torch.split(each, GROUP) for each in (vectors, squares, near)), strict=True))
    largest, compared = np.full(len(groups), np.inf, np.float32), [0] * len(groups)
    centres, their_squares = torch.empty(count, dims), torch.empty(count)
    chosen: list[int] = []
    farthest = int(torch.randint(n, (1,), generator=torch.Generator().manual_seed(seed)))
    while True:
        centres[len(chosen)], their_squares[len(chosen)] = vectors[farthest], squares[farthest]
        chosen.append(farthest)
        near[farthest] = -1  # never twice, not even where rounding or twins leave others at nought
        largest[farthest // GROUP] = groups[farthest // GROUP][2].max()
        if len(chosen) == count:
            return torch.tensor(chosen)
        while compared[group := int(largest.argmax())] < len(chosen):
            some, their, bounds = groups[group]
            new = slice(compared[group], len(chosen))
            to_new = torch.addmm(their_squares[new], some, centres[new].T, alpha=-2).amin(1) + their
            torch.minimum(bounds, to_new, out=bounds)
            compared[group], largest[group] = len(chosen), bounds.max()
        farthest = GROUP * group + int(groups[group][2].argmax())


def cluster_centres(vectors: Tensor, count: int, seed: int) -> Tensor:
    """The patch nearest to each centre of k-means (FAISS); real patches, so that a difference to one is a real one.

    Returns:
        Indices, int64 (at most min(count, N),), sorted, each once.
    """
    import faiss  # heavy, and only here

    count = min(count, len(vectors))
    # FAISS warns below 39 vectors a centre; there k-means is no more than a choice among them, and a fine one.
    kmeans = faiss.Kmeans(vectors.shape[1], count, niter=10, seed=seed, min_points_per_centroid=1)
    data = vectors.contiguous().numpy()
    kmeans.train(data)
    index = faiss.IndexFlatL2(vectors.shape[1])
    index.add(data)
    _, nearest = index.search(np.asarray(kmeans.centroids), 1)
    return torch.from_numpy(np.unique(nearest[:, 0]))
