"""Gene programmes: against the loadings of linear decoders and single cells, what is written, and the plot."""

from __future__ import annotations

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pytest
import scanpy as sc
import torch

import scdgd
from scdgd.data import SparseCountsLoader
from scdgd.inference import InformationCoordinates
from tests.kinds.conftest import _PRESETS
from tests.kinds.models import fitted, trained
from tests.kinds.test_information import DECODED
from tests.model.test_contract import data, fit


@pytest.mark.parametrize("name", ["SCVAMP", "FlexSCVI"])
def test_of_a_linear_decoder_they_are_its_loadings(name):
    """Up to the constant of each axis by which shares sum to one."""
    model = fitted(name, data()[0], {"batch_key": "batch"}, decoder="linear")
    scdgd.tl.gene_programs(model)
    axes, z = model.get_information().axes, model.get_latent_representation()
    expected = model.get_loadings().to_numpy() @ axes * (z @ axes).std(0, ddof=1) / np.log(2)
    constant = model.adata.varm["gene_programs"] - expected
    np.testing.assert_allclose(constant, np.broadcast_to(constant.mean(0), constant.shape), atol=2e-5)
    np.testing.assert_allclose(model.adata.uns["gene_programs"]["sd"], (z @ axes).std(0, ddof=1), rtol=1e-4)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in _PRESETS else ()) for name in DECODED]
)
def test_they_are_means_over_single_cells(name):
    model, _ = trained(name)
    rng = torch.get_rng_state()
    table = scdgd.tl.gene_programs(model, n_axes=2)
    torch.testing.assert_close(torch.get_rng_state(), rng, rtol=0, atol=0)
    z, axes = model.get_latent_representation(), model.get_information().axes[:, :2]
    steps = axes * (z @ axes).std(0, ddof=1)
    mean, changes = 0.0, []
    for one, tensors in zip(z, SparseCountsLoader(model.adata_manager, np.arange(36), 1), strict=True):
        ends = torch.as_tensor(
            np.array([one + sign * step for step in steps.T for sign in (1, -1)]), dtype=torch.float32
        )
        with torch.no_grad():
            counts = [model.module.decode(end[None], model.module.log_size(tensors), tensors).mu[0] for end in ends]
        shares = torch.stack(counts).double().numpy().reshape(2, 2, -1)
        shares /= shares.sum(-1, keepdims=True)
        mean, changes = mean + shares.mean(1) / 36, [*changes, np.log2(shares[:, 0] / shares[:, 1]) / 2]
    expected = np.mean(changes, axis=0)
    np.testing.assert_allclose(model.adata.varm["gene_programs"].T, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        model.adata.varm["gene_programs_sd"].T, np.std(changes, axis=0, ddof=1), rtol=0.01, atol=1e-4
    )
    for axis, of_axis in table.groupby("axis"):
        a = int(axis[-1]) - 1
        signed = np.sign(expected[a]) * mean[a] * expected[a] ** 2
        names = model.adata.var_names[np.argsort(-signed)]
        assert list(of_axis.loc[of_axis["end"] == "+", "gene"]) == list(names[: (signed > 0).sum()])
        assert list(of_axis.loc[of_axis["end"] == "-", "gene"]) == list(names[::-1][: (signed < 0).sum()])


def test_cells_may_have_genes_in_another_order_and_others():
    model, new = trained("SCDGD")
    scdgd.tl.gene_programs(model, new)
    more = new[:, ::-1].copy()
    extra = ad.AnnData(np.ones((new.n_obs, 1), np.float32), obs=more.obs, var={"_index": ["another"]})
    extra.var_names = ["another"]
    more = ad.concat([more, extra], axis=1, merge="same")
    scdgd.tl.gene_programs(model, more)
    np.testing.assert_allclose(more.varm["gene_programs"][:-1], new.varm["gene_programs"][::-1], rtol=1e-3, atol=1e-4)
    assert np.isnan(more.varm["gene_programs"][-1]).all()


def test_scanpy_and_files_read_them(tmp_path):
    model, new = trained("SCDGD")
    table = scdgd.tl.gene_programs(model, new, key="of_new", n_genes=2)
    assert (table.groupby(["axis", "end"]).size() <= 2).all()
    new.write(tmp_path / "new.h5ad")
    read = ad.read_h5ad(tmp_path / "new.h5ad")
    (axes,) = np.ravel(scdgd.pl.gene_programs(read, key="of_new", n_axes=1))
    shown = [label.get_text() for label in axes.get_yticklabels()]
    first = table[table["axis"] == "axis_1"]
    assert shown == [*first.loc[first["end"] == "+", "gene"], *first.loc[first["end"] == "-", "gene"][::-1]]
    widths = {label: bar.get_width() for label, bar in zip(shown, axes.patches, strict=True)}
    np.testing.assert_allclose([widths[gene] for gene in first["gene"]], first["log_fold_change"], rtol=1e-6)
    sc.pl.ranking(read, "varm", "of_new", indices=[0, 1], n_points=5, show=False)
    panels = scdgd.pl.gene_programs(read, key="of_new", n_genes=1)
    assert [len(axes.patches) for axes in panels] == [2, 2, 2]
    plt.close("all")


def test_of_stock_scvi():
    stock = fit("scVI", data()[0], {"batch_key": "batch"})
    scdgd.tl.gene_programs(stock)
    assert np.isfinite(stock.adata.varm["gene_programs"]).all()


def test_axes_are_turned_with_the_coordinates(monkeypatch):
    """The other end of an axis has the other sign."""
    model, _ = trained("SCDGD")
    scdgd.tl.gene_programs(model)
    before, found = model.adata.varm["gene_programs"], model.get_information()
    monkeypatch.setattr(type(model), "get_information", lambda self: InformationCoordinates(-found.axes, found.nats))
    scdgd.tl.gene_programs(model)
    np.testing.assert_allclose(model.adata.varm["gene_programs"], -before, rtol=1e-4, atol=1e-6)


def test_what_is_not_there_is_refused():
    model, new = trained("SCDGD")
    with pytest.raises(ValueError, match="`n_axes`.*dimensions, 3, got 4"):
        scdgd.tl.gene_programs(model, n_axes=4)
    with pytest.raises(ValueError, match="there are 1 cells"):
        scdgd.tl.gene_programs(model, new[:1].copy())
    with pytest.raises(ValueError, match=r"adata.uns\['gene_programs'\].*tl.gene_programs\(model\)"):
        scdgd.pl.gene_programs(new)
    scdgd.tl.gene_programs(model, new, n_axes=1)
    with pytest.raises(ValueError, match="`n_axes=2`, but .* wrote 1"):
        scdgd.pl.gene_programs(new, n_axes=2)
