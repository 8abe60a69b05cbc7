"""MULTIDGD: modalities side by side, cells that lack some, and what is expected of them."""

from __future__ import annotations

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import scvi
from scipy import sparse
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier

import scdgd
from scdgd.data import SparseCountsLoader, joined_modalities
from scdgd.data._joined_modalities import _state
from scdgd.inference import LogNormalLibrary
from scdgd.model import MULTIDGD, SCDGD

ALL = {"rna": "rna", "atac": "atac", "protein": "protein"}
BLOCKS = (slice(0, 12), slice(12, 27), slice(27, 32))
SMALL = {"n_components": 3, "n_latent": 3, "n_hidden": 16}


def cells(n: int = 60, seed: int = 0, **options) -> mudata.MuData:
    sizes = {"n_genes": 12, "n_regions": 15, "n_proteins": 5, "n_batches": 2}
    return scdgd.datasets.simulate_modalities(n, **sizes | options, seed=seed)


def train(model, max_epochs: int = 3, **options):
    model.train(max_epochs, accelerator="cpu", enable_progress_bar=False, **options)
    return model


def fitted(data, modalities: dict, max_epochs: int = 3, **options) -> MULTIDGD:
    scvi.settings.seed = 0
    MULTIDGD.setup_mudata(data, modalities, batch_key="batch", labels_key="cell_type")
    return train(MULTIDGD(data, **SMALL | options), max_epochs)


def state_of(model) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in model.module.state_dict().items()}


def assert_same_state(first, second, *, but_for: str | None = None) -> None:
    first, second = ({k: v for k, v in state_of(model).items() if k != but_for} for model in (first, second))
    assert first.keys() == second.keys()
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key], err_msg=key)


@pytest.fixture(scope="module")
def unpaired() -> tuple:
    """A model of cells that lack modalities, its data, and new cells with chromatin alone."""
    mdata, new = cells(lacking={"rna": 0.2, "atac": 0.3, "protein": 0.3}), cells(20, seed=1)
    model = fitted(mdata, ALL)
    query = mudata.MuData({"atac": new["atac"].copy()})
    query.obs["batch"] = "batch_0"
    return model, mdata, query


@pytest.mark.parametrize("modality", ALL)
def test_one_modality_is_scdgd(modality, tmp_path):
    """Bit for bit, with new cells too, but for the usual size, at which the modality can be read."""
    mdata, new = cells(), cells(20, seed=1)
    likelihood = {"rna": "nb", "atac": "poisson", "protein": "nb"}[modality]
    model = fitted(mdata, {modality: modality})
    adata = ad.AnnData(mdata[modality].X, obs=mdata.obs, var=mdata[modality].var)
    scvi.settings.seed = 0
    SCDGD.setup_anndata(adata, batch_key="batch", labels_key="cell_type")
    one = train(SCDGD(adata, **SMALL, gene_likelihood=likelihood))
    assert_same_state(one, model, but_for="usual_log_size")
    query = ad.AnnData(new[modality].X, obs=new.obs, var=new[modality].var)
    np.testing.assert_array_equal(one.get_latent_representation(query), model.get_latent_representation(new))
    model.save(tmp_path / "model")
    model = MULTIDGD.load_query_data(new, tmp_path / "model")
    usual = np.log(mdata[modality].X.sum(1)).mean()
    np.testing.assert_allclose(model.module.usual_log_size, usual, rtol=1e-5)
    read = {
        "rna": model.get_normalized_expression,
        "atac": model.get_accessibility_estimates,
        "protein": model.get_normalized_protein,
    }
    expected = one.get_normalized_expression(query, library_size=1 if modality == "rna" else np.exp(usual)).to_numpy()
    expected = -np.expm1(-expected) if modality == "atac" else expected
    np.testing.assert_allclose(read[modality]().to_numpy(), expected, rtol=1e-4)


def test_order_does_not_matter():
    """Of modalities in arguments and in data, and of features of an AnnData, whose columns are mixed and called as 10x does."""
    mdata = cells()
    model = fitted(mdata, ALL)
    other = mudata.MuData({name: mdata[name].copy() for name in ("protein", "rna", "atac")})
    for column in ("batch", "cell_type"):
        other.obs[column] = mdata.obs[column]
    again = fitted(other, dict(reversed(ALL.items())))
    assert_same_state(model, again)
    joined = joined_modalities(mdata, ALL)
    mixed = joined[:, np.random.default_rng(0).permutation(joined.n_vars)].copy()
    kinds = {"rna": "Gene Expression", "atac": "Peaks", "protein": "Antibody Capture"}
    mixed = ad.AnnData(mixed.X, obs=mixed.obs, var=pd.DataFrame({"feature_types": mixed.var["modality"].map(kinds)}))
    order = [
        name for kind in ALL for name in joined.var_names if name in set(mixed.var_names) and name.startswith(kind)
    ]
    assert order == list(joined.var_names)
    scvi.settings.seed = 0
    MULTIDGD.setup_anndata(mixed, batch_key="batch", labels_key="cell_type", modality_key="feature_types")
    tenx = train(MULTIDGD(mixed, **SMALL))
    assert tenx.modalities == model.modalities == {"rna": 12, "atac": 15, "protein": 5}
    for name, shared in zip(ALL, np.split(np.arange(32), [12, 27]), strict=True):
        assert list(tenx._genes[shared]) == [gene for gene in mixed.var_names if gene.startswith(name)]


def test_proteins_in_obsm_are_those_of_a_modality():
    mdata = cells(n_regions=0)
    model = fitted(mdata, {"rna": "rna", "protein": "protein"})
    adata = mdata["rna"].copy()
    adata.obs = mdata.obs.copy()
    adata.obsm["counts"] = mdata["protein"].to_df()
    scvi.settings.seed = 0
    MULTIDGD.setup_anndata(adata, batch_key="batch", labels_key="cell_type", protein_obsm_key="counts")
    of_adata = train(MULTIDGD(adata, **SMALL))
    assert_same_state(model, of_adata)
    few = of_adata.get_normalized_protein(adata[:3].copy(), protein_list=["protein_4", "protein:protein_1"])
    assert list(few.columns) == ["protein_4", "protein:protein_1"]
    assert np.isfinite(few.to_numpy()).all()


def test_life_cycle(unpaired, tmp_path):
    """Saved, loaded into MuData, extended by a query of one modality; joint draws."""
    model, mdata, query = unpaired
    z, of_query = model.get_latent_representation(), model.get_latent_representation(query)
    model.save(tmp_path / "model", save_anndata=True)
    for data in (None, mdata, mdata[::-1].copy()):
        back = MULTIDGD.load(tmp_path / "model", adata=data)
        names = back.adata.obs_names
        np.testing.assert_array_equal(back.get_latent_representation(), z[mdata.obs_names.get_indexer(names)])
    back.adata = mdata
    np.testing.assert_array_equal(back.get_latent_representation(), z)
    for reference in (model, tmp_path / "model"):
        asked = MULTIDGD.load_query_data(query, reference)
        np.testing.assert_allclose(asked.get_latent_representation(), of_query, rtol=1e-5, atol=1e-6)
    drawn = model.prior_predictive_sample(7, seed=0)
    assert drawn.shape == (7, 32)
    assert sparse.issparse(drawn.X)
    assert list(drawn.var_names) == list(model.adata.var_names)
    sizes = scdgd.tl.sample_cells(model, 50, library="lognormal", seed=0).X.toarray()
    expected = [model.adata.X[:, block].sum(1)[model.adata.X[:, block].sum(1) > 0].mean() for block in BLOCKS]
    np.testing.assert_allclose([sizes[:, block].sum(1).mean() for block in BLOCKS], expected, rtol=0.25)


def test_log_normal_sizes_are_those_of_the_cells_that_have_a_modality(unpaired):
    """Of a batch without it those of all batches, and the usual size where no cell has it."""
    model, _, query = unpaired
    adata = joined_modalities(cells(seed=5, lacking={"rna": 0.2, "atac": 0.3}), ALL)
    counts = adata.X.toarray()
    counts[np.flatnonzero(adata.obs["batch"] == "batch_1"), BLOCKS[2]] = 0
    adata.X, is_there = sparse.csr_matrix(counts), counts.any(1)
    adata, counts = adata[is_there].copy(), counts[is_there]
    manager = model.get_anndata_manager(model._validate_anndata(adata), required=True)
    law = LogNormalLibrary.fit(model.module, SparseCountsLoader(manager, batch_size=16))
    for i, block in enumerate(BLOCKS):
        totals = counts[:, block].sum(1)
        for code, batch in enumerate(["batch_0", "batch_1"]):
            is_of_batch = (adata.obs["batch"] == batch).to_numpy() | (i == 2)
            sizes = np.log(totals[(totals > 0) & is_of_batch])
            np.testing.assert_allclose([law.mean[code, i], law.scale[code, i]], [sizes.mean(), sizes.std()], rtol=1e-4)
    of_chromatin = model.get_anndata_manager(model._validate_anndata(query), required=True)
    law = LogNormalLibrary.fit(model.module, SparseCountsLoader(of_chromatin, batch_size=16))
    np.testing.assert_allclose(law.mean[0, [0, 2]], model.module.usual_log_size[[0, 2]], rtol=1e-5)
    assert (law.scale[0, [0, 2]] == 0).all()


def test_readings_of_measured_and_absent_modalities(unpaired):
    """Finite, for all cells; spreads are those of draws; features by their names."""
    model, mdata, query = unpaired
    n, every = mdata.n_obs, model.adata.n_vars
    assert model.get_normalized_expression().shape == (n, 12)
    assert list(model.get_normalized_expression(gene_list=["rna_3", "rna:rna_1"]).columns) == ["rna_3", "rna:rna_1"]
    for data, size in ((None, n), (query, 20)):
        accessible, spread = model.get_accessibility_estimates(data, n_samples=4, return_spread=True)
        assert accessible.shape == spread.shape == (size, 15)
        assert ((accessible > 0) & (accessible <= 1)).all(axis=None)
        assert (spread > 0).any(axis=1).all()
        assert (model.get_normalized_protein(data, transform_batch=["batch_0", "batch_1"]) > 0).all(axis=None)
        assert np.isfinite([float(model.get_elbo(data)), float(model.get_marginal_ll(data, n_mc_samples=3))]).all()
        assert model.posterior_predictive_sample(data).shape == (size, every)
    assert {key: value.shape for key, value in model.get_likelihood_parameters().items()} == {
        "mean": (n, every),
        "dispersions": (n, every),
    }
    table = model.differential_expression(groupby="cell_type", group1="type_0", silent=True)
    assert set(table.index) == set(model.adata.var_names)
    assert model.get_information().nats.shape == (3,)
    assert model.get_novelty(query).shape == (20, 3)
    plug_in = scdgd.metrics.held_out_log_likelihood(model, model.adata)
    np.testing.assert_allclose(plug_in.of_modalities.sum(1), plug_in.per_cell, rtol=1e-5)
    integrated = scdgd.metrics.held_out_log_likelihood(model, model.adata, form="predictive", n_samples=4)
    assert (integrated.of_modalities.sum(1) != integrated.per_cell).any()
    np.testing.assert_allclose(integrated.of_modalities.mean(0), plug_in.of_modalities.mean(0), rtol=0.1)


def test_proteins_over_a_background(unpaired, tmp_path):
    """Saved by its name; background and signal of measured and absent proteins."""
    plain, mdata, query = unpaired
    model = fitted(mdata, ALL, likelihoods={"protein": "nb_background"})
    model.save(tmp_path / "model")
    model = MULTIDGD.load(tmp_path / "model", adata=mdata)
    whole = model.get_normalized_protein()
    signal = model.get_normalized_protein(include_protein_background=False)
    assert ((signal > 0) & (signal < whole)).all(axis=None)
    p, spread = model.get_protein_foreground_probability(n_samples=3, return_spread=True)
    assert ((p > 0) & (p <= 1)).all(axis=None)
    lacking = ~mdata.obs_names.isin(mdata["protein"].obs_names)
    share = model.get_likelihood_parameters()["background_share"][0, BLOCKS[2]]
    assert (p[lacking].to_numpy() < 1 - share).all()
    assert (spread > 0).any(axis=None)
    expected, mean = model.get_protein_foreground_probability(query).to_numpy(), model.get_normalized_protein(query)
    of_signal = model.get_normalized_protein(query, include_protein_background=False)
    np.testing.assert_allclose(of_signal / (mean + share / (1 - share) * of_signal), expected, rtol=1e-4)
    assert np.isfinite(scdgd.metrics.held_out_log_likelihood(model, model.adata, form="predictive", n_samples=4)[0])
    assert model.posterior_predictive_sample().shape == (60, 32)
    for ask in (
        plain.get_protein_foreground_probability,
        lambda: plain.get_normalized_protein(include_protein_background=False),
    ):
        with pytest.raises(ValueError, match="likelihood of proteins of the model, 'nb', does not tell signal"):
            ask()


def test_weights_of_modalities(unpaired, tmp_path):
    """Those that follow information move, and are saved; given ones stay."""
    plain, mdata, query = unpaired
    assert plain.modality_weights == dict.fromkeys(ALL, 1.0)
    model = fitted(mdata, ALL, modality_weights="information")
    weights = model.modality_weights
    assert all(weight != 1 for weight in weights.values())
    model.save(tmp_path / "model")
    assert MULTIDGD.load_query_data(query, tmp_path / "model").modality_weights == weights
    assert fitted(mdata, ALL, 1, modality_weights={"atac": 0.5}).modality_weights == {
        "rna": 1,
        "atac": 0.5,
        "protein": 1,
    }
    for given, words in (({"rna": -1}, "`modality_weights`"), ("equal", "`modality_weights` must be 'likelihood'")):
        with pytest.raises(ValueError, match=words):
            MULTIDGD(mdata, modality_weights=given)
    MULTIDGD.setup_mudata(alone := cells(20), {"atac": "atac"})
    with pytest.raises(ValueError, match="Name some of several"):
        MULTIDGD(alone, modality_weights={"atac": 2.0}, **SMALL)


def test_features_that_a_batch_was_not_measured_with(unpaired):
    """Beside modalities that cells lack; what batches have in common decides nothing about what they do not."""
    adata = joined_modalities(unpaired[1], ALL).copy()
    in_batch = (adata.obs["batch"] == "batch_1").to_numpy()
    mask = pd.DataFrame(True, index=adata.var_names, columns=["batch_0", "batch_1"])
    mask.iloc[:4, 1] = mask.iloc[12:16, 1] = False
    counts = adata.X.toarray()
    has = np.stack([counts[:, block].any(1) for block in BLOCKS], 1)
    counts[np.ix_(in_batch, ~mask["batch_1"])] = 0
    adata.X, adata.varm["mask"] = sparse.csr_matrix(counts), mask
    MULTIDGD.setup_anndata(adata, batch_key="batch", gene_mask_key="mask")
    model = train(MULTIDGD(adata, **SMALL))
    expected = np.repeat(has, [12, 15, 5], axis=1) & np.where(in_batch[:, None], mask["batch_1"], True)
    np.testing.assert_array_equal(model.adata_manager.genes_measured(), expected)
    assert np.isfinite(model.get_latent_representation()).all()
    with pytest.raises(ValueError, match="side by side in one AnnData"):
        MULTIDGD.setup_anndata(adata, batch_key="batch", gene_mask_key="mask", protein_obsm_key="adt")


def test_what_makes_no_sense_is_refused(unpaired):
    model, _, query = unpaired
    with pytest.raises(NotImplementedError, match="has several"):
        model.train_encoder()
    with pytest.raises(NotImplementedError, match="negative binomial"):
        model.get_feature_correlation_matrix()
    with pytest.raises(ValueError, match="pass `n_samples` above 1"):
        model.get_accessibility_estimates(return_spread=True)


def test_vectors_of_a_new_batch_find_what_it_does_to_each_modality():
    """Features that are twice and half as frequent in a batch that training did not have."""
    model = fitted(cells(200, n_genes=20, n_regions=20, n_proteins=0), {"rna": "rna", "atac": "atac"}, 15)
    new, shift = cells(80, seed=1, n_genes=20, n_regions=20, n_proteins=0), np.tile([0.7, -0.7], 10)
    rng = np.random.default_rng(0)
    for name in ("rna", "atac"):
        counts = rng.poisson(new[name].X.toarray() * np.exp(shift))
        new[name].X = sparse.csr_matrix(counts, dtype=np.float32)
    new.obs["batch"] = "of_tomorrow"
    before = state_of(model)
    assert np.isfinite(model.get_latent_representation(new)).all()
    assert model.new_levels == {"batch": ["of_tomorrow"]}
    (vectors,) = (level.added[0].numpy() for level in model.module.levels)
    for block in np.split(vectors, 2):
        assert np.corrcoef(block, shift)[0, 1] > 0.8
    for key, value in state_of(model).items():
        np.testing.assert_array_equal(value, before[key])
    assert model.get_accessibility_estimates(transform_batch="of_tomorrow").shape == (200, 20)


def test_one_feature_and_missing_features():
    """A modality may have one feature; cells that lack some features of a modality keep the rest."""
    mdata = cells(n_proteins=1)
    model = fitted(mdata, ALL)
    new = cells(10, seed=1, n_proteins=1)
    part = mudata.MuData({"rna": new["rna"][:, :5].copy(), "protein": new["protein"].copy()})
    part.obs["batch"] = new.obs["batch"]
    with pytest.warns(UserWarning, match="7 of the model's 13 genes are missing"):
        assert np.isfinite(model.get_latent_representation(part)).all()
    assert np.isfinite(model.get_normalized_protein(part).to_numpy()).all()


def test_data_that_change_in_place_are_read_anew():
    mdata = cells()
    model = fitted(mdata, ALL)
    before = model.get_latent_representation(mdata)
    mdata["atac"].X.data[:] *= 0.5
    with pytest.raises(ValueError, match="integer"):
        model.get_latent_representation(mdata)
    np.testing.assert_array_equal(model.get_latent_representation(), before)  # the model's own cells are copies


def swap_values(x) -> None:
    """Two entries of a matrix change places, in place."""
    x[[0, 1]] = x[[1, 0]]


IN_PLACE = {
    "csr": (sparse.csr_matrix, lambda x: swap_values(x.data)),
    "indices": (sparse.csr_matrix, lambda x: swap_values(x.indices)),
    "csc": (sparse.csc_matrix, lambda x: swap_values(x.data)),
    "coo": (sparse.coo_matrix, lambda x: swap_values(x.data)),
    "dense": (lambda x: x.toarray(), swap_values),
    "Fortran": (lambda x: np.asfortranarray(x.toarray()), swap_values),
}


@pytest.mark.parametrize("kind", IN_PLACE)
def test_joined_data_are_known_by_what_they_hold(kind):
    """Values that change places leave every sum as it is; equal values in another matrix are the same."""
    make, change = IN_PLACE[kind]
    mdata = cells(20)
    counts = sparse.csr_matrix(1.0 + np.arange(20 * 12).reshape(20, 12), dtype=np.float32)
    parts = _state(make(counts)), _state(make(counts))
    assert parts[0] == parts[1]
    mdata["rna"].X = counts.copy()
    before = joined_modalities(mdata, ALL)
    mdata["rna"].X = counts.copy()
    assert joined_modalities(mdata, ALL) is before
    x = make(counts)
    change(x)
    assert _state(x) != parts[0]
    assert _state(x)[:-1] == parts[0][:-1]
    swap_values(mdata["rna"].X.data)
    after = joined_modalities(mdata, ALL)
    assert after is not before
    np.testing.assert_array_equal(after.X[:, BLOCKS[0]].toarray(), mdata["rna"].X.toarray())


@pytest.mark.parametrize("is_sparse", [True, False])
def test_counts_on_disk_are_joined_once(tmp_path, is_sparse):
    mdata = cells(20)
    if not is_sparse:
        mdata["rna"].X = mdata["rna"].X.toarray()
    mdata.write(tmp_path / "cells.h5mu")
    on_disk = mudata.read_h5mu(tmp_path / "cells.h5mu", backed="r+")
    first = joined_modalities(on_disk, ALL)
    assert joined_modalities(on_disk, ALL) is first
    np.testing.assert_array_equal(first.X.toarray(), joined_modalities(mdata, ALL).X.toarray())
    values = on_disk.file._file["mod/rna/X/data" if is_sparse else "mod/rna/X"]
    values[0] = np.array(values[0]) + 1
    assert joined_modalities(on_disk, ALL) is not first
    on_disk.file.close()


BAD = [
    ({"modalities": {}}, "it names none"),
    ({"modalities": None}, "it names none"),
    ({"modalities": {"genes": "rna"}}, "'genes' is none"),
    ({"modalities": {"rna": "gex"}}, "no modality 'gex'"),
    ({"modalities": {"rna": "rna", "atac": "rna"}}, "twice"),
    ({"modalities": ALL, "layers": {"atac": "counts"}}, "no layer 'counts'"),
    ({"modalities": ALL, "batch_key": "site"}, "pull_obs"),
]


@pytest.mark.parametrize(("arguments", "match"), BAD, ids=[match for _, match in BAD])
def test_bad_set_up(arguments, match):
    with pytest.raises(ValueError, match=match):
        MULTIDGD.setup_mudata(cells(8), **arguments)


def test_bad_data_and_options():
    mdata = cells(12)
    with pytest.raises(ValueError, match="not set up"):
        MULTIDGD(mdata)
    adata = joined_modalities(mdata, ALL)
    with pytest.raises(ValueError, match="feature_types"):
        MULTIDGD.setup_anndata(mdata["rna"])
    with pytest.raises(ValueError, match="one size of all"):
        MULTIDGD.setup_anndata(adata, size_factor_key="size")
    with pytest.raises(ValueError, match="no proteins"):
        MULTIDGD.setup_anndata(mdata["rna"], protein_obsm_key="adt")
    odd = adata.copy()
    odd.var["modality"] = ["methylation", *odd.var["modality"][1:]]
    with pytest.raises(ValueError, match="methylation"):
        MULTIDGD.setup_anndata(odd)
    empty = adata.copy()
    empty.X = empty.X.multiply((empty.var["modality"] != "atac").to_numpy()).tocsr()
    with (
        pytest.warns(UserWarning, match="no count in any"),
        pytest.raises(ValueError, match=r"\['atac'\] and no count"),
    ):
        MULTIDGD.setup_anndata(empty)
    MULTIDGD.setup_mudata(mdata, ALL)
    with pytest.raises(ValueError, match="likelihoods"):
        MULTIDGD(mdata, likelihoods={"atac": "beta"})
    model = train(MULTIDGD(mdata, **SMALL), 1)
    with pytest.raises(ValueError, match="`region_list`"):
        model.get_accessibility_estimates(region_list=["chr1"])


def accuracy(z: np.ndarray, labels) -> float:
    return cross_val_score(KNeighborsClassifier(15), z, labels, cv=5).mean()


@pytest.fixture(scope="module")
def paired() -> tuple:
    """Cells of eight types, of which each modality sees four, and a model of both."""
    mdata = cells(600, n_genes=100, n_regions=120, n_proteins=0, n_batches=1)
    return mdata, fitted(mdata, {"rna": "rna", "atac": "atac"}, 25, n_components=8, n_latent=5, n_hidden=64)


@pytest.mark.slow
@pytest.mark.parametrize("alone", ["rna", "atac"])
def test_both_together_beat_each(paired, alone):
    """Types are corners of a cube of which each modality sees a square."""
    mdata, model = paired
    one = fitted(mdata, {alone: alone}, 25, n_components=8, n_latent=5, n_hidden=64)
    labels = mdata.obs["cell_type"]
    assert accuracy(model.get_latent_representation(), labels) > 0.95
    assert accuracy(one.get_latent_representation(), labels) < 0.65


@pytest.mark.slow
def test_partly_paired_cells_and_queries(paired):
    """Half of the cells lack a modality: paired ones are told apart, absent chromatin is predicted, and queries are mapped."""
    whole, _ = paired
    mdata = cells(600, n_genes=100, n_regions=120, n_proteins=0, n_batches=1, lacking={"rna": 0.25, "atac": 0.25})
    model = fitted(mdata, {"rna": "rna", "atac": "atac"}, 25, n_components=8, n_latent=5, n_hidden=64)
    there = {name: mdata.obs_names.isin(mdata[name].obs_names) for name in ("rna", "atac")}
    both, lacking = there["rna"] & there["atac"], ~there["atac"]
    labels = mdata.obs["cell_type"]
    assert accuracy(model.get_latent_representation()[both], labels[both]) > 0.9
    truth = whole["atac"][mdata.obs_names[lacking]].X.toarray() > 0
    expected, spread = model.get_accessibility_estimates(indices=lacking, n_samples=20, return_spread=True)
    varies = (truth.mean(0) > 0.2) & (truth.mean(0) < 0.8)
    aucs = [roc_auc_score(truth[:, j], expected.iloc[:, j]) for j in np.flatnonzero(varies)]
    assert np.mean(aucs) > 0.6  # genes tell of one of the two factors that chromatin depends on
    _, of_both = model.get_accessibility_estimates(indices=both, n_samples=20, return_spread=True)
    assert spread.to_numpy().mean() > 1.5 * of_both.to_numpy().mean()
    new = cells(200, seed=5, n_genes=100, n_regions=120, n_proteins=0, n_batches=1)
    query = mudata.MuData({"rna": new["rna"].copy()})
    query.obs["batch"] = "batch_0"
    neighbors = KNeighborsClassifier(15).fit(
        model.get_latent_representation()[there["rna"]], seen_by_genes(labels[there["rna"]])
    )
    assert neighbors.score(model.get_latent_representation(query), seen_by_genes(new.obs["cell_type"])) > 0.85


def seen_by_genes(types: pd.Series) -> np.ndarray:
    """The corner without its last coordinate."""
    return np.array([int(name.removeprefix("type_")) % 4 for name in types])
