"""FlexSCVI: scVI with a prior that clusters."""

from __future__ import annotations

import logging
import warnings
from numbers import Real
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import torch
from scvi import REGISTRY_KEYS, settings
from scvi.data import AnnDataManager
from scvi.data.fields import CategoricalObsField, LayerField
from scvi.distributions import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from scvi.model import SCVI
from scvi.train import merge_kwargs
from scvi.utils import setup_anndata_dsp, track

from scdgd._compat import MODULE_KEYS, get_adata_minify_type, get_state_registry, make_actual, registry_of
from scdgd._constants import CHECKPOINT_FORMAT
from scdgd.data import (
    BatchField,
    CategoricalCovariatesField,
    ContinuousCovariatesField,
    CountsField,
    SizeFactorField,
    SparseCountsSplitter,
)
from scdgd.likelihood import VALUE_LIKELIHOODS
from scdgd.likelihood.distributions import ZeroInflatedPoisson
from scdgd.metrics import n_used_components
from scdgd.module import FlexVAE
from scdgd.module._linear_decoder import LinearDecoder
from scdgd.train import BestState, EmpiricalBayesPlan, InterruptibleTrainRunner, Interruption

from ._options import check_not_empty
from ._sampling_mixin import PriorSamplingMixin
from ._values_mixin import ValuesMixin, check_values, holds_counts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from scdgd.module import PosteriorName, PriorName
    from scdgd.module._flex_parts import DecoderName
    from scdgd.module._flex_vae import GeneLikelihood
    from scdgd.prior import Prior

logger = logging.getLogger(__name__)

#: Random cells whose components are counted after training: at least so many, and so many for each component.
_N_CELLS_FOR_WARNING, _N_CELLS_PER_COMPONENT = 500, 10
#: scvi-tools drops a last minibatch of fewer cells.
_MIN_CELLS = 3
_WITHOUT_DISPERSION = ("poisson", "zip", "constrained_poisson", *VALUE_LIKELIHOODS)


class FlexSCVI(ValuesMixin, PriorSamplingMixin, SCVI):
    r"""scVI with a choice of prior and posterior.

    Everything of :class:`scvi.model.SCVI` works as it does there. The prior is a mixture whose components are clusters
    of cells, and marginal likelihoods, importance weights and synthetic cells use it. See
    :class:`~scdgd.module.FlexVAE` for the objective and :class:`~scdgd.train.EmpiricalBayesPlan` for how mixtures are
    fitted. :class:`SCVMM`, :class:`SCVAMP` and :class:`SCIAF` are the published combinations.

    Parameters
    ----------
    adata
        AnnData registered with :meth:`setup_anndata`.
    registry
        Registry of a saved model, in place of data (used by :meth:`load`).
    n_hidden
        Width of hidden layers; or a sequence, the widths of the encoder's hidden layers, which the decoder mirrors.
    n_latent, n_layers, dropout_rate, dispersion, use_observed_lib_size, latent_distribution
        As in :class:`scvi.model.SCVI`.
    gene_likelihood
        ``"zinb"``, ``"nb"``, ``"poisson"`` or ``"normal"``, as in :class:`scvi.model.SCVI`; ``"zip"``, zero-inflated
        Poisson; ``"constrained_poisson"``, whose means add up to the total count (Grønbech et al. 2020); or
        ``"bernoulli"``, for binarised counts and images. For data set up with ``is_count_data=False``, such as
        log-normalised values, it must be ``"normal"``; means are then decoded as they are, without a library size.
    prior
        * ``"normal"``: :math:`\mathcal N(0, I)`, as in scVI
        * ``"gmm"``: Gaussian mixture
        * ``"dpgmm"``: truncated Dirichlet process mixture of Gaussians, which leaves components empty that it does not need
        * ``"vamp"``: mixture of the posteriors of pseudo-inputs (Tomczak & Welling 2018; Dony et al. 2020)
        * ``"vmm"``: Dirichlet process mixture whose means are the posteriors of pseudo-inputs (Stirn & Knowles 2024)
        * ``"vade"``: Gaussian mixture trained by the bound of Jiang et al. 2017
        * a subclass of :class:`~scdgd.prior.Prior` that takes `n_components` and `n_latent`: trained by the ELBO
    n_components
        Number ``k`` of components, for ``"dpgmm"`` and ``"vmm"`` an upper bound. Not used by ``"normal"``.
    prior_kwargs
        Further arguments of the prior's class in :mod:`scdgd.prior`.
    posterior
        ``"normal"``, or ``"iaf"`` for an inverse autoregressive flow.
    posterior_kwargs
        Further arguments of :class:`~scdgd.module.InverseAutoregressiveFlow`.
    decoder
        ``"nonlinear"``, or ``"linear"`` for mean counts whose logarithms are affine in the latent space up to a constant
        of each cell (:class:`scvi.model.LinearSCVI`; see :meth:`get_loadings`). `n_hidden` and `n_layers` are then those
        of the encoder.
    **kwargs
        Further arguments of :class:`~scdgd.module.FlexVAE` and :class:`scvi.module.VAE`.

    Raises
    ------
    ValueError
        If an option is unknown, parts do not go together, or there are more components than cells.

    Examples
    --------
    >>> adata = scdgd.datasets.pbmc68k()
    >>> scdgd.model.FlexSCVI.setup_anndata(adata)
    >>> model = scdgd.model.FlexSCVI(adata, prior="vmm", n_components=50)
    >>> model.train()
    >>> adata.obsm["X_flexscvi"] = model.get_latent_representation()
    >>> clusters = model.get_cluster_assignments()
    """

    _module_cls = FlexVAE
    _training_plan_cls = EmpiricalBayesPlan
    _data_splitter_cls = SparseCountsSplitter
    _train_runner_cls = InterruptibleTrainRunner
    _latent_key = "X_flexscvi"
    _is_query = False
    n_pretrained_epochs_ = 0

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict | None = None,
        n_hidden: int | Sequence[int] = 128,
        n_latent: int = 10,
        n_layers: int = 1,
        dropout_rate: float = 0.1,
        dispersion: Literal["gene", "gene-batch", "gene-label", "gene-cell"] = "gene",
        gene_likelihood: GeneLikelihood = "zinb",
        use_observed_lib_size: bool = True,
        latent_distribution: Literal["normal", "ln"] = "normal",
        *,
        prior: PriorName | type[Prior] = "vmm",
        n_components: int = 100,
        prior_kwargs: dict | None = None,
        posterior: PosteriorName = "normal",
        posterior_kwargs: dict | None = None,
        decoder: DecoderName = "nonlinear",
        **kwargs,
    ) -> None:
        if not isinstance(n_components, Real) or not n_components >= 1 or int(n_components) != n_components:
            msg = f"`n_components` must be a positive integer, got {n_components!r}."
            raise ValueError(msg)
        if prior != "normal" and adata is not None and registry is None:
            _check_enough_cells(n_components, adata.n_obs, "cells")
        registry_ = registry_of(type(self), adata) if registry is None and adata is not None else registry
        if registry_ is not None:
            check_values(registry_, gene_likelihood)
            if not holds_counts(registry_):
                kwargs = _without_sizes(kwargs)
        super().__init__(
            adata,
            registry,
            n_hidden,
            n_latent,
            n_layers,
            dropout_rate,
            dispersion,
            gene_likelihood,
            use_observed_lib_size,
            latent_distribution,
            prior=prior,
            n_components=int(n_components),
            prior_kwargs=prior_kwargs,
            posterior=posterior,
            posterior_kwargs=posterior_kwargs,
            decoder=decoder,
            **kwargs,
        )
        self._model_summary_string = (
            f"{type(self).__name__}: prior {prior if isinstance(prior, str) else prior.__name__}"
            + ("" if prior == "normal" else f" with {n_components} components")
            + f", posterior {posterior}, {n_latent} latent dimensions, hidden {n_hidden} x {n_layers}, {decoder} decoder, "
            f"{gene_likelihood}, dispersion {dispersion}"
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
        *,
        is_count_data: bool = True,
        **kwargs,
    ) -> None:
        """%(summary)s

        All counts are validated: they must be non-negative integers, with at least one count per cell. A view becomes
        an AnnData of its own, and sparse *arrays* become the equal sparse matrices.

        Parameters
        ----------
        %(param_adata)s
        %(param_layer)s
        %(param_batch_key)s
        %(param_labels_key)s
        %(param_size_factor_key)s
        %(param_cat_cov_keys)s
        %(param_cont_cov_keys)s
        is_count_data
            If not, values only have to be finite, and only ``gene_likelihood="normal"`` takes them.

        Raises
        ------
        ValueError
            If counts, names or columns are not as they must be; the message names cells, genes and the remedy.
        """
        make_actual(adata)
        setup_method_args = cls._get_setup_method_args(**locals())
        minified = get_adata_minify_type(adata)
        fields = [
            _MinifiableCountsField(layer, holds_counts=is_count_data),
            BatchField(batch_key),
            CategoricalObsField(REGISTRY_KEYS.LABELS_KEY, labels_key),
            *([] if size_factor_key is None else [SizeFactorField(size_factor_key)]),
            CategoricalCovariatesField(categorical_covariate_keys),
            ContinuousCovariatesField(continuous_covariate_keys),
            *([] if minified is None else cls._get_fields_for_adata_minification(minified)),
        ]
        manager = AnnDataManager(fields=fields, setup_method_args=setup_method_args)
        manager.register_fields(adata, **kwargs)
        cls.register_manager(manager)

    def train(
        self,
        max_epochs: int | None = None,
        *args,
        early_stopping: bool = False,
        plan_config: dict | None = None,
        plan_kwargs: dict | None = None,
        **kwargs,
    ) -> None:
        """Train the model, with the arguments of :meth:`scvi.model.SCVI.train`.

        Differences from scvi-tools: the divergence has its full weight from the first step (``n_epochs_kl_warmup`` in
        `plan_kwargs` asks for a warm-up); early stopping ends in the best state, not the last; a loss that is not
        finite ends training in the last good state, with an error that says where; Ctrl-C and SIGTERM end training
        after the current minibatch, and the model holds the state that it reached, or with `early_stopping` the best
        one. A mixture that has put all cells into one component, or uses each of many, is warned about. A second call goes on, without
        pre-training again. For a query
        (:meth:`load_query_data`), ``weight_decay`` is 0 unless it is given, for decay would move frozen weights.

        Parameters
        ----------
        max_epochs
            Number of epochs; ``None`` for scvi-tools' choice by the number of cells.
        *args, **kwargs
            As in :meth:`scvi.model.SCVI.train`.
        early_stopping
            Whether to stop when `early_stopping_monitor` no longer improves.
        plan_config, plan_kwargs
            Arguments of the training plan: :class:`~scdgd.train.EmpiricalBayesPlan`, or
            :class:`~scdgd.train.GMVAEPlan` of :class:`SCGMVAE` and :class:`SCVAE`.

        Raises
        ------
        ValueError
            If there are fewer training cells than components, fewer cells than 3, or no validation cells to stop by.
        FloatingPointError
            If the loss is not finite in the first epoch.
        """
        plan = merge_kwargs(plan_config, plan_kwargs, name="plan")
        if self._is_query:
            plan.setdefault("weight_decay", 0.0)
        self._check_split(early_stopping, kwargs)
        n_pretraining = plan.get("n_pretraining_epochs", 0)
        if n_pretraining:
            plan.setdefault("n_pretrained_epochs", self.n_pretrained_epochs_)
        monitor = kwargs.get("early_stopping_monitor", "elbo_validation") if early_stopping else None
        best = BestState(monitor, kwargs.get("early_stopping_mode", "min"))
        kwargs["callbacks"] = [*(kwargs.get("callbacks") or []), best]
        interruption = Interruption()
        if self.module is not None:
            self.module.train()  # reading methods leave it in evaluation mode, and Lightning would keep it there
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Total length of `list`")  # an empty validation loader
                super().train(
                    max_epochs,
                    *args,
                    early_stopping=early_stopping,
                    plan_kwargs=plan,
                    interruption=interruption,
                    **kwargs,
                )
            if n_pretraining:
                self.n_pretrained_epochs_ = min(self.n_pretrained_epochs_ + self.trainer.current_epoch, n_pretraining)
            if interruption.signum is not None:
                logger.warning(
                    "Training was interrupted after %s epochs; the model holds the %s.",
                    self.trainer.current_epoch,
                    "state that it reached" if monitor is None else f"best state, of epoch {best.epoch}",
                )
        finally:
            if self.module is not None:
                self.module.eval()  # where training did not begin or end well, too
            interruption.end_process()
            interruption.take_effect()
        self._warn_of_collapse()

    def _check_split(self, early_stopping: bool, options: dict) -> None:
        """Refuse training without cells to train on, or early stopping without cells to stop by."""
        if self.adata is None or options.get("datamodule") is not None:
            return
        if self.adata.n_obs < _MIN_CELLS:
            msg = f"Minibatches of one or two cells are left out, so training needs {_MIN_CELLS} cells, got {self.adata.n_obs}."
            raise ValueError(msg)
        monitor, train_size = options.get("early_stopping_monitor", "elbo_validation"), options.get("train_size")
        if early_stopping and train_size == 1 and "validation" in monitor:
            msg = f"Early stopping by {monitor!r} needs validation cells: lower `train_size`, or leave it out."
            raise ValueError(msg)

    def _make_data_loader(self, adata: AnnData, indices: Sequence[int] | None = None, *args, **kwargs):
        """As in scvi-tools; of one cell at least."""
        check_not_empty(indices)
        return super()._make_data_loader(adata, indices, *args, **kwargs)

    def _warn_of_collapse(self) -> None:
        """Warn if a mixture has one cluster, or as many as it could have."""
        k = self.module.prior.n_components
        if k == 1 or self.adata is None or self.minified_data_type is not None:
            return
        n_cells, n_wanted = self.adata.n_obs, max(_N_CELLS_FOR_WARNING, _N_CELLS_PER_COMPONENT * k)
        some = np.random.default_rng(0).choice(n_cells, min(n_cells, n_wanted), replace=False)
        clusters = self.get_cluster_assignments(indices=np.sort(some))
        n_used = n_used_components(clusters, min_share=min(0.01, 0.1 / k))
        if n_used_components(clusters) == 1:
            logger.warning(
                "All cells are in one of %s components: the mixture does not cluster. Train longer, raise "
                "`prior_batch_size` in `plan_kwargs`, or choose another prior.",
                k,
            )
        elif n_used == k and self.module.prior.empirical_bayes and k > 20:
            logger.warning(
                "All %s components are used, so the number of clusters is the one that was given. Raise `n_components`, "
                "or lower `prior_batch_size` in `plan_kwargs`.",
                k,
            )

    @torch.inference_mode()
    def get_cluster_assignments(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        soft: bool = False,
        batch_size: int | None = None,
    ) -> np.ndarray:
        r"""Component of each cell at the mean of its posterior, :math:`\arg\max_c\, p(c \mid \nu_i)`.

        For a VampPrior mixture probabilities are those of its E-step (Stirn & Knowles 2024).

        Parameters
        ----------
        adata, indices
            Cells; those that the model was set up with if not given.
        soft
            Whether to return probabilities.
        batch_size
            Cells per minibatch.

        Returns
        -------
        Components, shape ``(n,)``, int; or probabilities, shape ``(n, k)``.

        Raises
        ------
        ValueError
            If the prior has one component.
        """
        self._check_if_trained(warn=False)
        if self.module.prior.n_components == 1:
            msg = "The prior has one component, so there are no clusters. Choose e.g. `prior='vmm'`."
            raise ValueError(msg)
        z = self.get_latent_representation(adata, indices, batch_size=batch_size)
        prior = self.module.given_prior()
        parts = torch.as_tensor(z, device=self.module.device).split(10_000)
        log_joint = torch.cat([prior.expected_component_log_prob(part) for part in parts])
        return (torch.softmax(log_joint, dim=-1) if soft else log_joint.argmax(dim=-1)).cpu().numpy()

    @torch.inference_mode()
    def get_loadings(self) -> pd.DataFrame:
        r"""Loadings of genes in a linear decoder, as of :class:`scvi.model.LinearSCVI`.

        A unit of :math:`z_l` multiplies the ratio of the mean counts of genes :math:`j` and :math:`j'` by
        :math:`e^{W_{jl} - W_{j'l}}`.

        Returns
        -------
        Data frame of shape ``(g, d)``: genes, and dimensions ``"Z_0"``, ``"Z_1"``, ...

        Raises
        ------
        ValueError
            If the decoder is not linear.
        """
        self._check_if_trained(warn=False)
        decoder = self.module.decoder
        if not isinstance(decoder, LinearDecoder):
            msg = "Loadings are those of a linear decoder, and this one has hidden layers. Choose `decoder='linear'`."
            raise ValueError(msg)
        columns = [f"Z_{i}" for i in range(decoder.n_latent)]
        return pd.DataFrame(decoder.loadings.cpu().numpy(), index=self.get_var_names(), columns=columns)

    @torch.inference_mode()
    def get_component_means(self) -> np.ndarray:
        """Means of the prior's components in the latent space, shape ``(k, d)``."""
        self._check_if_trained(warn=False)
        return self.module.given_prior().component_means.cpu().numpy()

    @torch.inference_mode()
    def get_aggregated_posterior(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        dof: float | None = 3.0,
    ) -> torch.distributions.Distribution:
        """Mixture of the posteriors of cells.

        With a flow, components have its posteriors' means and variances.

        Parameters
        ----------
        adata, indices
            Cells; those that the model was set up with if not given.
        batch_size
            Cells per minibatch.
        dof
            Degrees of freedom of Student components; ``None`` for Gaussian ones.
        """
        indices = np.arange(self._validate_anndata(adata).n_obs) if indices is None else np.asarray(indices)
        mean, variance = self.get_latent_representation(adata, indices, batch_size=batch_size, return_dist=True)
        loc = torch.as_tensor(mean, device=self.module.device)
        scale = torch.as_tensor(np.sqrt(variance), device=self.module.device)  # scvi-tools 1.4 takes the variance
        distributions = torch.distributions
        components = distributions.Normal(loc, scale) if dof is None else distributions.StudentT(dof, loc, scale)
        weights = distributions.Categorical(logits=torch.zeros(len(loc), device=loc.device))
        return distributions.MixtureSameFamily(weights, distributions.Independent(components, 1))

    @torch.inference_mode()
    def get_importance_weights(
        self,
        adata: AnnData | None,
        indices: Sequence[int],
        qz: torch.distributions.Distribution,
        px: torch.distributions.Distribution,
        zs: torch.Tensor,
        max_cells: int = 1_024,
        truncation: bool = False,
        n_mc_samples: int = 500,
        n_mc_samples_per_pass: int = 250,
        **data_loader_kwargs,
    ) -> np.ndarray:
        r"""Weights of representations by how well they explain the cells of a group, as in scVI but with our prior.

        .. math::
            w(z) \propto \sum_{a \in A} \frac{p(x_a \mid z)\, p(z)}{\hat p(x_a)\, \sum_{a'} q(z \mid x_{a'})}

        Parameters
        ----------
        adata, indices
            The cells of the group.
        qz
            Of scvi-tools' signature; posteriors of anchor cells are computed here.
        px
            Distribution of counts of each sample and cell, shape ``(s, n, g)``.
        zs
            Samples ``(s, n, d)``.
        max_cells
            Most anchor cells ``A``; a random subset of larger groups.
        truncation
            Whether to raise small weights to the mean (Ionides 2008), as scvi-tools does.
        n_mc_samples, n_mc_samples_per_pass
            Samples of the evidence of each anchor cell, and how many are decoded together.
        **data_loader_kwargs
            Of the data loader.

        Returns
        -------
        Weights that sum to one, shape ``(s * n,)``.

        Raises
        ------
        NotImplementedError
            If the likelihood is not one of counts.
        """
        module, indices = self.module, np.asarray(indices)
        if module.gene_likelihood in VALUE_LIKELIHOODS:
            msg = f"Importance weights are for counts, and `gene_likelihood` is {module.gene_likelihood!r}. Leave out `weights`."
            raise NotImplementedError(msg)
        anchors = indices
        if len(indices) > max_cells:
            anchors = np.sort(np.random.default_rng(settings.seed).choice(indices, max_cells, replace=False))
        z = zs.reshape(-1, zs.shape[-1]).to(module.device)  # (m, d)
        scale = px.scale.reshape(len(z), -1).to(module.device)  # (m, g)
        loader = self._make_data_loader(adata=adata, indices=anchors, batch_size=1, **data_loader_kwargs)
        log_ratio, log_q = [], []
        for tensors in track(loader, description="Importance weights", total=len(anchors)):
            tensors = {key: value.to(module.device) for key, value in tensors.items()}
            q_of_anchor = module.inference(**module._get_inference_input(tensors, full_forward_pass=True))
            log_q.append(q_of_anchor[MODULE_KEYS.QZ_KEY].log_prob(z.unsqueeze(1)).sum(-1))  # (m, 1)
            evidence = module.marginal_ll(tensors, n_mc_samples, n_mc_samples_per_pass=n_mc_samples_per_pass)
            x = tensors[REGISTRY_KEYS.X_KEY]  # (1, g)
            px_of_anchor = _with_mean(px, scale * x.sum(-1), len(z), module.device)
            log_ratio.append(px_of_anchor.log_prob(x).sum(-1, keepdim=True) - evidence.to(module.device))
        log_prior = module.given_prior().log_prob(z)
        log_weights = torch.logsumexp(torch.cat(log_ratio, 1), 1) + log_prior - torch.logsumexp(torch.cat(log_q, 1), 1)
        if truncation:
            log_weights = log_weights.clamp(min=float(torch.logsumexp(log_weights, 0) - np.log(len(log_weights))))
        return torch.softmax(log_weights.double(), 0).cpu().numpy()

    @torch.inference_mode()
    def get_likelihood_parameters(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        n_samples: int = 1,
        give_mean: bool = False,
        batch_size: int | None = None,
        **kwargs,
    ) -> dict[str, np.ndarray]:
        """As in scvi-tools; families without a dispersion have no ``"dispersions"``.

        Parameters
        ----------
        adata, indices
            Cells; those that the model was set up with if not given.
        n_samples
            Number of representations drawn for each cell.
        give_mean
            Whether to average over them.
        batch_size
            Cells per minibatch.
        **kwargs
            As in scvi-tools.

        Returns
        -------
        ``"mean"`` (before zeros are inflated), and ``"dropout"`` (share of structural zeros), ``"dispersions"`` and, of a
        normal, ``"stddev"`` where the family has them; shapes ``(n, g)``, or ``(n_samples, n, g)``.
        """
        if self.module.gene_likelihood not in _WITHOUT_DISPERSION:
            return super().get_likelihood_parameters(adata, indices, n_samples, give_mean, batch_size, **kwargs)
        loader = kwargs.pop("dataloader", None)
        if loader is None:
            adata = self._validate_anndata(adata)
            loader = self._make_data_loader(adata=adata, indices=indices, batch_size=batch_size, **kwargs)
        attributes = {"zip": {"mean": "rate", "dropout": "zi_probs"}, "normal": {"mean": "loc", "stddev": "scale"}}
        attributes = attributes.get(self.module.gene_likelihood, {"mean": "mean"})
        parts = {name: [] for name in attributes}
        for tensors in loader:
            _, outputs = self.module.forward(tensors, inference_kwargs={"n_samples": n_samples}, compute_loss=False)
            px = outputs[MODULE_KEYS.PX_KEY]
            for name, attribute in attributes.items():
                parts[name].append(getattr(px, attribute).cpu().numpy())
        joined = {name: np.concatenate(values, axis=-2) for name, values in parts.items()}
        return {name: v.mean(0) for name, v in joined.items()} if give_mean and n_samples > 1 else joined

    def get_feature_correlation_matrix(self, *args, **kwargs) -> pd.DataFrame:
        """As in scvi-tools; not for families without a dispersion.

        Raises
        ------
        NotImplementedError
            If the likelihood is not a negative binomial.
        """
        if self.module.gene_likelihood in _WITHOUT_DISPERSION:
            msg = (
                "Correlations are of draws from the gamma distribution behind negative binomial counts, and "
                f"`gene_likelihood` is {self.module.gene_likelihood!r}. Correlate `posterior_predictive_sample`, or "
                "`get_normalized_expression`, instead."
            )
            raise NotImplementedError(msg)
        return super().get_feature_correlation_matrix(*args, **kwargs)

    def minify_adata(self, *args, **kwargs) -> None:
        """As in scvi-tools; not for flows, which two moments do not describe.

        Raises
        ------
        NotImplementedError
            If the posterior is a flow.
        """
        if self.module.flow is not None:
            msg = (
                "Minified data keep the mean and variance of each posterior, which do not describe a flow's. Keep the "
                "counts, or use `posterior='normal'`."
            )
            raise NotImplementedError(msg)
        super().minify_adata(*args, **kwargs)

    @classmethod
    def load_query_data(cls, adata=None, reference_model=None, *args, **kwargs) -> FlexSCVI:
        """As in scvi-tools (scArches); the prior is frozen, and new batches have no weight in its pseudo-inputs.

        With the rest frozen as it is by default, the encoder learns from new categories only, so that training a query
        leaves representations of the reference and the prior bit for bit as they are. Unlike in scvi-tools, categorical
        covariates, and references of one batch, may gain categories without harm to those that are known.
        """
        model = super().load_query_data(adata, reference_model, *args, **kwargs)
        known = cls.load_registry(reference_model) if isinstance(reference_model, str) else reference_model.registry
        n_known = [len(get_state_registry(known, REGISTRY_KEYS.BATCH_KEY)["categorical_mapping"])]
        n_known.extend(get_state_registry(known, REGISTRY_KEYS.CAT_COVS_KEY).get("n_cats_per_key", []))
        model.module.extend_categories(n_known)
        model.module.prior.requires_grad_(False)
        model._is_query = True
        return model


def _without_sizes(options: dict) -> dict:
    """Options of a model of values that are not counts."""
    wanted = {"mean_activation": "identity", "log_variational": False, "normalize_input": False}
    for name, value in wanted.items():
        if options.get(name, value) != value:
            msg = f"`{name}={options[name]!r}` is for counts, but the data were set up with `is_count_data=False`. Leave it out."
            raise ValueError(msg)
    return wanted | options


class _MinifiableCountsField(CountsField):
    """Raw counts, which minified data may not have."""

    def register_field(self, adata: AnnData) -> dict:
        """As :class:`~scdgd.data.CountsField`; of minified data only that their counts are gone."""
        if get_adata_minify_type(adata) is None:
            return super().register_field(adata)
        return LayerField.register_field(self, adata) | {self.HOLDS_COUNTS_KEY: self.holds_counts}


def _check_enough_cells(n_components: int, n_cells: int, what: str) -> None:
    if n_components > n_cells:
        msg = f"{n_components} components need at least as many {what}, but there are {n_cells}. Lower `n_components`."
        raise ValueError(msg)


def _with_mean(px, mean: torch.Tensor, n: int, device: torch.device) -> torch.distributions.Distribution:
    """The count distributions of ``n`` samples, with means ``(n, g)``."""

    def flat(parameter: torch.Tensor) -> torch.Tensor:
        return parameter.expand(*px.scale.shape).reshape(n, -1).to(device)

    if isinstance(px, ZeroInflatedPoisson):
        return ZeroInflatedPoisson(rate=mean, zi_logits=flat(px.zi_logits), validate_args=False)
    if isinstance(px, ZeroInflatedNegativeBinomial):
        return ZeroInflatedNegativeBinomial(mu=mean, theta=flat(px.theta), zi_logits=flat(px.zi_logits))
    if isinstance(px, NegativeBinomial):
        return NegativeBinomial(mu=mean, theta=flat(px.theta))
    return Poisson(rate=mean)
