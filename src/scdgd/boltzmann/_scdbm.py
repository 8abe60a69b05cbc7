"""SCDBM: a deep Boltzmann machine of counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.model.base import BaseModelClass, RNASeqMixin
from scvi.utils import setup_anndata_dsp

from scdgd._absent_options import without
from scdgd._compat import get_state_registry, is_registered, make_actual
from scdgd._constants import CHECKPOINT_FORMAT
from scdgd._options import Flag, Integer, Number, checked_by
from scdgd.data import (
    BatchField,
    CategoricalCovariatesField,
    ContinuousCovariatesField,
    CountsField,
    LabelsField,
    SizeFactorField,
    SparseCountsLoader,
    SparseCountsSplitter,
)
from scdgd.model._arguments import BUILDING_ENCODERS, SETUP
from scdgd.model._host_options import OF_DECODERS
from scdgd.model._training_options import TRAINING
from scdgd.train import InterruptibleTrainRunner

from ._boltzmann_model import BoltzmannModel
from ._contrastive_divergence_plan import ContrastiveDivergencePlan
from ._deep_machine import DeepBoltzmannMachine
from ._run import BoltzmannRun

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from lightning.pytorch import LightningDataModule

#: Mean of size factors, or its inverse, that is still a size of cells relative to each other.
_MOST_SIZE = 100.0


class SCDBM(BoltzmannModel, RNASeqMixin, BaseModelClass):
    r"""Deep Boltzmann machine of counts, scDBM (Treppner et al. 2021).

    An undirected model: negative binomial counts below layers of binary units, made to learn from few cells and to generate
    new ones. See :class:`~scdgd.boltzmann.DeepBoltzmannMachine` for the density and
    :class:`~scdgd.boltzmann.ContrastiveDivergencePlan` for training. The published settings are
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
    _takes_gene_panels = False

    @without(**OF_DECODERS)
    @checked_by(BUILDING_ENCODERS | {"theta": Number(above=0), "n_particles": Integer(1), "use_library_size": Flag()})
    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict | None = None,
        *,
        n_hidden: Sequence[int] = (12, 4),
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
        if has_size_factor and self.adata is not None:
            self._check_sizes()
        n_batch = len(get_state_registry(self.registry, REGISTRY_KEYS.BATCH_KEY)["categorical_mapping"])
        if n_particles < n_batch:
            msg = f"`n_particles` must be at least the number of batches, {n_batch}, got {n_particles!r}."
            raise ValueError(msg)
        self.module = self._module_cls(
            len(self._genes),
            (n_hidden,) if isinstance(n_hidden, int) else n_hidden,
            n_batch=n_batch,
            theta=theta,
            n_particles=n_particles,
            uses_size=use_library_size,
        )
        self._describe(
            layers=f"{', '.join(map(str, self.module.n_hidden))} hidden units",
            chains=f"{n_particles:,}",
            size_factors="of cells" if use_library_size else "none",
        )
        self.checkpoint_format_ = CHECKPOINT_FORMAT
        self.init_params_ = self._get_init_params(locals())

    def _check_sizes(self) -> None:
        """Raise ValueError unless size factors are about one: they multiply energies, not only means."""
        sizes = np.asarray(self.adata_manager.get_from_registry(REGISTRY_KEYS.SIZE_FACTOR_KEY), dtype=float)
        if not 1 / _MOST_SIZE <= sizes.mean() <= _MOST_SIZE:
            column = f"adata.obs['{self.registry['setup_args']['size_factor_key']}']"
            msg = (
                f"Size factors multiply the energy of a cell, so they must be about one, and the mean of {column} is "
                f"{sizes.mean():.3g}. Divide them: `{column} /= {column}.mean()`, and set up again."
            )
            raise ValueError(msg)

    @classmethod
    @setup_anndata_dsp.dedent
    @checked_by(SETUP)
    def setup_anndata(
        cls,
        adata: AnnData,
        layer: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        size_factor_key: str | None = None,
        categorical_covariate_keys: list[str] | None = None,
        continuous_covariate_keys: list[str] | None = None,
        *,
        gene_mask_key: str | None = None,
        unlabeled_category: str | float | None = None,
        is_count_data: bool = True,
        **kwargs: Any,
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
        categorical_covariate_keys, continuous_covariate_keys, gene_mask_key
            Not supported.
        unlabeled_category
            What stands in the column of labels for a cell without one, as in :class:`scvi.model.SCANVI`; a missing value does so
            always. It is no category of the model. Labels of new cells that the model does not know count as none, with a
            warning.
        is_count_data
            Must be true.

        Raises
        ------
        ValueError
            If counts, names or columns are not as they must be, covariates or a mask are given, or the data are no counts.
        """
        cls._check_mask(gene_mask_key, batch_key)
        if not is_count_data:
            msg = (
                "SCDBM is a model of counts only, so `is_count_data=False` has no meaning here. Set up with raw counts, or "
                "take `gene_likelihood='normal'` of another model."
            )
            raise ValueError(msg)
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
            CountsField(layer, takes_panels=cls._takes_gene_panels),
            BatchField(batch_key),
            LabelsField(labels_key, unlabeled_category),
            *([] if size_factor_key is None else [SizeFactorField(size_factor_key)]),
            CategoricalCovariatesField(None),  # there are none, which scvi-tools looks up
            ContinuousCovariatesField(None),
        ]
        cls._register(adata, fields, setup_method_args, kwargs)

    @checked_by(TRAINING)
    def train(
        self,
        max_epochs: int | None = None,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        train_size: float | None = 1.0,
        validation_size: float | None = None,
        shuffle_set_split: bool = True,
        load_sparse_tensor: bool = False,
        batch_size: int = 64,
        early_stopping: bool = False,
        datasplitter_kwargs: dict | None = None,
        plan_config: dict | None = None,
        plan_kwargs: dict | None = None,
        datamodule: LightningDataModule | None = None,
        trainer_config: dict | None = None,
        estimate_likelihood: bool = True,
        checkpoint_dir: str | os.PathLike | None = None,
        checkpoint_every_n_epochs: int | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train layer by layer, then jointly.

        `history` has, after each epoch, ``reconstruction_loss_train`` and ``free_energy_train`` (of up to 1,000 cells, in the
        machine that trains at the time), and with validation cells ``free_energy_validation`` and ``free_energy_gap``,
        which grows where the model overfits; and at the end ``log_likelihood_train``. Free energies of one stage differ from
        log-likelihoods by the same number for all cells; those of different stages are of different machines. A second
        call goes on with all layers.

        Parameters
        ----------
        max_epochs
            Number of epochs of all stages together, 110 if not given: 60 for layer 1, 40 for layer 2, 10 for all.
        accelerator, devices
            As in scvi-tools; one device.
        train_size
            Share of cells that train; all by default, ``None`` for scvi-tools' 90%.
        validation_size, shuffle_set_split, load_sparse_tensor, datasplitter_kwargs
            As in scvi-tools. Counts are always sparse.
        batch_size
            Cells per minibatch.
        early_stopping
            Not supported, for stages differ in their objective.
        estimate_likelihood
            Whether to estimate the log-likelihood of up to 1,000 training cells at the end, by :meth:`get_marginal_ll`.
        plan_config, plan_kwargs
            Arguments of :class:`~scdgd.boltzmann.ContrastiveDivergencePlan`.
        datamodule
            Not supported.
        trainer_config, **trainer_kwargs
            Arguments of :class:`~scvi.train.Trainer`.
        checkpoint_dir, checkpoint_every_n_epochs
            Folder of checkpoints, from which the same call goes on after the process was killed, and the epochs between
            them, as for :meth:`SCDGD.train`.

        Raises
        ------
        ValueError
            If an option is not possible, or the data have changed since they were set up.
        TypeError
            If there is no such option.
        FloatingPointError
            If training diverges; the model is then as it was before.
        NotImplementedError
            For several devices, and for `datamodule`.
        """
        BoltzmannRun(self, locals())()

    @classmethod
    def load_query_data(cls, *args: Any, **kwargs: Any) -> None:
        """Not needed: new cells of the model's batches are read as they are, and a new batch has no biases to start from.

        Raises
        ------
        NotImplementedError
            Always.
        """
        msg = (
            "SCDBM needs no query training: pass new cells to `get_latent_representation(adata)`, `get_marginal_ll(adata)` "
            "and so on. Cells of a batch that the model has not seen need visible biases: train a model with them."
        )
        raise NotImplementedError(msg)
