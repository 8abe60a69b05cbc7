"""Gaussian-mixture variational autoencoder."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from scvi.module.base import LossOutput, auto_move_data
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import one_hot

from scdgd._compat import MODULE_KEYS
from scdgd._constants import STORED_KEY
from scdgd._options import check_options
from scdgd._precision import without_autocast
from scdgd.data import SparseCounts, as_sparse_counts
from scdgd.posterior import MixturePosterior
from scdgd.posterior._partly_found import normals_of

from ._absent_genes import FOUND_MEAN_KEY, FOUND_SCALE_KEY, found_of
from ._flex_vae import FlexVAE
from ._latent_module import totals_of
from ._stored_posterior import ComponentEncoding, StoredComponent, StoredComponents

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scvi.nn import FCLayers
    from torch.distributions import Distribution

    from scdgd.prior import Prior

    from ._filled_counts import FilledCounts

ComponentRegularization = Literal["kl", "none", "cross_entropy"]

#: Entries of the outputs below: which components were enumerated, and the log of q(y | x) of each.
COMPONENTS_KEY, LOG_QY_KEY = "components", "log_qy"
KL_Y_KEY = "kl_divergence_y"


class GMVAE(FlexVAE):
    r"""Variational autoencoder with a discrete latent variable, the component of a cell (Grønbech et al. 2020).

    .. math::
        y \sim \mathrm{Cat}(w), \qquad z \mid y \sim \mathcal N(m_y, \operatorname{diag} \sigma_y^2), \qquad
        x \mid z \sim p(x \mid z)

    Two encoders give :math:`q(y \mid x)` and :math:`q(z \mid x, y)`, the second one from the counts and the one-hot
    component. The sum over components is exact, with one draw of :math:`z` for each:

    .. math::
        \mathrm{ELBO} = \sum_c q(c \mid x) \Big[\log p(x \mid z_c)
        - \beta\, \mathrm{KL}\big(q(z \mid x, c) \,\|\, p(z \mid c)\big)\Big]
        - \beta\, \mathrm{KL}\big(q(y \mid x) \,\|\, p(y)\big)

    All components of all cells of a minibatch pass through encoder and decoder together. Batch norm sees them as one
    batch of ``k b`` rows: normalised one component at a time, as the published code does, it would subtract in training
    what distinguishes components, the one-hot's share of the encoder's first layer and the mean of :math:`z` in the
    decoder's.

    With one component there is no :math:`y`, and :math:`z \sim \mathcal N(0, I)`: a plain variational autoencoder.

    Parameters
    ----------
    n_input, n_batch, n_labels, n_hidden, n_latent, n_layers, **kwargs
        As for :class:`FlexVAE`.
    n_components
        Number ``k`` of components.
    component_weights
        :math:`p(y)`: ``"learned"``, ``"uniform"`` (published), or given weights ``(k,)``.
    max_components_per_cell
        Sum over the ``m`` likeliest components of each cell only, with :math:`q(y \mid x)` normalised over them: a lower
        bound too, at the cost of ``m`` components; ``None`` for all. A training step holds several
        tensors of the decoded minibatch's shape ``(m, b, g)`` at once (1 GB each for ``m`` = 100, ``b`` = 128 and ``g`` =
        20,000); where that is too much, lower this or the batch size.
    analytic_kl
        Whether the divergence of :math:`z` is in closed form, or estimated at the draws (Grønbech et al. 2020).
    use_batch_norm
        As in scvi-tools; ``None`` for both networks with one component, else for the encoder only: a decoder's batch would
        hold the rows of all components, most of which a cell is not from.
    norm_per_component
        Whether batch norm sees one component at a time, as in the published code.
    batch_norm_decay, batch_norm_scale
        Decay of the moving averages of batch norm, ``None`` for scVI's 0.99, and whether it learns a scale; published: 0.999 and
        ``False``.

    Raises
    ------
    ValueError
        If an option is unknown or out of range.
    """

    def __init__(
        self,
        n_input: int,
        n_batch: int = 0,
        n_labels: int = 0,
        n_hidden: int | Sequence[int] = 128,
        n_latent: int = 10,
        n_layers: int = 1,
        *,
        n_components: int = 10,
        component_weights: Literal["uniform", "learned"] | Sequence[float] = "learned",
        max_components_per_cell: int | None = None,
        analytic_kl: bool = True,
        use_batch_norm: Literal["encoder", "decoder", "none", "both"] | None = None,
        norm_per_component: bool = False,
        batch_norm_decay: float | None = None,
        batch_norm_scale: bool = True,
        **kwargs: Any,
    ) -> None:
        most = n_components if max_components_per_cell is None else max_components_per_cell
        if most not in range(1, n_components + 1):
            msg = f"`max_components_per_cell` must be an integer from 1 to the {n_components} components, got {most!r}."
            raise ValueError(msg)
        check_options(use_batch_norm=(use_batch_norm, (None, "encoder", "decoder", "none", "both")))
        for name in ("posterior", "latent_distribution"):
            if kwargs.get(name, "normal") != "normal":
                msg = f"`{name}` must be 'normal' in a GMVAE, got {kwargs[name]!r}; `FlexVAE` has others."
                raise ValueError(msg)
        if n_components > 1 and kwargs.get("encoder") is not None:
            msg = "A GMVAE of several components encodes cells and components together, which `encoder` cannot: leave it out."
            raise ValueError(msg)
        batch_norm_decay = 0.99 if batch_norm_decay is None else batch_norm_decay
        if not 0 <= batch_norm_decay < 1:
            msg = f"`batch_norm_decay` must be at least 0 and less than 1, got {batch_norm_decay}."
            raise ValueError(msg)
        super().__init__(
            n_input,
            n_batch,
            n_labels,
            n_hidden,
            n_latent,
            n_layers,
            n_components=n_components,
            use_batch_norm=use_batch_norm or ("encoder" if n_components > 1 else "both"),
            **kwargs | self._prior_options(n_components),
        )
        self.n_components, self.max_components_per_cell = n_components, int(most)
        self.analytic_kl, self.norm_per_component = analytic_kl, norm_per_component
        given_log_weights = _given_log_weights(component_weights, n_components)
        self.stored_posterior = StoredComponents(int(most), n_latent) if n_components > 1 else StoredComponent()
        if n_components > 1:
            self._start_prior(
                given_log_weights, is_learned=given_log_weights is None and component_weights == "learned"
            )
            self._make_component_encoders()
        for norm in (module for module in self.modules() if isinstance(module, nn.BatchNorm1d)):
            norm.momentum = 1 - batch_norm_decay
            norm.weight.requires_grad_(batch_norm_scale)

    @staticmethod
    def _prior_options(n_components: int) -> dict:
        """:math:`p(z)` is what the model says it is."""
        if n_components == 1:
            return {"prior": "normal", "prior_kwargs": None}
        return {"prior": "gaussian_mixture", "prior_kwargs": {"covariance_type": "diag"}}

    def _start_prior(self, given_log_weights: torch.Tensor | None, *, is_learned: bool) -> None:
        """Means drawn from N(0, I), unit variances, and the weights that are asked for."""
        self.prior.updates = ("gradient",)  # parameters of the ELBO
        nn.init.normal_(self.prior.means)
        if given_log_weights is not None:
            with torch.no_grad():
                self.prior.weight_logits.copy_(given_log_weights)
        self.prior.weight_logits.requires_grad_(is_learned)

    def _make_component_encoders(self) -> None:
        r"""Add the encoder of :math:`q(y \mid x)`, and ``k`` inputs to that of :math:`q(z \mid x, y)`."""
        layers, n_hidden = self.z_encoder.encoder, self.z_encoder.mean_encoder.in_features
        self.y_encoder = copy.deepcopy(layers)
        for module in self.y_encoder.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        self.y_logits = nn.Linear(n_hidden, self.n_components)
        first = layers.fc_layers[0][0]
        layers.fc_layers[0][0] = nn.Linear(first.in_features + self.n_components, first.out_features)

    @property
    def encoder_layers(self) -> list[FCLayers]:
        """Hidden layers of the encoders of the posterior, which see covariates."""
        return [*super().encoder_layers, *([self.y_encoder] if self.n_components > 1 else [])]

    @auto_move_data
    def _regular_inference(
        self,
        x: SparseCounts | torch.Tensor,
        batch_index: torch.Tensor,
        cont_covs: torch.Tensor | None = None,
        cat_covs: torch.Tensor | None = None,
        n_samples: int = 1,
        enumerate_components: bool = False,
        genes_measured: torch.Tensor | None = None,
        found_mean: torch.Tensor | None = None,
        found_scale: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor | Distribution | None]:
        r"""Posteriors of cells, and draws ``(b, d)``, or ``(n_samples, b, d)`` of more than one.

        With `enumerate_components` the posteriors are :math:`q(z \mid x, c)`, batch shape ``(m, b, d)``, of ``m``
        components of each cell, and there is one draw of each, ``(m, b, d)``. Beside scvi-tools' entries there are then
        ``"components"`` and ``"log_qy"``, both ``(m, b)``: the components, and :math:`\log q(c \mid x)`.

        Raises
        ------
        ValueError
            If more than one draw of each component is asked for.
        """
        if enumerate_components and n_samples != 1:
            msg = f"Components are enumerated with one draw of each, got `n_samples={n_samples}`. Average over calls."
            raise ValueError(msg)
        inputs = self._encoder_inputs(x, batch_index, cont_covs, cat_covs, genes_measured)
        encoding = self._encoding(*inputs, found_of(found_mean, found_scale))
        shape = torch.Size() if n_samples == 1 else torch.Size((n_samples,))
        outputs = self._draw(encoding, shape, enumerate_components=enumerate_components)
        shape = outputs[MODULE_KEYS.Z_KEY].shape[:-2]
        if self.use_observed_lib_size:
            return outputs | self._observed_size(totals_of(x), genes_measured, shape)
        ql, _ = self._encode(self.l_encoder, *inputs)
        # one draw a cell, for all its components
        library = ql.rsample().expand(*shape, -1, -1) if enumerate_components else ql.rsample(shape)
        return outputs | {MODULE_KEYS.QL_KEY: ql, MODULE_KEYS.LIBRARY_KEY: library}

    def _encoding(
        self,
        counts: SparseCounts | FilledCounts | torch.Tensor,
        continuous: torch.Tensor | None,
        categories: tuple[torch.Tensor, ...],
        found: Normal | None,
    ) -> ComponentEncoding:
        """What the encoders say of components and representations, with posteriors that were `found` if there are such."""
        inputs = (counts, continuous, categories)
        log_qy, components = self._encode_components(*inputs, found)
        qz_given_y = self._encode_given(components, *inputs)
        return ComponentEncoding(log_qy, components, qz_given_y if found is None else normals_of(found, qz_given_y))

    def _draw(
        self, encoding: ComponentEncoding, shape: torch.Size, *, enumerate_components: bool = False
    ) -> dict[str, torch.Tensor | Distribution]:
        """Draws and the posterior, of each component if they are enumerated, see :meth:`_regular_inference`."""
        log_qy, components, qz = encoding
        if enumerate_components:
            of_components = {COMPONENTS_KEY: components, LOG_QY_KEY: log_qy}
            return {MODULE_KEYS.Z_KEY: qz.rsample(), MODULE_KEYS.QZ_KEY: qz, **of_components}
        if self.n_components == 1:
            qz = Normal(qz.loc[0], qz.scale[0], validate_args=False)
            return {MODULE_KEYS.Z_KEY: qz.rsample(shape), MODULE_KEYS.QZ_KEY: qz}
        qz = MixturePosterior(log_qy, qz)
        return {MODULE_KEYS.Z_KEY: qz.sample(shape), MODULE_KEYS.QZ_KEY: qz}

    def _encoder_inputs(
        self,
        x: SparseCounts | torch.Tensor,
        batch_index: torch.Tensor,
        cont_covs: torch.Tensor | None = None,
        cat_covs: torch.Tensor | None = None,
        genes_measured: torch.Tensor | None = None,
    ) -> tuple[SparseCounts | FilledCounts | torch.Tensor, torch.Tensor | None, tuple[torch.Tensor, ...]]:
        """As in :class:`FlexVAE`, with components of sparse counts.

        The product with the genes' weights is then the same for all components, and no row of counts is repeated.
        """
        x = as_sparse_counts(x) if self.n_components > 1 else x
        return super()._encoder_inputs(x, batch_index, cont_covs, cat_covs, genes_measured)

    def _encode_components(
        self,
        counts: SparseCounts | FilledCounts | torch.Tensor,
        continuous: torch.Tensor | None,
        categories: tuple[torch.Tensor, ...],
        found: Normal | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        r"""Log of :math:`q(c \mid x)` and components ``c``, both ``(m, b)``.

        Of cells whose :math:`q(z)` was found, it is the best there is in the ELBO, with :math:`q(z \mid x, c) = q(z)`,

        .. math::
            q(c \mid x) \propto p(c)\, e^{-\mathrm{KL}(q(z) \,\|\, p(z \mid c))}
        """
        if self.n_components == 1:
            log_qy = self.prior.means.new_zeros(1, len(counts))
            return log_qy, torch.zeros_like(log_qy, dtype=torch.int64)
        logits = self.y_logits(self._encoder_hidden(self.y_encoder, counts, continuous, categories)).T  # (k, b)
        if found is not None:
            every = torch.arange(self.n_components, device=logits.device).unsqueeze(1)
            best = self._log_py().unsqueeze(1) - kl_divergence(found, self._given(every)).sum(-1)  # (k, b)
            logits = torch.where(best.isnan(), logits, best)
        components = torch.arange(self.n_components, device=logits.device).unsqueeze(1).expand_as(logits)
        if self.max_components_per_cell < self.n_components:
            logits, components = logits.topk(self.max_components_per_cell, dim=0)
        return torch.log_softmax(logits, dim=0), components

    def _encode_given(
        self,
        components: torch.Tensor,
        counts: SparseCounts | FilledCounts | torch.Tensor,
        continuous: torch.Tensor | None,
        categories: tuple[torch.Tensor, ...],
    ) -> Normal:
        r""":math:`q(z \mid x, c)`, batch shape ``(m, b, d)``, of components ``(m, b)``, whose one-hots are inputs."""
        if self.norm_per_component and len(components) > 1:
            parts = [self._encode_given(some, counts, continuous, categories) for some in components.split(1)]
            loc, scale = torch.cat([q.loc for q in parts]), torch.cat([q.scale for q in parts])
            return Normal(loc, scale, validate_args=False)
        m = len(components)
        if self.n_components > 1:
            y = one_hot(components.flatten(), self.n_components).to(self.prior.means.dtype)  # (m b, k)
            continuous = y if continuous is None else torch.cat([continuous.repeat(m, 1), y], dim=-1)
            categories = tuple(codes.repeat(m, 1) for codes in categories)
        qz, _ = self._encode(self.z_encoder, counts, continuous, categories)
        return Normal(qz.loc.unflatten(0, (m, -1)), qz.scale.unflatten(0, (m, -1)), validate_args=False)

    def _decode(
        self, z: torch.Tensor, batch_index: torch.Tensor, cont_covs: torch.Tensor | None, cat_covs: torch.Tensor | None
    ) -> torch.Tensor:
        """As in :class:`FlexVAE`, all rows of ``(m, b, d)`` as one batch unless `norm_per_component`."""
        if z.ndim == 2 or self.norm_per_component:
            return super()._decode(z, batch_index, cont_covs, cat_covs)
        m = len(z)
        covariates = [None if c is None else c.repeat(m, 1) for c in (batch_index, cont_covs, cat_covs)]
        return super()._decode(z.flatten(0, 1), *covariates).unflatten(0, (m, -1))

    def forward(
        self,
        tensors: dict[str, torch.Tensor],
        *args: Any,
        inference_kwargs: dict | None = None,
        compute_loss: bool = True,
        **kwargs: Any,
    ) -> tuple:
        """As in scvi-tools; where a loss is computed, components are enumerated."""
        if compute_loss:
            inference_kwargs = {"enumerate_components": True, **(inference_kwargs or {})}
        return super().forward(tensors, *args, inference_kwargs=inference_kwargs, compute_loss=compute_loss, **kwargs)

    @without_autocast
    def loss(
        self,
        tensors: dict[str, torch.Tensor],
        inference_outputs: dict[str, torch.Tensor | Distribution | None],
        generative_outputs: dict[str, Distribution | None],
        kl_weight: torch.Tensor | float = 1.0,
        component_regularization: ComponentRegularization = "kl",
        free_nats: float = 0.0,
        information_weight: float = 0.0,
        reference_components: torch.Tensor | None = None,
        reference_weight: torch.Tensor | float = 0.0,
    ) -> LossOutput:
        r"""Negative ELBO, and what may be added to it in training.

        .. math::
            L = -\sum_c q_c \log p(x \mid z_c) + \beta \sum_c q_c \mathrm{KL}_z^c
                + \beta \max\big(\mathrm{KL}_y,\, f\, H[p(y)]\big) - \lambda\, I(x; y) - \rho \log q(c^\ast \mid x)

        averaged over the minibatch; the maximum is that of averages.

        Parameters
        ----------
        tensors, inference_outputs, generative_outputs, kl_weight
            As in scvi-tools.
        component_regularization
            ``"kl"``; ``"none"`` leaves out the divergence of ``y``; ``"cross_entropy"`` has
            :math:`-\log q(c^\ast \mid x)` in its place (both are ablations of Adjileye & Si Salah 2023).
        free_nats
            Share :math:`f` of the entropy of :math:`p(y)` below which the divergence of ``y`` has no gradient.
        information_weight
            :math:`\lambda`, which rewards what components tell of cells,
            :math:`I(x; y) = H[\bar q] - \overline{H[q]}` in a minibatch.
        reference_components
            Components :math:`c^\ast`, shape ``(b,)``.
        reference_weight
            :math:`\rho`.
        """
        log_qy, components = inference_outputs[LOG_QY_KEY], inference_outputs[COMPONENTS_KEY]
        qy, log_py = log_qy.exp(), self._log_py()
        reconstruction_loss = -(qy * self.log_likelihood(generative_outputs[MODULE_KEYS.PX_KEY], tensors)).sum(0)
        kl_z = (qy * self._kl_z(inference_outputs, components)).sum(0)
        kl_y = (qy * (log_qy - log_py[components])).sum(0)
        kl_library = torch.zeros_like(kl_z)
        if not self.use_observed_lib_size:
            ql, pl = inference_outputs[MODULE_KEYS.QL_KEY], generative_outputs[MODULE_KEYS.PL_KEY]
            kl_library = kl_divergence(ql, pl).sum(-1)
        loss = (reconstruction_loss + kl_weight * kl_z + kl_library).mean()
        if component_regularization == "kl":
            loss = loss + kl_weight * kl_y.mean().clamp(min=-free_nats * (log_py.exp() * log_py).sum())
        elif component_regularization == "cross_entropy":
            reference_weight = reference_weight + kl_weight
        if information_weight > 0:
            loss = loss - information_weight * self._information(log_qy, components)
        if reference_components is not None:
            log_q_reference = torch.where(components == reference_components, log_qy, 0.0).sum(0)
            loss = loss - reference_weight * log_q_reference.mean()
        extra = {"kl_z": kl_z.mean(), "kl_y": kl_y.mean()} if self.n_components > 1 else {}  # curves of the history
        if self.extra_payload_autotune:
            z = (qy.unsqueeze(-1) * inference_outputs[MODULE_KEYS.QZ_KEY].loc).sum(0)
            extra |= {"z": z, "batch": tensors[REGISTRY_KEYS.BATCH_KEY], "labels": tensors[REGISTRY_KEYS.LABELS_KEY]}
        return LossOutput(
            loss=loss,
            reconstruction_loss=reconstruction_loss,
            kl_local={MODULE_KEYS.KL_L_KEY: kl_library, MODULE_KEYS.KL_Z_KEY: kl_z, KL_Y_KEY: kl_y},
            extra_metrics=extra,
        )

    def _log_py(self) -> torch.Tensor:
        r""":math:`\log p(y)`, shape ``(k,)``, finite where a weight underflows."""
        if self.n_components == 1:
            return self.prior.weights.log()
        return torch.log_softmax(self.prior.weight_logits, dim=0)

    def _kl_z(self, inference_outputs: dict, components: torch.Tensor) -> torch.Tensor:
        r""":math:`\mathrm{KL}(q(z \mid x, c) \,\|\, p(z \mid c))`, or its estimate at one draw, shape ``(m, b)``."""
        qz, z = inference_outputs[MODULE_KEYS.QZ_KEY], inference_outputs[MODULE_KEYS.Z_KEY]
        pz = self._given(components)
        divergence = kl_divergence(qz, pz) if self.analytic_kl else qz.log_prob(z) - pz.log_prob(z)
        return divergence.sum(-1)

    def _given(self, components: torch.Tensor) -> Normal:
        r""":math:`p(z \mid c)` of components ``(...)``, batch shape ``(..., d)``."""
        precisions = self.prior.precisions.diagonal(dim1=-2, dim2=-1)  # (k, d)
        return Normal(self.prior.component_means[components], precisions[components].rsqrt(), validate_args=False)

    def _information(self, log_qy: torch.Tensor, components: torch.Tensor) -> torch.Tensor:
        r"""Mutual information :math:`H[\bar q] - \overline{H[q]}` of component and cell in a minibatch, in nats."""
        qy = log_qy.exp()
        mean = qy.new_zeros(self.n_components).index_add(0, components.flatten(), qy.flatten()) / qy.shape[1]
        # not entr(): its slope at a probability that underflows is infinite
        tiny = torch.finfo(mean.dtype).tiny
        return (qy * log_qy).sum(0).mean() - (mean * mean.clamp(min=tiny).log()).sum()

    @auto_move_data
    def classify(self, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        r""":math:`q(y \mid x)` of a minibatch, shape ``(b, k)``."""
        inputs = self._get_inference_input(tensors)
        found = found_of(inputs.pop(FOUND_MEAN_KEY, None), inputs.pop(FOUND_SCALE_KEY, None))
        if MODULE_KEYS.QZM_KEY in inputs:
            kept = (MODULE_KEYS.QZM_KEY, MODULE_KEYS.QZV_KEY, STORED_KEY)
            log_qy, components, _ = self.stored_posterior.read(*map(inputs.get, kept))
        else:
            log_qy, components = self._encode_components(*self._encoder_inputs(**inputs), found)
        qy = log_qy.T.exp()  # (b, m)
        return qy.new_zeros(len(qy), self.n_components).scatter(1, components.T, qy)

    def _log_importance_weights(self, prior: Prior, tensors: dict[str, torch.Tensor], n_samples: int) -> torch.Tensor:
        """Log of joint density over posterior density at `n_samples` draws, components summed out of both."""
        inputs = self._get_inference_input(tensors, full_forward_pass=True)
        inference_outputs = self.inference(**inputs, n_samples=n_samples)
        inputs = self._get_generative_input(tensors, inference_outputs)
        generative_outputs = self.generative(**inputs, for_loss=True)
        z, qz = inference_outputs[MODULE_KEYS.Z_KEY], inference_outputs[MODULE_KEYS.QZ_KEY]
        log_likelihood = self.log_likelihood(generative_outputs[MODULE_KEYS.PX_KEY], tensors)
        log_weight = log_likelihood + prior.log_prob(z) - qz.log_prob(z).sum(-1)
        if not self.use_observed_lib_size:
            library = inference_outputs[MODULE_KEYS.LIBRARY_KEY]
            pl, ql = generative_outputs[MODULE_KEYS.PL_KEY], inference_outputs[MODULE_KEYS.QL_KEY]
            log_weight = log_weight + (pl.log_prob(library) - ql.log_prob(library)).sum(-1)
        return log_weight


def _given_log_weights(weights: str | Sequence[float], n_components: int) -> torch.Tensor | None:
    """Logs of given weights up to a constant, shape ``(k,)``; ``None`` for weights that have a name."""
    if isinstance(weights, str) and weights in ("uniform", "learned"):
        return None
    try:
        given = np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError):
        given = np.empty(0)
    if given.shape != (n_components,) or not ((given > 0) & np.isfinite(given)).all():
        msg = (
            f"`component_weights` must be 'uniform', 'learned' or {n_components} positive numbers, one for each "
            f"component, got {weights!r}."
        )
        raise ValueError(msg)
    return torch.as_tensor(np.log(given), dtype=torch.float32)
