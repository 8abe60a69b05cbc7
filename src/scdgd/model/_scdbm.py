"""SCDBM: a deep Boltzmann machine of counts."""

from __future__ import annotations

import logging
import warnings
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.data.fields import CategoricalObsField
from scvi.model.base import BaseModelClass, UnsupervisedTrainingMixin
from scvi.train import merge_kwargs
from scvi.utils import dependencies, setup_anndata_dsp

from scdgd._compat import get_state_registry, is_registered, make_actual
from scdgd._constants import CHECKPOINT_FORMAT
from scdgd.data import (
    BatchField,
    CountsField,
    SizeFactorField,
    SparseCountsLoader,
    SparseCountsSplitter,
    as_sparse_counts,
)
from scdgd.inference._cell_sampler import _seeded
from scdgd.inference._growing_csr import GrowingCSR
from scdgd.module import Conditions, DeepBoltzmannMachine, annealed_log_partition
from scdgd.module._annealed_importance import without_weights
from scdgd.module._deep_boltzmann import MAX_ENUMERATED
from scdgd.train import ContrastiveDivergencePlan, InterruptibleTrainRunner, Interruption

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import sparse

    from scdgd.data import SparseCounts

logger = logging.getLogger(__name__)

#: Cells whose likelihood is estimated after training, and Gibbs chains that run together.
_N_CELLS_FOR_LIKELIHOOD, _CHAINS_TOGETHER = 1_000, 1_024
#: Even units whose states are summed over for each cell, and size factors at which log Z is estimated by sampling.
_MAX_EVEN, _N_SIZES = 8, 9
_DEFAULT_EPOCHS = 110


class SCDBM(UnsupervisedTrainingMixin, BaseModelClass):
    r"""Deep Boltzmann machine of counts, scDBM (Treppner et al. 2021).

    An undirected model: negative binomial counts below layers of binary units, made to learn from few cells and to generate
    new ones. See :class:`~scdgd.module.DeepBoltzmannMachine` for the density and
    :class:`~scdgd.train.ContrastiveDivergencePlan` for training. The published settings are
    ``scdgd.presets.TREPPNER_2021``.

    Parameters
    ----------
    adata
        AnnData registered with :meth:`setup_anndata`. Each batch has its own visible biases.
    n_hidden
        Numbers of units of the hidden layers, from below.
    theta
        Inverse dispersion of genes at the start.
    n_particles
        Number of persistent chains.
    use_library_size
        Whether cells have a size factor: the registered one, or else the total count over its mean. An extension; the
        published model has none, and spends hidden units on differences of depth. A registered size factor needs it.

    Raises
    ------
    ValueError
        If an option is out of range, there are fewer chains than batches, or a size factor would be ignored.

    Examples
    --------
    >>> adata = scdgd.datasets.pbmc68k()
    >>> scdgd.model.SCDBM.setup_anndata(adata)
    >>> model = scdgd.model.SCDBM(adata)
    >>> model.train()
    >>> adata.obsm["X_scdbm"] = model.get_latent_representation()
    >>> synthetic = model.prior_predictive_sample(1_000, seed=0)
    """

    _module_cls = DeepBoltzmannMachine
    _training_plan_cls = ContrastiveDivergencePlan
    _data_splitter_cls = SparseCountsSplitter
    _data_loader_cls = SparseCountsLoader
    _train_runner_cls = InterruptibleTrainRunner
    _latent_key = "X_scdbm"

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict | None = None,
        *,
        n_hidden: Sequence[int] = (16, 4),
        theta: float = 0.5,
        n_particles: int = 100,
        use_library_size: bool = False,
    ) -> None:
        super().__init__(adata, registry)
        has_size_factor = is_registered(self.registry, REGISTRY_KEYS.SIZE_FACTOR_KEY)
        if has_size_factor and not use_library_size:
            msg = (
                "A size factor is registered, which the published model has no place for. Pass `use_library_size=True`, or "
                "leave `size_factor_key` out of `setup_anndata`."
            )
            raise ValueError(msg)
        n_batch = len(get_state_registry(self.registry, REGISTRY_KEYS.BATCH_KEY)["categorical_mapping"])
        if not isinstance(n_particles, Real) or n_particles < n_batch:
            msg = f"`n_particles` must be at least the number of batches, {n_batch}, got {n_particles!r}."
            raise ValueError(msg)
        if not theta > 0:
            msg = f"`theta` must be positive, got {theta!r}."
            raise ValueError(msg)
        self.module = self._module_cls(
            len(self._genes),
            (n_hidden,) if isinstance(n_hidden, Real) else n_hidden,
            n_batch=n_batch,
            theta=theta,
            n_particles=int(n_particles),
            uses_size=use_library_size,
        )
        self._model_summary_string = (
            f"SCDBM: hidden layers {self.module.n_hidden}, {n_batch} batches, {n_particles} chains, "
            f"{'with' if use_library_size else 'without'} size factors"
        )
        self.checkpoint_format_ = CHECKPOINT_FORMAT
        self.init_params_ = self._get_init_params(locals())

    @classmethod
    @setup_anndata_dsp.dedent
    def setup_anndata(
        cls,
        adata: AnnData,
        layer: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        size_factor_key: str | None = None,
        categorical_covariate_keys: list[str] | None = None,
        continuous_covariate_keys: list[str] | None = None,
        **kwargs,
    ) -> None:
        """%(summary)s

        All counts are validated: they must be non-negative integers, with at least one count per cell. Labels are only
        registered.

        Parameters
        ----------
        %(param_adata)s
        %(param_layer)s
        %(param_batch_key)s
        %(param_labels_key)s
        %(param_size_factor_key)s
        categorical_covariate_keys, continuous_covariate_keys
            Not supported.

        Raises
        ------
        ValueError
            If counts, names or columns are not as they must be, or covariates are given.
        """
        if categorical_covariate_keys or continuous_covariate_keys:
            keys = [*(categorical_covariate_keys or []), *(continuous_covariate_keys or [])]
            msg = (
                f"SCDBM has visible biases for batches but no place for the covariates {keys}. Combine categories into one "
                "column for `batch_key`, or leave them out."
            )
            raise ValueError(msg)
        make_actual(adata)
        setup_method_args = cls._get_setup_method_args(**locals())
        fields = [
            CountsField(layer),
            BatchField(batch_key),
            CategoricalObsField(REGISTRY_KEYS.LABELS_KEY, labels_key),
            *([] if size_factor_key is None else [SizeFactorField(size_factor_key)]),
        ]
        manager = AnnDataManager(fields=fields, setup_method_args=setup_method_args)
        manager.register_fields(adata, **kwargs)
        cls.register_manager(manager)

    def train(
        self,
        max_epochs: int | None = None,
        *args,
        train_size: float | None = 1.0,
        batch_size: int = 64,
        early_stopping: bool = False,
        estimate_likelihood: bool = True,
        plan_config: dict | None = None,
        plan_kwargs: dict | None = None,
        **kwargs,
    ) -> None:
        """Train layer by layer, then jointly.

        `history` has, after each epoch, ``reconstruction_loss_train``; ``free_energy_train`` while all layers train, and
        with validation cells ``free_energy_validation`` and ``free_energy_gap``, which grows where the model overfits;
        and at the end ``log_likelihood_train``. A second call goes on with all layers.

        Parameters
        ----------
        max_epochs
            Number of epochs of all stages together, 110 if not given: 60 for layer 1, 40 for layer 2, 10 for all.
        *args, **kwargs
            As in scvi-tools.
        train_size
            Share of cells that train; all by default.
        batch_size
            Cells per minibatch.
        early_stopping
            Not supported, for stages differ in their objective.
        estimate_likelihood
            Whether to estimate the log-likelihood of up to 1,000 training cells at the end, by :meth:`get_marginal_ll`.
        plan_config, plan_kwargs
            Arguments of :class:`~scdgd.train.ContrastiveDivergencePlan`.

        Raises
        ------
        ValueError
            If an option is not possible.
        FloatingPointError
            If training diverges.
        """
        if early_stopping:
            msg = (
                "`early_stopping` has nothing to watch: each stage has another objective. Compare `max_epochs` by "
                "`get_marginal_ll` of held-out cells."
            )
            raise ValueError(msg)
        max_epochs = _DEFAULT_EPOCHS if max_epochs is None else max_epochs
        if train_size is None or train_size < 1:
            kwargs.setdefault("check_val_every_n_epoch", 1)
        interruption = Interruption()
        self.module.train()
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Total length of `list`")  # an empty validation loader
                warnings.filterwarnings("ignore", message="Last batch will have a small size")  # no batch norm here
                super().train(
                    max_epochs,
                    *args,
                    train_size=train_size,
                    batch_size=batch_size,
                    plan_kwargs=merge_kwargs(plan_config, plan_kwargs, name="plan"),
                    interruption=interruption,
                    **kwargs,
                )
            if interruption.signum is not None:
                logger.warning("Training was interrupted after %s epochs.", self.trainer.current_epoch)
        finally:
            self.module.eval()
            interruption.end_process()
            interruption.take_effect()
        if not bool(self.module.is_pretrained):
            logger.warning("Training ended before all layers were trained together; train again to begin anew.")
        elif estimate_likelihood:
            self._note_likelihood()

    def _note_likelihood(self) -> None:
        cells = np.asarray(self.train_indices)
        if len(cells) > _N_CELLS_FOR_LIKELIHOOD:
            cells = np.sort(np.random.default_rng(0).choice(cells, _N_CELLS_FOR_LIKELIHOOD, replace=False))
        name = "log_likelihood_train"
        epoch = pd.Index([len(self.history_["reconstruction_loss_train"]) - 1], name="epoch")
        new = pd.DataFrame({name: [self.get_marginal_ll(indices=cells, seed=0)]}, index=epoch)
        old = self.history_.get(name)
        self.history_[name] = new if old is None else pd.concat([old, new])

    # ------------------------------------------------------------ reading

    @torch.inference_mode()
    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        give_mean: bool = True,
        mc_samples: int = 5_000,
        batch_size: int | None = None,
        return_dist: bool = False,
        *,
        layer: int | None = None,
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
        layer
            Number of the layer, from 1; the topmost if not given.

        Returns
        -------
        Shape ``(n, H_l)``; or two such arrays.

        Raises
        ------
        ValueError
            If there is no such layer.
        """
        layer = self.module.n_layers if layer is None else layer
        if layer not in range(1, self.module.n_layers + 1):
            msg = f"`layer` must be one of 1 ... {self.module.n_layers}, got {layer!r}."
            raise ValueError(msg)
        parts = [q[layer - 1] for _, _, q in self._mean_field(adata, indices, batch_size)]
        q = torch.cat(parts)
        if return_dist:
            return q.cpu().numpy(), (q * (1 - q)).cpu().numpy()
        return (q if give_mean else torch.bernoulli(q)).cpu().numpy()

    @torch.inference_mode()
    def get_reconstruction_error(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        return_mean: bool = True,
    ) -> dict[str, float | torch.Tensor]:
        r"""Negative log-likelihood of counts at the mean-field activations, :math:`-\log p(v \mid h^1 = q^1)`.

        Parameters
        ----------
        adata, indices
            Cells; those that the model was set up with if not given.
        batch_size
            Cells per minibatch.
        return_mean
            Whether to return the mean over cells; else values of all cells, shape ``(n,)``.

        Returns
        -------
        ``{"reconstruction_loss": value}``, as in scvi-tools.
        """
        module, errors = self.module, []
        for v, given, q in self._mean_field(adata, indices, batch_size):
            errors.append(-module.visible.log_prob(v, module.shift(q[0]), given.batch, given.size).cpu())
        errors = torch.cat(errors)
        return {"reconstruction_loss": float(errors.mean()) if return_mean else errors}

    @torch.inference_mode()
    def get_marginal_ll(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        n_mc_samples: int = 100,
        batch_size: int | None = None,
        return_mean: bool = True,
        *,
        n_steps: int = 500,
        seed: int | None = None,
    ) -> float | torch.Tensor:
        r"""Log-likelihood :math:`\log \sum_h e^{-E(v, h)} - \log Z` of cells.

        The sum over :math:`h` is exact with one hidden layer, or if layers of even number have at most 8 units together;
        else it is bounded from below by mean field. :math:`\log Z` is exact if layers of odd number have at most 14 units
        together; else it is estimated by annealed importance sampling, whose errors go the other way: an estimate of
        :math:`\log Z` that is too low makes the log-likelihood too high. A warning says so if few chains carry it. With
        size factors it is then estimated at nine of them in each batch; between them lines are drawn, which lie above.

        Parameters
        ----------
        adata, indices
            Cells; those that the model was set up with if not given.
        n_mc_samples, n_steps
            Number of chains and of intermediate distributions of annealed importance sampling.
        batch_size
            Cells per minibatch.
        return_mean
            Whether to return the mean over cells; else values of all cells, shape ``(n,)``.
        seed
            Seed of annealed importance sampling; ``None`` continues torch's generator.
        """
        self._check_if_trained(warn=False)
        module, is_exact = self.module, self.module.n_even <= _MAX_EVEN
        values, batches, sizes, sums, n = [], [], [], 0.0, 0
        for v, given, q in self._mean_field(adata, indices, batch_size):
            values.append(module.log_unnormalised(v, given) if is_exact else module.lower_bound(v, q, given))
            batches.append(given.batch)
            sizes.append(given.size)
            sums, n = sums + torch.cat(q, 1).sum(0), n + len(v)
        given = Conditions(torch.cat(batches), torch.cat(sizes))
        if module.n_odd <= MAX_ENUMERATED:
            log_z = module.log_partition(given)
        else:
            with _seeded(seed):
                log_z = self._estimate_log_partition(given, sums / n, n_mc_samples, n_steps)
        log_likelihood = (torch.cat(values) - log_z).cpu()
        return float(log_likelihood.mean()) if return_mean else log_likelihood

    def _estimate_log_partition(
        self, given: Conditions, activations: torch.Tensor, n_chains: int, n_steps: int
    ) -> torch.Tensor:
        """Log Z of each cell, shape ``(n,)``, from a machine of independent units with the data's means."""
        module = self.module
        mean_size = torch.bincount(given.batch, given.size) / torch.bincount(given.batch).clamp(min=1)
        mean_size = torch.nn.functional.pad(mean_size, (0, len(module.mean_counts) - len(mean_size)), value=1.0)
        means = module.mean_counts / mean_size.clamp(min=1e-6).unsqueeze(1)
        base = without_weights(module, means, list(activations.split(module.n_hidden)))
        log_z, fewest = torch.empty_like(given.size), float(n_chains)
        for batch in given.batch.unique():
            cells = given.batch == batch
            levels = torch.linspace(0, 1, _N_SIZES, device=batch.device)
            grid = torch.quantile(given.size[cells].double(), levels.double()).to(given.size).unique()
            estimates = []
            for size in grid:
                one = Conditions(batch.reshape(1), size.reshape(1))
                estimates.append(annealed_log_partition(module, one, n_chains=n_chains, n_steps=n_steps, base=base))
                fewest = min(fewest, estimates[-1].effective_samples)
            found = [estimate.value for estimate in estimates]
            between = np.interp(given.size[cells].cpu().double().numpy(), grid.cpu().double().numpy(), found)
            log_z[cells] = torch.as_tensor(between).to(log_z)
        if fewest < n_chains / 10:
            logger.warning(
                "The estimate of log Z rests on %.1f of %s chains, so log-likelihoods may be too high. Raise `n_steps`.",
                fewest,
                n_chains,
            )
        return log_z

    def _mean_field(
        self, adata: AnnData | None, indices: Sequence[int] | None, batch_size: int | None
    ) -> Iterator[tuple[SparseCounts, Conditions, list[torch.Tensor]]]:
        """Counts, conditions and probabilities, minibatch by minibatch."""
        self._check_if_trained(warn=False)
        adata, module = self._validate_anndata(adata), self.module
        for tensors in self._make_data_loader(adata=adata, indices=indices, batch_size=batch_size):
            tensors = {key: value.to(module.device) for key, value in tensors.items()}
            v, given = as_sparse_counts(tensors[REGISTRY_KEYS.X_KEY]), module.conditions(tensors)
            yield v, given, module.mean_field(v, given)

    # ------------------------------------------------------------ sampling

    @torch.inference_mode()
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
        batch_size: int | None = None,
    ) -> AnnData:
        r"""Draw synthetic cells: the last states of Gibbs chains, one chain a cell.

        Chains start at random states. Each borrows batch and size factor from a random cell of the attached AnnData, never
        its counts; a model without both needs no data.

        Parameters
        ----------
        n_cells
            Number of cells.
        component
            Not supported: there is no mixture.
        batch
            Borrow from the cells of this batch only.
        library_size
            Total count that is the size of every cell, in place of a borrowed size factor. States with low means still have
            lower totals.
        seed
            Seed of all draws; ``None`` continues torch's and a fresh NumPy generator.
        n_steps
            Number of sweeps.
        collapse
            Whether sweeps sum out counts (:meth:`scdgd.module.DeepBoltzmannMachine.sweep`), which mixes far better than the
            published block sweeps.
        batch_size
            Chains that run together, 1,024 if not given.

        Returns
        -------
        AnnData with counts as CSR, the batch column if there is more than one batch, ``obsm["X_scdbm"]`` (states of the
        topmost layer), and ``uns["gibbs_log_joint"]``, the mean over chains of :math:`\log \sum_v e^{-E(v, h)}` after each
        sweep: once it is level, the chains have burnt in.

        Raises
        ------
        ValueError
            If an argument is not possible.
        """
        self._check_if_trained(warn=False)
        for name, value in (("n_cells", n_cells), ("n_steps", n_steps)):
            if not isinstance(value, Real) or isinstance(value, bool) or value < 1 or int(value) != value:
                msg = f"`{name}` must be a positive integer, got {value!r}."
                raise ValueError(msg)
        if component is not None:
            msg = "A deep Boltzmann machine has no components to draw from. Leave `component` out."
            raise ValueError(msg)
        module, n_cells = self.module, int(n_cells)
        counts = GrowingCSR(n_cells, len(self._genes))
        top = np.empty((n_cells, module.n_hidden[-1]), np.float32)
        traces = torch.zeros(int(n_steps), dtype=torch.float64)
        given = self._borrowed(n_cells, batch, library_size, np.random.default_rng(seed))
        with _seeded(seed):
            for cells in torch.arange(n_cells, device=module.device).split(batch_size or _CHAINS_TOGETHER):
                some = given.of(cells)
                hidden = module.sample_hidden(some, 0)
                for step in range(int(n_steps)):
                    hidden = module.sweep(hidden, some, collapse=collapse)
                    traces[step] += float(module.log_joint_of_hidden(hidden, some).sum()) / n_cells
                counts.append(module.sample_counts(hidden, some).cpu().numpy())
                top[cells.cpu().numpy()] = hidden[-1].cpu().numpy()
        samples = AnnData(
            counts.to_matrix(),
            obs=pd.DataFrame(index=[f"sample_{i}" for i in range(n_cells)]),
            var=pd.DataFrame(index=self._genes),
        )
        state = get_state_registry(self.registry, REGISTRY_KEYS.BATCH_KEY)
        if len(state["categorical_mapping"]) > 1:
            codes = given.batch.cpu().numpy()
            samples.obs[state["original_key"]] = pd.Categorical.from_codes(codes, state["categorical_mapping"])
        samples.obsm[self._latent_key] = top
        samples.uns["gibbs_log_joint"] = traces.numpy()
        return samples

    def _borrowed(
        self, n_cells: int, batch: str | None, library_size: float | None, rng: np.random.Generator
    ) -> Conditions:
        """Batches and sizes of ``n`` random cells."""
        module = self.module
        batches = list(get_state_registry(self.registry, REGISTRY_KEYS.BATCH_KEY)["categorical_mapping"])
        if batch is not None and batch not in batches:
            msg = f"There is no batch {batch!r}; the model knows {batches}."
            raise ValueError(msg)
        if library_size is not None and not (module.uses_size and library_size > 0 and self._sizes_are_totals):
            msg = (
                f"`library_size={library_size!r}` is not possible: it must be positive, and needs a model with "
                "`use_library_size=True` and sizes that are total counts, not a registered size factor."
            )
            raise ValueError(msg)
        needs_cells = module.uses_size and library_size is None
        if not needs_cells:
            shares = module.batch_shares.double().cpu().numpy()
            fixed = None if batch is None else np.full(n_cells, batches.index(batch))
            codes = rng.choice(len(batches), n_cells, p=shares / shares.sum()) if fixed is None else fixed
            size = 1.0 if library_size is None else library_size / float(module.mean_total)
            codes = torch.as_tensor(codes, device=module.device)
            return Conditions(codes, torch.full((n_cells,), size, device=module.device))
        self._validate_anndata(None)
        codes = np.asarray(self.adata_manager.get_from_registry(REGISTRY_KEYS.BATCH_KEY)).ravel()
        donors = np.arange(len(codes)) if batch is None else np.flatnonzero(codes == batches.index(batch))
        if len(donors) == 0:
            msg = f"None of the attached cells is of batch {batch!r}, so there is none to borrow a size from."
            raise ValueError(msg)
        loader = self._make_data_loader(adata=self.adata, indices=donors)
        parts = [module.conditions({k: x.to(module.device) for k, x in tensors.items()}) for tensors in loader]
        everyone = Conditions(*(torch.cat(values) for values in zip(*parts, strict=True)))
        return everyone.of(torch.as_tensor(rng.integers(len(donors), size=n_cells), device=module.device))

    @torch.inference_mode()
    @dependencies("sparse")
    def posterior_predictive_sample(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        n_samples: int = 1,
        gene_list: Sequence[str] | None = None,
        batch_size: int | None = None,
    ) -> sparse.GCXS:
        r"""Draw replicates of cells: :math:`h^1` from its mean-field posterior, then counts given :math:`h^1`.

        Parameters
        ----------
        adata, indices
            Cells; those that the model was set up with if not given.
        n_samples
            Number of replicates ``S`` of each cell.
        gene_list
            Genes to return; all if not given.
        batch_size
            Cells per minibatch.

        Returns
        -------
        Sparse array of shape ``(n, g)``, or ``(n, g, S)`` for several replicates.

        Raises
        ------
        ValueError
            If a gene is unknown.
        """
        import sparse

        genes = pd.Index(self._genes)
        unknown = pd.Index(gene_list if gene_list is not None else []).difference(genes)
        if len(unknown):
            msg = f"Genes {list(unknown[:5])} in `gene_list` are not among the {len(genes)} genes of the model."
            raise ValueError(msg)
        wanted = slice(None) if gene_list is None else genes.isin(gene_list)
        parts = []
        for _, given, q in self._mean_field(adata, indices, batch_size):
            draws = [
                self.module.sample_counts([torch.bernoulli(q[0])], given).cpu().numpy()[:, wanted]
                for _ in range(n_samples)
            ]
            parts.append(sparse.GCXS.from_numpy(draws[0] if n_samples == 1 else np.stack(draws, axis=-1)))
        return parts[0] if len(parts) == 1 else sparse.concatenate(parts, axis=0)

    @property
    def _genes(self) -> np.ndarray:
        return np.asarray(get_state_registry(self.registry, REGISTRY_KEYS.X_KEY)["column_names"], str)

    @property
    def _sizes_are_totals(self) -> bool:
        return not is_registered(self.registry, REGISTRY_KEYS.SIZE_FACTOR_KEY)
