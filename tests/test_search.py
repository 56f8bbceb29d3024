"""The search finds the nearest vectors, says how often where it is not exact, and refuses files that do not fit."""

import sys
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info

from mapl_edge import search
from mapl_edge.arrays import FloatArray, IntArray
from mapl_edge.errors import BackendError, BackendUnavailable, BundleError, ContractMismatch
from mapl_edge.search import FLAT_UP_TO, MIN_SAMPLES, RECALL, SearchIndex, index_from_vectors, write_index


def points(n: int, dims: int, seed: int) -> FloatArray:
    """Vectors that vary in few directions, as patches of a part do."""
    directions = np.random.default_rng(99).normal(size=(4, dims))
    return (np.random.default_rng(seed).normal(size=(n, 4)) @ directions).astype(np.float32)


def exact(queries: FloatArray, vectors: FloatArray) -> IntArray:
    """The nearest by plain distance in float64, query by query."""
    return np.array([((vectors.astype(float) - query) ** 2).sum(1).argmin() for query in queries])


def opened(index: object, folder: Path, reach: float | None = None, **expected: int) -> SearchIndex:
    """An index that went through a file."""
    write_index(index, folder / "memory.faiss")
    return SearchIndex(folder / "memory.faiss", threads=1, reach=reach, **expected)


@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 20), st.sampled_from([1, 3]))
@settings(max_examples=20, deadline=None)
def test_a_small_memory_is_searched_exactly(
    tmp_path_factory: pytest.TempPathFactory, seed: int, entries: int, dims: int, batch: int
) -> None:
    """Whatever its size and the batch's, the answer is the definition's."""
    vectors, queries = points(entries, dims, seed), points(batch * 7, dims, seed + 1)

    index, summary = index_from_vectors(vectors, queries.reshape(batch, 7, dims))
    found = opened(index, tmp_path_factory.mktemp("index")).search(queries.reshape(batch, 7, dims))

    assert (summary.index, summary.entries, summary.dims, summary.recall) == ("Flat", entries, dims, 1.0)
    assert found.dtype == np.int64
    assert found.shape == (batch, 7)
    assert found.ravel().tolist() == exact(queries, vectors).tolist()


def test_a_large_memory_is_searched_faster_and_nearly_exactly(tmp_path: Path) -> None:
    """The recall that the summary promises holds for queries that it was not measured with."""
    vectors, samples, others = points(6000, 16, 0), points(4000, 16, 1).reshape(8, 500, 16), points(500, 16, 2)

    index, summary = index_from_vectors(vectors, samples)
    found = opened(index, tmp_path, summary.reach, entries=6000, dims=16).search(others[None])

    assert summary.index != "Flat"
    assert summary.recall >= RECALL
    assert summary.queries >= 1900
    assert (found[0] == exact(others, vectors)).mean() >= RECALL - 0.01


def test_the_recall_is_that_of_pictures_that_did_not_set_it(tmp_path: Path) -> None:
    """Every other picture; places of the pictures that set it would be found more often than those of the next part."""
    vectors, samples = points(6000, 16, 0), points(4000, 16, 1).reshape(8, 500, 16)

    index, summary = index_from_vectors(vectors, samples)
    others = samples[1::2].reshape(-1, 16)
    found = opened(index, tmp_path, summary.reach).search(others[None])[0]

    assert summary.queries == len(others)
    assert summary.recall == (found == exact(others, vectors)).mean()


def test_whoever_searches_the_file_with_faiss_alone_finds_as_much() -> None:
    """The file says into how many lists to look."""
    vectors, samples = points(6000, 16, 0), points(4000, 16, 1).reshape(8, 500, 16)

    index, _ = index_from_vectors(vectors, samples)
    others = points(2000, 16, 2)

    assert (index.search(others, 1)[1][:, 0] == exact(others, vectors)).mean() >= RECALL


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 40), st.sampled_from([0, 5, 60, 10**6]))
@settings(max_examples=40, deadline=None)
def test_a_query_finds_the_nearest_of_all_lists_within_reach(
    tmp_path_factory: pytest.TempPathFactory, seed: int, lists: int, queries: int, reach: int
) -> None:
    """By the definition, list by list; whole numbers, as codes are, of which many are equally near."""
    rng = np.random.default_rng(seed)
    vectors, asked = (rng.integers(-4, 5, (n, 3)).astype(np.float32) for n in (80, queries))
    index = faiss.index_factory(3, f"IVF{lists},Flat")
    index.cp.min_points_per_centroid = 1
    index.train(vectors)
    index.add(vectors)
    centres = index.quantizer.reconstruct_n(0, lists)
    of_entry = index.quantizer.search(vectors, 1)[1][:, 0]

    found = opened(index, tmp_path_factory.mktemp("index"), float(reach)).search(asked[None])[0]

    for query, answer in zip(asked.astype(float), found, strict=True):
        filled = np.isin(np.arange(lists), of_entry)
        away = np.where(filled, ((centres - query) ** 2).sum(1), np.inf)
        edge = away.min() + reach
        squares = ((vectors - query) ** 2).sum(1)
        within, allowed = (away[of_entry] <= edge + slack for slack in (-1e-3, 1e-3))
        looked_into = within | (of_entry == of_entry[answer])  # a list on the very edge may count or not
        assert allowed[answer]
        assert answer == np.where(looked_into, squares, np.inf).argmin()


def test_an_index_of_an_older_bundle_is_still_searched(tmp_path: Path) -> None:
    """Quantised vectors, the best compared exactly; its manifest tells no reach."""
    vectors, asked = points(2000, 16, 0), points(50, 16, 1)
    index = faiss.index_factory(16, "IVF16,PQ16x4fs,RFlat")
    index.train(vectors)
    index.add(vectors)
    index.k_factor = 64
    faiss.downcast_index(faiss.downcast_index(index).base_index).nprobe = 16

    found = opened(index, tmp_path).search(asked[None])[0]

    assert (found == exact(asked, vectors)).all()


@pytest.mark.parametrize(
    "samples",
    [
        None,
        points(MIN_SAMPLES - 2, 8, 1).reshape(2, -1, 8),
        points(4 * MIN_SAMPLES, 8, 1)[None],
        points(FLAT_UP_TO + 2, 8, 0)[:FLAT_UP_TO].reshape(2, -1, 8),
    ],
    ids=["none", "few", "one picture", "the memory's own"],
)
def test_without_new_queries_a_large_memory_is_searched_exactly(samples: FloatArray | None) -> None:
    """A recall measured with nothing, with little, with the picture that set it, or with the memory itself would be a
    promise without ground."""
    _, summary = index_from_vectors(points(FLAT_UP_TO + 1, 8, 0), samples)

    assert summary.index == "Flat"


def test_where_no_list_is_enough_the_search_stays_exact() -> None:
    """Noise in many dimensions has no neighbourhoods to look into."""
    rng = np.random.default_rng(0)
    vectors, samples = rng.normal(size=(FLAT_UP_TO + 1, 64)), rng.normal(size=(1500, 64))

    _, summary = index_from_vectors(vectors.astype(np.float32), samples.astype(np.float32).reshape(2, -1, 64))

    assert summary.index == "Flat"


@pytest.mark.parametrize("kept", [0, 3, 20, 60, -5], ids=["empty", "magic", "header", "numbers", "last bytes"])
def test_a_damaged_file_is_named(tmp_path: Path, kept: int) -> None:
    """FAISS' own errors speak of its source lines."""
    path = tmp_path / "memory.faiss"
    write_index(index_from_vectors(points(50, 8, 0))[0], path)
    path.write_bytes(path.read_bytes()[:kept])

    with pytest.raises(BundleError, match=r"memory\.faiss: is damaged"):
        SearchIndex(path)


def test_a_file_of_something_else_is_named(tmp_path: Path) -> None:
    """Another format, another metric, nothing at all."""
    garbage, inner, nothing = tmp_path / "garbage.faiss", tmp_path / "inner.faiss", tmp_path / "nothing.faiss"
    garbage.write_bytes(b"not an index, though it is longer than a header of one")
    write_index(faiss.IndexFlatIP(8), inner)

    for path, problem in ((garbage, "is damaged"), (inner, "squared differences"), (nothing, "cannot be read")):
        with pytest.raises(BundleError, match=f"{path.name}: .*{problem}"):
            SearchIndex(path)


@pytest.mark.parametrize("expected", [{"entries": 51}, {"dims": 9}], ids=["entries", "dims"])
def test_an_index_of_another_model_is_refused(tmp_path: Path, expected: dict[str, int]) -> None:
    """Its answers would be places in another memory."""
    index, _ = index_from_vectors(points(50, 8, 0))

    with pytest.raises(BundleError, match=r"has (50 vectors|8 numbers a vector), the graphs beside it expect"):
        opened(index, tmp_path, **expected)


def test_queries_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """FAISS would read them as what they are not, or stop with an assertion."""
    index = opened(index_from_vectors(points(50, 8, 0))[0], tmp_path)

    with pytest.raises(ContractMismatch, match="the index takes float32 of 8"):
        index.search(np.zeros((1, 4, 9), np.float32))
    with pytest.raises(ContractMismatch, match="float64"):
        index.search(np.zeros((1, 4, 8)))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["Flat", "IVF4,Flat"])
def test_a_query_that_is_no_number_has_no_nearest(tmp_path: Path, kind: str) -> None:
    """FAISS answers -1, which a decoder would take for the last entry."""
    built = faiss.index_factory(8, kind)
    built.train(points(200, 8, 0))
    built.add(points(200, 8, 0))
    index = opened(built, tmp_path, reach=1.0 if "IVF" in kind else None)

    with pytest.raises(BackendError, match="found nothing near 1 of 4 queries"):
        index.search(np.array([[[0.0] * 8, [np.nan] * 8, [1.0] * 8, [2.0] * 8]], np.float32))


def test_without_faiss_the_remedy_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lean install may leave it out."""
    monkeypatch.setitem(sys.modules, "faiss", None)

    with pytest.raises(BackendUnavailable, match="pip install faiss-cpu"):
        SearchIndex(tmp_path / "memory.faiss")


def test_a_gpu_is_used_where_faiss_has_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same index, moved once; the same answers."""
    moved = []

    def index_cpu_to_gpu(resources: object, device: int, index: object) -> object:
        moved.append((resources, device))
        return index

    monkeypatch.setattr(faiss, "StandardGpuResources", lambda: "resources", raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", index_cpu_to_gpu, raising=False)
    vectors = points(50, 8, 0)

    index = opened(search.index_from_vectors(vectors)[0], tmp_path)

    assert moved == [("resources", 0)]
    assert index.search(vectors[None]).ravel().tolist() == list(range(50))


def test_on_a_gpu_a_large_memory_is_searched_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists save nothing there; the vectors in them are compared all of them."""
    monkeypatch.setattr(faiss, "StandardGpuResources", lambda: "resources", raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", lambda resources, device, index: index, raising=False)
    vectors, asked = points(6000, 16, 0), points(500, 16, 3)
    built, summary = index_from_vectors(vectors, points(4000, 16, 1).reshape(8, 500, 16))

    index = opened(built, tmp_path, summary.reach)

    assert (index.search(asked[None])[0] == exact(asked, vectors)).all()


def test_a_search_leaves_the_threads_of_others_alone(tmp_path: Path) -> None:
    """FAISS and torch share one setting: training after a search would sum in another order. numpy has its own."""
    vectors = points(6000, 8, 0)
    before = faiss.omp_get_max_threads(), threadpool_info()

    for k, samples in ((50, None), (6000, points(2000, 8, 1).reshape(2, 1000, 8))):
        index, summary = index_from_vectors(vectors[:k], samples)
        write_index(index, tmp_path / "memory.faiss")
        SearchIndex(tmp_path / "memory.faiss", before[0] + 1, summary.reach).search(vectors[None, :50])

    assert summary.reach
    assert (faiss.omp_get_max_threads(), threadpool_info()) == before
