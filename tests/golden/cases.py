"""Small seeded trainings of every class, likelihood and prior, and everything that is asked of a model afterwards.

``python -m tests.golden.cases`` stores what they give. A change of the package that is to change no result is made
between two runs of the tests.
"""

from __future__ import annotations

import json
import platform
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, get_args

import numpy as np
import pandas as pd
import scvi
import torch
from scipy import sparse

import scdgd
from scdgd.data import MODALITY_KEY
from scdgd.likelihood import VALUE_LIKELIHOODS
from scdgd.model import MULTIDGD, SCDBM, SCDGD, SCVAD
from scdgd.model._arguments import BUILDING
from scdgd.prior import PRIORS
from scdgd.prior._covariance import CovarianceType
from scdgd.train import LaplacePlan
from tests.kinds.models import OURS, READINGS, covariates_of
from tests.model.test_contract import data

VALUES = Path(__file__).with_name("values.npz")
#: But for those that are a Bernoulli and a normal with less, or one parameter for all genes.
_LIKELIHOODS = [
    name for name in BUILDING["gene_likelihood"].values if name not in ("cross_entropy", "isotropic_normal")
]
#: Models without parameters for another batch, and one whose queries are no models.
_WITHOUT_NEW_BATCHES = (SCDGD, SCVAD, SCDBM)


class Case(NamedTuple):
    """A model, what is set up for it, and how it is trained."""

    model: str
    options: dict = {}
    keys: dict | None = None
    """``None`` for all covariates that the model takes."""
    training: dict = {}

    def name(self) -> str:
        """What tells it from the others."""
        given = {**self.options, **self.training, **({} if self.keys is None else {"keys": sorted(self.keys)})}
        given = {key: getattr(value, "__name__", value) for key, value in given.items()}
        return f"{self.model} {given}" if given else self.model


def _cases() -> list[Case]:
    cases = [Case(name) for name in OURS]
    encoderless, encoders = ("SCDGD", "SCVAD"), ("FlexSCVI", "SCGMVAE", "SCVAE")
    cases += [Case(name, {"gene_likelihood": family}) for name in (*encoderless, *encoders) for family in _LIKELIHOODS]
    cases += [
        Case(name, {"prior": "gaussian_mixture", "prior_kwargs": {"covariance_type": covariance}})
        for name in encoderless
        for covariance in get_args(CovarianceType)
        if covariance != "fixed"
    ]
    cases += [Case(name, {"prior": "softball"}) for name in encoderless]
    cases.append(Case("SCVAD", {"prior": "normal"}))
    cases += [Case("FlexSCVI", {"prior": prior}) for prior in PRIORS if prior != "softball"]
    cases += [Case("FlexSCVI", {"prior": "vmm", "posterior": "iaf"}), Case("FlexSCVI", {"decoder": "linear"})]
    cases += [Case("FlexSCVI", {"batch_representation": "embedding"}), Case("SCVMM", {"dispersion": "gene-batch"})]
    cases += [Case("FlexSCVI", {"dispersion": kind}) for kind in ("gene-label", "gene-cell")]
    cases += [Case("SCDGD", {"dispersion": "gene-batch"}), Case("SCDGD", {"size_factor": "mean"})]
    cases += [Case("SCDGD", {"size_factor": "max", "output_activation": kind}) for kind in ("sigmoid", "softplus")]
    cases += [Case("SCDGD", keys={}), Case("SCDGD", keys={"size_factor_key": "size"})]
    cases += [Case("SCDGD", training={"train_size": 0.75}), Case("SCDGD", training={"polish": True})]
    cases += [Case("SCDGD", {"noise_scale": 0.0}, training={"plan_cls": LaplacePlan})]
    cases += [Case("SCDGD", training={"warm_start": "zeros"}), Case("SCDGD", {"noise_scale": 0.0})]
    cases += [Case("SCGMVAE", {"component_weights": kind}) for kind in ("learned", "labels")]
    cases += [
        Case("SCDBM", {"use_library_size": False}),
        Case("SCDBM", training={"plan_kwargs": {"dispersion": "fisher"}}),
    ]
    return cases


CASES = {case.name(): case for case in _cases()}


def values_of(case: Case) -> dict[str, np.ndarray]:
    """All that a training of a case leads to, by name."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings(), TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")
            return {key: np.asarray(value, dtype=float) for key, value in _values(case, Path(folder)).items()}
    finally:
        torch.set_num_threads(threads)


def _values(case: Case, folder: Path) -> dict[str, Any]:
    model_class, usual = OURS[case.model]
    adata, new = data()
    keys = dict(covariates_of(case.model) if case.keys is None else case.keys)
    if case.options.get("gene_likelihood") in VALUE_LIKELIHOODS:
        if case.options["gene_likelihood"] == "normal":
            keys["is_count_data"] = False
            adata.X, new.X = adata.X.log1p(), new.X.log1p()
        else:
            adata.X, new.X = ((cells.X > 0).astype(np.float32) for cells in (adata, new))
    scvi.settings.seed = 0
    if model_class is MULTIDGD:
        for cells in (adata, new):
            cells.var[MODALITY_KEY] = ["rna"] * 4 + ["atac"] * 2 + ["protein"] * 2
        lacks_proteins = (np.arange(adata.n_obs) % 3 == 0)[:, None] & (np.arange(8) >= 6)
        adata.X = sparse.csr_matrix(adata.X.multiply(~lacks_proteins))
    model_class.setup_anndata(adata, **keys)
    has_rows = issubclass(model_class, SCDGD)
    one_hot, unbalanced = ({"batch_representation": "one-hot"}, {"batch_balance": False}) if has_rows else ({}, {})
    model = model_class(adata, **usual | one_hot | case.options)
    usually = {"max_epochs": 4, "accelerator": "cpu", "enable_progress_bar": False}
    model.train(**usually | unbalanced | case.training)
    found = {f"state {key}": value.detach() for key, value in model.module.state_dict().items()}
    found |= {f"history {key}": frame.to_numpy(dtype=float) for key, frame in model.history.items()}
    found |= _readings(model, None, "") | _readings(model, new, " of new cells")
    model.save(folder / "model")
    loaded = model_class.load(folder / "model", adata, accelerator="cpu")
    found |= _readings(loaded, None, " after loading", ("latent", "ELBO"))
    for kind in ("prior", "posterior"):
        found |= _of(f"{kind} cells", lambda: scdgd.tl.sample_cells(model, 5, mode=kind, seed=0).X.toarray())  # noqa: B023
    found |= _of("clusters", lambda: model.get_cluster_assignments(new, soft=True))
    found |= _of("query", lambda: _of_query(model_class, model, new))
    return {key: _brief(np.asarray(value, dtype=float)) for key, value in found.items()}


def _readings(model, adata, suffix: str, methods=tuple(READINGS)) -> dict[str, Any]:
    found = {}
    for name in methods:
        scvi.settings.seed = 1
        found |= _of(name + suffix, lambda: READINGS[name](model, adata))  # noqa: B023
    return found


def _of_query(model_class, model, new):
    if model_class not in _WITHOUT_NEW_BATCHES:
        new.obs["batch"] = pd.Categorical(["newer"] * new.n_obs)
    query = model_class.load_query_data(new, model, accelerator="cpu")
    scvi.settings.seed = 2
    query.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    return query.get_latent_representation()


def _of(name: str, call) -> dict[str, Any]:
    """The result under its name; nothing where the model refuses."""
    try:
        return {name: call()}
    except (NotImplementedError, ValueError):
        return {}


def _brief(value: np.ndarray) -> np.ndarray:
    """All of a small result; of a large one, its first entries, and sums with weights that tell entries apart."""
    flat = np.ravel(value)
    if flat.size <= 12:
        return flat
    weights = np.random.default_rng(0).normal(size=(4, flat.size))
    return np.concatenate([flat[:8], (weights * np.where(np.isfinite(flat), flat, 0)).sum(1)])


def machine() -> str:
    """What exact values depend on."""
    versions = [torch.__version__, np.__version__, scvi.__version__, platform.python_version()]
    return " ".join([platform.machine(), torch.backends.cpu.get_cpu_capability(), *versions])


def read_values() -> tuple[dict[str, dict[str, np.ndarray]], str]:
    """What was stored, by case and name, and the machine on which it was."""
    with np.load(VALUES) as file:
        names, lengths = json.loads(str(file["names"])), file["lengths"]
        parts = iter(np.split(file["values"], np.cumsum(lengths)[:-1]))
        return {case: {key: next(parts) for key in keys} for case, keys in names.items()}, str(file["machine"])


def main() -> None:
    """Store what all cases give on this machine."""
    names, values = {}, []
    for name, case in CASES.items():
        print(name, flush=True)  # noqa: T201
        found = values_of(case)
        names[name] = list(found)
        values += found.values()
    np.savez_compressed(
        VALUES,
        machine=machine(),
        names=json.dumps(names),
        lengths=[len(value) for value in values],
        values=np.concatenate(values),
    )


if __name__ == "__main__":
    main()
