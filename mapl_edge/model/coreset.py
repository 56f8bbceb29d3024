"""Which of many patches a memory keeps: those farthest from each other, or the centres of their clusters."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def coreset(vectors: Tensor, count: int, seed: int) -> Tensor:
    """Greedy k-centre (PatchCore, algorithm 1): each next one is the farthest from all chosen so far.

    Rare normal patches are kept this way, however rare; of many alike one is enough.

    Args:
        vectors: float32 (N, D).
        count: how many; all N where there are fewer.
        seed: draws the first.

    Returns:
        Indices, int64 (min(count, N),), in the order of choice.
    """
    generator = torch.Generator().manual_seed(seed)
    squares = vectors.square().sum(1)
    farthest = int(torch.randint(len(vectors), (1,), generator=generator))
    distance = torch.full((len(vectors),), float("inf"))
    chosen = []
    for _ in range(min(count, len(vectors))):
        chosen.append(farthest)
        to_it = squares - 2 * (vectors @ vectors[farthest]) + squares[farthest]
        distance = torch.minimum(distance, to_it)
        distance[farthest] = -1  # never twice, not even where rounding or twins leave others at nought
        farthest = int(distance.argmax())
    return torch.tensor(chosen)


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
