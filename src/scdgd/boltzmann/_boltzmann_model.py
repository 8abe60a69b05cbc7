"""Downstream methods of a Boltzmann machine: representations, clusters, errors, likelihoods, synthetic cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from anndata import AnnData
from scipy import sparse

from scdgd._options import Flag, Instance, Integer, Number, Optional, Text, checked
from scdgd.data import counts_of
from scdgd.inference._registered_sampler import of_component
from scdgd.model._arguments import READING
from scdgd.model._latent_model import Coordinates, LatentModel

from ._conditions import Conditions, batches_of, check_fixed_counts, fixed_genes, sizes_of
from ._mean_field_posterior import MeanFieldPosterior
from ._sampler import BoltzmannSampler
from ._state_sums import all_states

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from scdgd.inference import Library

#: Even units whose states are summed over for each cell.
_MAX_EVEN = 8


class BoltzmannModel(LatentModel):
    """Downstream methods of Boltzmann machines."""

    _posterior_cls = MeanFieldPosterior

    @torch.inference_mode()
    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        give_mean: bool = True,
        mc_samples: int = 5_000,
        batch_size: int | None = None,
        return_dist: bool = False,
        dataloader: Iterable[dict] | None = None,
        *,
        coordinates: Coordinates = "latent",
        layer: int | None = None,
        **data_loader_kwargs: Any,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        r"""Mean-field probabilities :math:`q^l` of the units of a hidden layer.

        Parameters
        ----------
        adata, indices
            Cells; those that the model was set up with if not given.
        give_mean
            Whether to return probabilities; else states drawn from them.
        mc_samples
            Of scvi-tools' signature; nothing is sampled for the mean.
        batch_size
            Cells per minibatch.
        return_dist
            Whether to return means and variances.
        dataloader, **data_loader_kwargs
            As in scvi-tools.
        coordinates
            ``"latent"``: nothing decodes hidden units into counts, so there are no others.
        layer
            Number of the layer, from 1; the topmost if not given.

        Returns
        -------
        Shape ``(n, H_l)``; or two such arrays.

        Raises
        ------
        ValueError
            If there is no such layer.
        NotImplementedError
            For coordinates of information.
        """
        if coordinates != "latent":
            self.posterior.check_coordinates()
        layer = self.module.n_layers if layer is None else layer
        if layer not in range(1, self.module.n_layers + 1):
            msg = f"`layer` must be one of 1 ... {self.module.n_layers}, got {layer!r}."
            raise ValueError(msg)
        cells = self._minibatches(adata, indices, batch_size, dataloader, data_loader_kwargs)
        q = torch.cat([q[layer - 1] for _, _, q in self.posterior.mean_field(cells)])
        if return_dist:
            return q.cpu().numpy(), (q * (1 - q)).cpu().numpy()
        return (q if give_mean else torch.bernoulli(q)).cpu().numpy()

    def get_cluster_assignments(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        soft: bool = False,
        batch_size: int | None = None,
        merged: bool = True,
    ) -> np.ndarray:
        r"""Most probable pattern of the topmost layer, a state :math:`h^L \in \{0, 1\}^{H_L}`, of each cell.

        Patterns are numbered by :math:`\sum_k 2^k h^L_k`, as in ``obs["component"]`` of synthetic cells. Nothing in training
        makes them clusters; the paper clusters representations by other methods.

        Parameters
        ----------
        adata, indices, batch_size
            As for :meth:`get_latent_representation`.
        soft
            Whether to return probabilities :math:`\prod_k q(h^L_k)` of all patterns.
        merged
            Without effect: patterns are not merged.

        Returns
        -------
        Shape ``(n,)``, or ``(n, 2^{H_L})`` for probabilities.

        Raises
        ------
        ValueError
            If the topmost layer has more than 16 units.
        """
        n_patterns = self.module.n_patterns
        q = self.get_latent_representation(adata, indices, batch_size=batch_size)
        if not soft:
            return (q > 0.5).astype(np.int64) @ 2 ** np.arange(q.shape[1])
        states = all_states(q.shape[1], torch.zeros(())).numpy()
        probability = np.ones((len(q), n_patterns), q.dtype)
        for unit, on in enumerate(states.T):
            probability *= np.where(on == 1, q[:, unit : unit + 1], 1 - q[:, unit : unit + 1])
        return probability

    @torch.inference_mode()
    def get_reconstruction_error(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        dataloader: Iterable[dict] | None = None,
        return_mean: bool = True,
        data_loader_kwargs: dict | None = None,
    ) -> dict[str, float | torch.Tensor]:
        r"""Negative log-likelihood of counts at the mean-field activations, :math:`-\log p(v \mid h^1 = q^1)`.

        Parameters
        ----------
        adata, indices, batch_size
            As for :meth:`get_latent_representation`.
        return_mean
            Whether to return the mean over cells; else values of all cells, shape ``(n,)``.
        dataloader, data_loader_kwargs
            As in scvi-tools.

        Returns
        -------
        ``{"reconstruction_loss": value}`` in nats, as in scvi-tools.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        """
        cells = self._minibatches(adata, indices, batch_size, dataloader, data_loader_kwargs)
        module, cells = self.module, self.posterior.mean_field(cells)
        log_prob, shift = module.visible.log_prob, module.shift
        errors = torch.cat([-log_prob(v, shift(q[0]), given.batch, given.size).cpu() for v, given, q in cells])
        return {"reconstruction_loss": float(errors.mean()) if return_mean else errors}

    def get_component_means(self, *args: Any, **kwargs: Any) -> None:
        """Not possible: clusters are patterns of binary units.

        Raises
        ------
        NotImplementedError
            Always.
        """
        msg = "Clusters of a Boltzmann machine are patterns of binary units, without means: use `get_cluster_assignments`."
        raise NotImplementedError(msg)

    def get_importance_weights(self, *args: Any, **kwargs: Any) -> None:
        """Not possible: :math:`p(h)` of an undirected model is known up to a constant, and has no simple prior.

        Raises
        ------
        ValueError
            Always.
        """
        msg = (
            "Importance weights are for models with a prior of the representation; a Boltzmann machine has none in closed "
            "form. Use `weights='uniform'`."
        )
        raise ValueError(msg)

    @checked(n_steps=Integer(1))
    @torch.inference_mode()
    def get_marginal_ll(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        n_mc_samples: int = 100,
        batch_size: int | None = None,
        return_mean: bool = True,
        dataloader: Iterable[dict] | None = None,
        data_loader_kwargs: dict | None = None,
        *,
        n_steps: int = 500,
        seed: int | None = None,
    ) -> float | torch.Tensor:
        r"""Log-likelihood :math:`\log \sum_h e^{-E(v, h)} - \log Z` of cells, in nats.

        The sum over :math:`h` is exact with one hidden layer, or if layers of even number have at most 8 units together;
        else it is bounded from below by mean field. :math:`\log Z` is exact if layers of odd number have at most 16 units
        together; else it is estimated by annealed importance sampling, whose errors go the other way: an estimate of
        :math:`\log Z` that is too low makes the log-likelihood too high. A warning says so if few chains carry it. With
        size factors it is then estimated at nine of them in each batch; between them lines are drawn, which lie above.

        Parameters
        ----------
        adata, indices, batch_size
            As for :meth:`get_latent_representation`.
        n_mc_samples, n_steps
            Number of chains and of intermediate distributions of annealed importance sampling.
        return_mean
            Whether to return the mean over cells.
        dataloader, data_loader_kwargs
            As in scvi-tools.
        seed
            Seed of annealed importance sampling; ``None`` continues torch's generator.

        Returns
        -------
        The mean in nats per cell, or a tensor of shape ``(n,)``.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If a number of samples or steps is not positive.
        """
        is_exact = self.module.n_even <= _MAX_EVEN
        cells = self._minibatches(adata, indices, batch_size, dataloader, data_loader_kwargs)
        return self.posterior.log_likelihood(cells, return_mean, n_mc_samples, n_steps, seed, is_exact=is_exact)

    @checked(n_steps=Integer(1))
    @torch.inference_mode()
    def get_elbo(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        dataloader: Iterable[dict] | None = None,
        return_mean: bool = True,
        data_loader_kwargs: dict | None = None,
        *,
        n_mc_samples: int = 100,
        n_steps: int = 500,
        seed: int | None = None,
    ) -> float | torch.Tensor:
        r"""Mean-field bound :math:`\operatorname{E}_q[-E(v, h)] + \mathcal H[q] - \log Z` of the log-likelihood, in nats.

        Higher is better. With one hidden layer it is :meth:`get_marginal_ll`. Where :math:`\log Z` is estimated, the result
        can lie above the log-likelihood.

        Parameters
        ----------
        adata, indices, batch_size, dataloader, return_mean, data_loader_kwargs, n_mc_samples, n_steps, seed
            As for :meth:`get_marginal_ll`.

        Returns
        -------
        The mean in nats per cell, or a tensor of shape ``(n,)``.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If a number of samples or steps is not positive.
        """
        cells = self._minibatches(adata, indices, batch_size, dataloader, data_loader_kwargs)
        return self.posterior.log_likelihood(cells, return_mean, n_mc_samples, n_steps, seed, is_exact=False)

    def _sampler(self, batch_size: int | None = None) -> BoltzmannSampler:
        """Sampler of synthetic cells, with the attached data if there are any."""
        self._check_if_trained(warn=False)
        manager = None
        if self.adata is not None:
            self._validate_anndata(None)
            manager = self.adata_manager
        return BoltzmannSampler(self.module, self.registry, manager, batch_size=batch_size)

    def _synthetic_cells(
        self,
        n_cells: int,
        mode: str,
        batch_size: int | None,
        *,
        component: int | None,
        batch: str | None,
        library: Library,
        seed: int | None,
    ) -> AnnData:
        """Chains, or replicates of cells, of those that are assigned to a component if it is given."""
        sampler = self._sampler(batch_size)
        if mode == "prior":
            return sampler.sample_prior(n_cells, component=component, batch=batch, library=library, seed=seed)
        donors = sampler.donors_of(batch)
        if component is not None:
            assigned = self.get_cluster_assignments(indices=donors, batch_size=batch_size)
            donors, _ = of_component(donors, assigned, component, self.module.n_patterns)
        return sampler.sample_posterior(n_cells, donors, library=library, seed=seed)

    @checked(library_size=Optional(Number(above=0)), n_steps=Integer(1), collapse=Flag(), exact=Flag())
    def prior_predictive_sample(
        self,
        n_cells: int,
        *,
        component: int | None = None,
        batch: str | None = None,
        library_size: float | None = None,
        seed: int | None = None,
        n_steps: int = 50,
        collapse: bool = True,
        exact: bool = False,
        batch_size: int | None = None,
    ) -> AnnData:
        r"""Draw synthetic cells: the last states of Gibbs chains, one chain a cell.

        Chains start at random states. A model with size factors borrows batch and size factor from a random cell of the
        attached AnnData, never its counts; a model without them needs no data.

        Parameters
        ----------
        n_cells
            Number of cells.
        component
            Keep the topmost layer in this pattern, see :meth:`get_cluster_assignments`.
        batch
            Draw cells of this batch only.
        library_size
            Total count that is the size of every cell, in place of a borrowed size factor. States with low means still have
            lower totals.
        seed
            Seed of all draws; ``None`` continues torch's and a fresh NumPy generator.
        n_steps
            Number of sweeps.
        collapse
            Whether sweeps sum out counts (:meth:`scdgd.boltzmann.DeepBoltzmannMachine.sweep`), which mixes far better than the
            published block sweeps.
        exact
            Whether to draw independent cells by enumeration of hidden states, without chains; for at most 16 units in the
            layers of odd number.
        batch_size
            Chains that run together, 1,024 if not given.

        Returns
        -------
        AnnData with counts as CSR, ``obs["component"]`` (pattern of the topmost layer, if it has at most 16 units), the batch
        column if there is more than one batch, ``obsm["X_scdbm"]`` (states of the topmost layer), and diagnostics of the
        chains:

        * ``uns["gibbs_log_joint"]`` and ``uns["gibbs_total"]``: means over chains of :math:`\log \sum_v e^{-E(v, h)}` and of the
          expected total count after each sweep. Once they are level, chains have burnt in; a warning says if totals still
          move by 5% in the second half of the sweeps.
        * ``uns["gibbs_rhat"]``: split R-hat over the second half of the sweeps of up to 1,024 chains, for the same
          quantities and the worst unit of each layer. Where it is far above 1, chains stay in the mode that they fell
          into, and shares of modes depend on where they started: compare ``exact=True``, or more sweeps.

        Raises
        ------
        ValueError
            If an argument is not possible.
        """
        return self._sampler(batch_size).sample_prior(
            n_cells,
            component=component,
            batch=batch,
            library="empirical" if library_size is None else library_size,
            n_steps=n_steps,
            collapse=collapse,
            exact=exact,
            seed=seed,
        )

    @checked(
        counts=Instance(AnnData, "an AnnData with counts of the genes to fix"),
        genes=READING["gene_list"],
        layer=Optional(Text("the name of a layer")),
        library_size=Optional(Number(above=0)),
        n_steps=Integer(1),
        collapse=Flag(),
        exact=Flag(),
    )
    def conditional_sample(
        self,
        counts: AnnData,
        genes: Sequence[str] | None = None,
        *,
        n_samples: int = 1,
        layer: str | None = None,
        library_size: float | None = None,
        n_steps: int = 50,
        collapse: bool = True,
        exact: bool = False,
        seed: int | None = None,
        batch_size: int | None = None,
    ) -> AnnData:
        r"""Draw cells with fixed counts of some genes, :math:`p(v_F \mid v_C)`.

        Gibbs chains over the hidden layers given the fixed counts; then the other genes. What a panel of genes says of the
        rest, for cells in which only the panel was measured.

        Parameters
        ----------
        counts
            Cells with counts of the fixed genes, and any others, which are not read. With several batches, the batch column
            of the model; with registered size factors, theirs.
        genes
            Names of the genes to fix; all genes of `counts` if not given.
        n_samples
            Number of draws for each cell ``n``.
        layer
            Layer of `counts`; ``None`` for ``X``.
        library_size
            Total count of each cell, over all genes of the model, for a model whose size factors are totals.
        n_steps, collapse, exact, seed, batch_size
            As for :meth:`prior_predictive_sample`.

        Returns
        -------
        AnnData of ``n * n_samples`` cells, draws of a cell after each other, with all genes of the model,
        ``obs["source_cell"]``, ``var["fixed"]``, and what :meth:`prior_predictive_sample` has.

        Raises
        ------
        ValueError
            If genes are unknown, missing or all fixed, counts are not counts, or batch or size of the cells is not known.
        """
        sampler = self._sampler(batch_size)
        fixed = fixed_genes(sampler.genes, counts.var_names, genes)
        some = counts[:, sampler.genes[fixed]]
        x = sparse.csr_matrix(counts_of(some, layer))
        check_fixed_counts(x, some)
        given = Conditions(
            batches_of(counts, self.registry, self.module.device),
            sizes_of(counts, self.registry, self.module, library_size, are_totals=sampler.sizes_are_totals),
        )
        options = {"n_samples": n_samples, "n_steps": n_steps, "collapse": collapse, "exact": exact, "seed": seed}
        return sampler.sample_given(fixed, x, given, counts.obs_names, **options)
