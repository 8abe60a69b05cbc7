"""``scdgd cluster``: other clusters of a trained model, and the genes that mark them."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ._command import Answer, Command, add_counts, add_output, positive, refusals, table
from ._files import check_cells, check_free, check_output, prepare_directory, read_cells, write_cells

if TYPE_CHECKING:
    from scdgd.model import SCDGD


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL", help="folder of a saved model")
    parser.add_argument("input", type=Path, metavar="INPUT", help="its training cells, .h5ad or .zarr")
    add_output(parser, "OUTPUT", "input plus clusters, .h5ad or .zarr")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--n-clusters", type=positive, metavar="K", help="merge components until so many clusters are left"
    )
    how.add_argument(
        "--level",
        type=float,
        metavar="P",
        help="merge what is not separate at this level of the dip test (default: 0.01)",
    )
    how.add_argument("--components", action="store_true", help="merge nothing: each component is a cluster")
    add_counts(parser, genes=False)
    parser.add_argument(
        "--markers", type=Path, metavar="FILE.csv", help="write genes by how much they mark each cluster"
    )
    parser.add_argument("--n-genes", type=positive, default=50, metavar="N", help="genes of each; default: %(default)s")
    parser.add_argument("--save-model", type=Path, metavar="DIR", help="save the model with these clusters")


def _cluster(args: argparse.Namespace) -> Answer:
    started = time.perf_counter()
    check_cells(args.input)
    check_output(args.output, args.input, overwrite=args.overwrite)
    for path in (args.markers, args.save_model):
        if path is not None:
            check_free(path, overwrite=args.overwrite)
            prepare_directory(path.parent)
    adata = read_cells(args.input)
    from ._models import load

    with refusals():
        from scdgd import tl

        model = load(args.model, adata.raw.to_adata() if args.raw and adata.raw is not None else adata)
        clusters = (
            None
            if args.components
            else tl.cut(tl.component_tree(model), n_components=args.n_clusters, level=args.level)
        )
        model.merge_components(clusters)
        tl.annotate(model)
        for slot in ("obs", "obsm"):
            for key in getattr(model.adata, slot):
                if key.startswith(("scdgd_", "X_scdgd")):
                    getattr(adata, slot)[key] = getattr(model.adata, slot)[key]
        found = adata.obs["scdgd_cluster"].value_counts(sort=False)
        if args.markers is not None:
            _write_markers(model, args.markers, args.n_genes)
        write_cells(adata, args.output)
        if args.save_model is not None:
            model.save(args.save_model, overwrite=True)
    written = [path for path in (args.output, args.markers, args.save_model) if path is not None]
    rows = [
        ("cells", f"{adata.n_obs:,}"),
        ("components", model.module.given_prior().n_components),
        ("clusters", len(found)),
        ("cells of each", ", ".join(f"{name}: {n:,}" for name, n in found.items())),
        ("seconds", f"{time.perf_counter() - started:.0f}"),
        ("written", ", ".join(map(str, written))),
    ]
    return Answer(table(rows))


def _write_markers(model: SCDGD, path: Path, n_genes: int) -> None:
    """Of each cluster against all other cells, as scanpy tabulates them."""
    import scanpy as sc

    from scdgd import tl
    from scdgd._files import written_whole

    tl.rank_component_genes(model, n_genes=n_genes)
    with written_whole(path) as part:
        sc.get.rank_genes_groups_df(model.adata, group=None).to_csv(part, index=False)


CLUSTER = Command(
    "cluster", "cut the clusters of a trained model anew, and name the genes that mark them", _add_cluster, _cluster
)
