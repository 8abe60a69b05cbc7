"""Data of odd kinds, taken by all models from set-up to reading, or refused in words when they are set up."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import scvi
from scipy import sparse

from tests.model.test_contract import KEYS, MODELS, data

from .calls import judge

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Forms of counts, made of CSR matrices, float32.
COUNTS = {
    "csr": lambda x: x,
    "csc": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
    "csc_array": sparse.csc_array,
    "dense": lambda x: x.toarray(),
    "Fortran": lambda x: np.asfortranarray(x.toarray()),
    "read-only": lambda x: _read_only(x.toarray()),
    "strided": lambda x: np.repeat(x.toarray(), 2, axis=0)[::2],
    "float16": lambda x: x.toarray().astype(np.float16),
    "float64": lambda x: x.astype(np.float64),
    "longdouble": lambda x: x.toarray().astype(np.longdouble),
    "int8": lambda x: x.toarray().astype(np.int8),
    "uint8": lambda x: x.minimum(200).astype(np.uint8),
    "int64": lambda x: x.astype(np.int64),
    "uint64": lambda x: x.astype(np.uint64),
    "bool": lambda x: x.astype(bool),
    "big-endian": lambda x: x.toarray().astype(">f4"),
    "big-endian sparse": lambda x: sparse.csr_matrix((x.data.astype(">i4"), x.indices, x.indptr), shape=x.shape),
    "complex": lambda x: x.toarray().astype(complex),
    "objects": lambda x: x.toarray().astype(object),
    "texts": lambda x: x.toarray().astype(str),
    "masked": lambda x: np.ma.masked_equal(x.toarray(), 1),
    "matrix": lambda x: np.asmatrix(x.toarray()),
    "negative": lambda x: -x,
    "one negative": lambda x: _with(x, -1),
    "one fraction": lambda x: _with(x, 0.5),
    "one NaN": lambda x: _with(x, np.nan),
    "one infinite": lambda x: _with(x, np.inf),
    "a huge count": lambda x: _with(x, 2.0**40),
    "log-normalised": lambda x: x.multiply(1e4 / x.sum(1)).tocsr().log1p(),
    "all zeros": lambda x: x * 0,
    "an empty cell": lambda x: (sparse.diags((np.arange(x.shape[0]) > 0).astype(np.float32)) @ x).tocsr(),
    "an empty gene": lambda x: (x @ sparse.diags((np.arange(x.shape[1]) > 0).astype(np.float32))).tocsr(),
    "explicit zeros": lambda x: _with_zeros(x),
    "duplicate entries": lambda x: _with_duplicates(x),
    "unsorted indices": lambda x: _unsorted(x),
    "int64 indices": lambda x: _wide(x),
    "indices out of range": lambda x: _out_of_range(x),
    "indptr that falls": lambda x: _falling(x),
    **({"dask": lambda x: _dask(x)} if importlib.util.find_spec("dask") else {}),
}
#: Columns of ``n`` cells, by a generator of random numbers.
COLUMNS = {
    "texts": lambda n, rng: rng.choice(["a", "b"], n),
    "categorical": lambda n, rng: pd.Categorical(rng.choice(["a", "b"], n)),
    "ordered": lambda n, rng: pd.Categorical(rng.choice(["a", "b"], n), ordered=True, categories=["b", "a"]),
    "unused category": lambda n, rng: pd.Categorical(rng.choice(["a", "b"], n), categories=["a", "ghost", "b"]),
    "one category": lambda n, rng: np.full(n, "a"),
    "all different": lambda n, rng: [f"x{i}" for i in range(n)],
    "integers": lambda n, rng: rng.integers(0, 2, n),
    "negative integers": lambda n, rng: rng.integers(-3, 0, n),
    "uint8": lambda n, rng: rng.integers(0, 2, n).astype(np.uint8),
    "floats": lambda n, rng: rng.normal(size=n),
    "whole floats": lambda n, rng: rng.integers(1, 3, n).astype(float),
    "float16": lambda n, rng: rng.normal(size=n).astype(np.float16),
    "huge floats": lambda n, rng: rng.normal(size=n) * 1e30,
    "tiny floats": lambda n, rng: rng.random(n) * 1e-30,
    "constant": lambda n, rng: np.ones(n),
    "zeros": lambda n, rng: np.zeros(n),
    "bools": lambda n, rng: rng.random(n) < 0.5,
    "nullable integers": lambda n, rng: pd.array(rng.integers(1, 3, n), dtype="Int64"),
    "nullable with NA": lambda n, rng: pd.array([pd.NA, *rng.integers(1, 3, n - 1)], dtype="Int64"),
    "nullable bools": lambda n, rng: pd.array(rng.random(n) < 0.5, dtype="boolean"),
    "strings": lambda n, rng: pd.array(rng.choice(["a", "b"], n), dtype="string"),
    "NaN among floats": lambda n, rng: np.where(np.arange(n) == 1, np.nan, rng.normal(size=n)),
    "NaN among texts": lambda n, rng: np.array([np.nan, *rng.choice(["a", "b"], n - 1)], dtype=object),
    "None among texts": lambda n, rng: np.array([None, *rng.choice(["a", "b"], n - 1)], dtype=object),
    "NaN among categories": lambda n, rng: pd.Categorical([np.nan, *rng.choice(["a", "b"], n - 1)]),
    "all NaN": lambda n, rng: np.full(n, np.nan),
    "infinite": lambda n, rng: np.where(np.arange(n) == 1, np.inf, 1.0),
    "mixed": lambda n, rng: np.array([1, "a"] * n, dtype=object)[:n],
    "bools and texts": lambda n, rng: np.array([True, "a"] * n, dtype=object)[:n],
    "numbers as texts": lambda n, rng: rng.choice(["1.5", "2"], n),
    "complex": lambda n, rng: rng.normal(size=n) + 1j,
    "dates": lambda n, rng: pd.to_datetime(rng.choice(["2020-01-01", "2021-02-02"], n)),
    "durations": lambda n, rng: pd.to_timedelta(rng.integers(1, 3, n), unit="D"),
    "intervals": lambda n, rng: pd.cut(rng.normal(size=n), 2),
    "tuples": lambda n, rng: pd.Series([("a", 1), ("b", 2)] * n)[:n].to_numpy(),
    "lists": lambda n, rng: pd.Series([["a"], ["b"]] * n)[:n].to_numpy(),
    "bytes": lambda n, rng: np.array([b"a", b"b"] * n, dtype=object)[:n],
    "empty texts": lambda n, rng: rng.choice(["", "b"], n),
    "long texts": lambda n, rng: rng.choice(["a" * 500, "ü"], n),
}
_ARGUMENTS = [key for key in KEYS if key != "labels_key"] + ["labels_key"]


class Input(NamedTuple):
    """Data of one model."""

    model: str
    counts: str
    argument: str | None
    column: str

    def __str__(self) -> str:
        return f"{self.model}, counts: {self.counts}" + (f", {self.argument}: {self.column}" if self.argument else "")


def draw_inputs(seed: int, n: int) -> Iterator[Input]:
    """Random data: odd counts without columns, or an odd column."""
    rng = np.random.default_rng(seed)
    names = [name for name in MODELS if name != "scVI"]
    for _ in range(n):
        name, argument, column = str(rng.choice(names)), None, ""
        if rng.random() < 0.5:
            counts = str(rng.choice(list(COUNTS)))
        else:
            counts, argument, column = "csr", str(rng.choice(_ARGUMENTS)), str(rng.choice(list(COLUMNS)))
        yield Input(name, counts, argument, column)


def outcome_of(given: Input, seed: int = 0) -> str:
    """Empty if all went well, or was refused in words when it was set up, or the model made."""
    model_class, options = MODELS[given.model]
    adata, new = data()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.X = COUNTS[given.counts](adata.X)
    keys = {}
    if given.argument is not None:
        values = COLUMNS[given.column](adata.n_obs, np.random.default_rng(seed))
        adata.obs["odd"] = pd.Series(values, index=adata.obs_names)
        keys = {given.argument: ["odd"] if given.argument.endswith("keys") else "odd"}
    scvi.settings.seed = seed
    if given.argument == "size_factor_key" and given.model == "SCDBM":
        options = options | {"use_library_size": True}
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        try:
            model_class.setup_anndata(adata, **keys)
            model = model_class(adata, **options)
        except Exception as error:  # noqa: BLE001  which ones may come is what is tried
            return judge(error)
        try:
            model.train(3, accelerator="cpu", enable_progress_bar=False)
            results = {
                "z": model.get_latent_representation(),
                "shares": model.get_normalized_expression(return_numpy=True),
            }
            if given.argument is None:
                results["z of new cells"] = model.get_latent_representation(new)
        except Exception as error:  # noqa: BLE001
            return f"accepted, and then {type(error).__name__}: {' '.join(str(error).split())[:150]!r}"
    return ", ".join(f"{name} is not finite" for name, value in results.items() if not np.isfinite(value).all())


def _with(x: sparse.csr_matrix, value: float) -> sparse.csr_matrix:
    x = x.copy()
    x.data[3] = value
    return x


def _read_only(x: np.ndarray) -> np.ndarray:
    x.setflags(write=False)
    return x


def _with_zeros(x: sparse.csr_matrix) -> sparse.csr_matrix:
    dense = x.toarray()
    n, g = dense.shape
    return sparse.csr_matrix((dense.ravel(), np.tile(np.arange(g), n), np.arange(n + 1) * g), shape=x.shape)


def _with_duplicates(x: sparse.csr_matrix) -> sparse.csr_matrix:
    return sparse.csr_matrix((np.repeat(x.data, 2), np.repeat(x.indices, 2), x.indptr * 2), shape=x.shape)


def _unsorted(x: sparse.csr_matrix) -> sparse.csr_matrix:
    order = np.concatenate([np.arange(a, b)[::-1] for a, b in zip(x.indptr[:-1], x.indptr[1:], strict=True)])
    return sparse.csr_matrix((x.data[order], x.indices[order], x.indptr), shape=x.shape)


def _wide(x: sparse.csr_matrix) -> sparse.csr_matrix:
    x = x.copy()
    x.indices, x.indptr = x.indices.astype(np.int64), x.indptr.astype(np.int64)
    return x


def _out_of_range(x: sparse.csr_matrix) -> sparse.csr_matrix:
    x = x.copy()
    x.indices[3] = x.shape[1] + 100
    return x


def _falling(x: sparse.csr_matrix) -> sparse.csr_matrix:
    x = x.copy()
    x.indptr[2] = x.indptr[4]
    return x


def _dask(x: sparse.csr_matrix):
    import dask.array as da

    return da.from_array(x.toarray(), chunks=(5, x.shape[1]))
