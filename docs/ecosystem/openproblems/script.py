"""Component of Open Problems' batch integration: reads a dataset, writes an embedding."""

import sys

import anndata as ad
import numpy as np

from scdgd.model import SCDGD

## VIASH START
par = {
    "input": "resources_test/task_batch_integration/cxg_immune_cell_atlas/dataset.h5ad",
    "output": "output.h5ad",
    "n_hvg": 2000,
    "n_latent": 20,
    "n_components": None,
    "max_epochs": None,
}
meta = {"name": "scdgd", "resources_dir": "src/utils"}
## VIASH END

sys.path.append(meta["resources_dir"])
from read_anndata_partial import read_anndata  # noqa: E402 - of the task

print("Read input", flush=True)
adata = read_anndata(par["input"], X="layers/counts", obs="obs", var="var", uns="uns")

if par["n_hvg"] and par["n_hvg"] < adata.n_vars:
    print(f"Select {par['n_hvg']} highly variable genes", flush=True)
    ranked = adata.var["hvg_score"].to_numpy().argsort(kind="stable")[::-1][: par["n_hvg"]]
    adata = adata[:, np.sort(ranked)].copy()

has_counts = np.asarray(adata.X.sum(axis=1)).ravel() > 0  # the model has no place for cells without counts
cells = adata[has_counts].copy()

print("Train", flush=True)
SCDGD.setup_anndata(cells, batch_key="batch")
model = SCDGD(cells, n_latent=par["n_latent"], n_components=par["n_components"] or "auto")
model.train(par["max_epochs"])

print("Write output", flush=True)
embedding = np.zeros((adata.n_obs, par["n_latent"]), dtype=np.float32)  # the prior's mean
embedding[has_counts] = model.get_latent_representation()
output = ad.AnnData(
    obs=adata.obs[[]],
    var=adata.var[[]],
    obsm={"X_emb": embedding},
    uns={
        "dataset_id": adata.uns["dataset_id"],
        "normalization_id": adata.uns["normalization_id"],
        "method_id": meta["name"],
    },
)
output.write_h5ad(par["output"], compression="gzip")
