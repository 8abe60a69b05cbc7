"""SCVAD: the variational twin of SCDGD."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from scdgd._absent_options import without
from scdgd._options import checked_by
from scdgd.posterior import Gaussian

from ._arguments import BUILDING
from ._host_options import OF_ENCODERS
from ._scdgd import SCDGD

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData
    from torch import nn

    from scdgd.likelihood import GeneLikelihood
    from scdgd.prior import Prior, PriorName


class SCVAD(SCDGD):
    r"""Variational autodecoder for single-cell counts: :class:`SCDGD` with a posterior variance for each cell.

    The baseline of Schuster & Krogh 2023. A cell has a mean and a variance of its own, learned with decoder and prior by
    the evidence lower bound, again without an encoder; see :class:`~scdgd.posterior.Gaussian`. Training, data, and methods
    are those of :class:`SCDGD`. Posteriors are the learned ones, and importance sampling corrects them. Priors that are
    made of an encoder (VampPrior and its mixtures) cannot be used, because there is none.

    Parameters
    ----------
    adata, registry, n_components, n_latent
        As for :class:`SCDGD`, and so are all parameters that are not named below. Every hyper-prior counts once. Vectors of
        new batches are found with the modes of their cells' representations, around which posteriors are then placed.
    prior
        As for :class:`SCDGD`; with ``"normal"``, :math:`\mathcal N(0, I)`, all of the divergence is exact.
    initial_scale
        Standard deviation that all posteriors start from. Default 0.6; the published start is that of the prior.

    Examples
    --------
    >>> scdgd.model.SCVAD.setup_anndata(adata)
    >>> model = scdgd.model.SCVAD(adata, n_components=10)
    >>> model.train()
    >>> mean, variance = model.get_latent_representation(return_dist=True)
    """

    _posterior_of_scale = Gaussian
    _latent_key = "X_scvad"
    _representation_is = "mean and variance for each cell"
    _hyperprior_weight = {"log_var": "once", "weights": "once", "means": "once"}

    @without(**OF_ENCODERS)
    @checked_by(BUILDING)
    def __init__(
        self,
        adata: AnnData | MuData | None = None,
        registry: dict | None = None,
        *,
        n_components: int | Literal["auto", "labels"] = "auto",
        n_latent: int = 20,
        n_hidden: int = 64,
        n_layers: int = 1,
        activation: Literal["silu", "relu", "tanh"] = "silu",
        gene_likelihood: GeneLikelihood = "nb",
        dispersion: Literal["gene", "gene-batch"] = "gene",
        size_factor: Literal["observed", "max", "mean", "registered", "latent"] | None = None,
        output_activation: Literal["softmax", "sigmoid", "softplus"] | None = None,
        dispersion_floor: Literal[0, 1] = 0,
        batch_representation: Literal["embedding", "one-hot"] = "embedding",
        prior: PriorName | type[Prior] | Prior = "gaussian_mixture",
        prior_kwargs: dict | None = None,
        initial_scale: float = 0.6,
        hyperprior_weight: dict[str, Literal["once", "per_cell"]] | None = None,
        new_cells: dict | None = None,
        supervision: Literal["components"] | None = None,
        components_per_class: int = 1,
        decoder: nn.Module | type[nn.Module] | None = None,
        use_layer_norm: Literal["encoder", "decoder", "none", "both"] = "none",
        use_observed_lib_size: bool = True,
        batch_embedding_kwargs: dict[str, int] | None = None,
    ) -> None:
        super().__init__(
            adata,
            registry,
            n_components=n_components,
            n_latent=n_latent,
            n_hidden=n_hidden,
            n_layers=n_layers,
            activation=activation,
            gene_likelihood=gene_likelihood,
            dispersion=dispersion,
            size_factor=size_factor,
            output_activation=output_activation,
            dispersion_floor=dispersion_floor,
            batch_representation=batch_representation,
            prior=prior,
            prior_kwargs=prior_kwargs,
            noise_scale=initial_scale,
            hyperprior_weight=hyperprior_weight,
            new_cells=new_cells,
            supervision=supervision,
            components_per_class=components_per_class,
            decoder=decoder,
            use_layer_norm=use_layer_norm,
            use_observed_lib_size=use_observed_lib_size,
            batch_embedding_kwargs=batch_embedding_kwargs,
        )
        self.init_params_ = self._get_init_params(locals())
