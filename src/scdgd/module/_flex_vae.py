"""scVI with a choice of prior and posterior."""

from __future__ import annotations

import contextlib
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from scvi import REGISTRY_KEYS
from scvi.module import VAE
from scvi.module.base import LossOutput, auto_move_data
from torch.distributions import Normal as Gaussian
from torch.distributions import kl_divergence

from scdgd._compat import MODULE_KEYS
from scdgd._constants import NORMALIZED_TOTAL
from scdgd._options import check_options, check_positive_integers, constructor_options
from scdgd._precision import single, without_autocast
from scdgd.data import SparseCounts
from scdgd.likelihood import Categorised, GeneLikelihood, Likelihood, family_of, name_of
from scdgd.likelihood._link import MeanActivation
from scdgd.posterior import FlowPosterior, FullGaussian, InverseAutoregressiveFlow, PartlyFound
from scdgd.posterior._partly_found import normals_of
from scdgd.prior import Prior, PriorName, PseudoInputs, StandardNormal
from scdgd.prior._registry import PriorRule, class_of, make_prior
from scdgd.prior._update import WITH_ENCODER, update_of

from ._absent_genes import FOUND_MEAN_KEY, FOUND_SCALE_KEY, AbsentGenesMixin, found_of
from ._checkpoint_format import CheckpointFormatMixin
from ._filled_counts import FilledCounts
from ._flex_outputs import FlexOutputsMixin
from ._flex_parts import (
    DecoderName,
    PosteriorName,
    linear_decoder_like,
    network_outputs_like,
    replace_encoder_layers,
    replace_hidden_layers,
)
from ._latent_module import EncodedLatentMixin, totals_of
from ._sparse_first_layer import forward_sparse
from ._stored_posterior import Encoding, StoredEncoding, StoredMoments

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from scvi.nn import Encoder, FCLayers
    from torch.distributions import Distribution

    from scdgd.prior import EncoderInput

_OF_FLOW = constructor_options(InverseAutoregressiveFlow, "n_latent")


class FlexVAE(CheckpointFormatMixin, AbsentGenesMixin, EncodedLatentMixin, FlexOutputsMixin, VAE):
    r"""scVI's variational autoencoder with any prior of :mod:`scdgd.prior` and a Gaussian or flow posterior.

    .. math::
        \mathrm{ELBO} = \mathbb E_{q(z \mid x)} \big[\log p(x \mid z)\big]
        - \beta\, \mathbb E_{q(z \mid x)} \big[\log q(z \mid x) - \log p(z)\big]

    The first half of the Kullback-Leibler divergence is the entropy of a Gaussian, in closed form, or the log density
    of a flow's own sample; the second half is evaluated at the sample that is decoded, or in closed form where the prior
    knows it (:meth:`~scdgd.prior.Prior.expected_log_prob`): with a standard normal prior and a Gaussian posterior this
    is scVI.

    Priors with pseudo-inputs encode them with *this* encoder in evaluation mode, once per evaluation. Parameters of
    priors that are fitted by empirical Bayes (``prior.updates``) are held in the ELBO, and no gradient reaches
    the encoder through their pseudo-inputs: its weights are variational parameters only (Stirn & Knowles 2024).

    Counts may be dense or :class:`~scdgd.data.SparseCounts`; of the latter no dense copy is made: the first layer of the
    encoder is a sparse product, and likelihoods of :mod:`scdgd.likelihood` see non-zeros only. Where genes were not measured
    in some cells, see :class:`~scdgd.module._absent_genes.AbsentGenesMixin`.

    Parameters
    ----------
    n_input, n_batch, n_labels
        Number of genes, batches and labels.
    prior
        A name in :data:`scdgd.prior.PRIORS`; a class, a :class:`~scdgd.prior.Prior` that takes `n_components` and
        `n_latent`; or a prior itself, which is copied.
    n_components
        Number ``k`` of components or pseudo-inputs; not used by ``"normal"``.
    prior_kwargs
        Further arguments of the prior's class.
    posterior
        ``"normal"``: diagonal Gaussian; ``"full"``: Gaussian with correlations, :class:`~scdgd.posterior.FullGaussian`
        (Stirn & Knowles 2024, images); ``"iaf"``: a diagonal one, followed by an inverse autoregressive flow.
    posterior_kwargs
        Further arguments of :class:`~scdgd.posterior.InverseAutoregressiveFlow`.
    decoder
        ``"nonlinear"``: that of scVI; ``"linear"``: a :class:`LinearDecoder`, without hidden layers. Or a network of your own, a
        module (which is copied) or a class of modules, see :class:`NetworkOutputs`.
    encoder
        A network of your own from values and covariates, as the encoder reads them, to features of any number, on which means and
        variances are linear: a module, which is copied, or a class of modules, called with the number of inputs. ``None``: scVI's.
    n_hidden
        Width of all hidden layers, or the widths of the encoder's hidden layers from the data to the latent space,
        which the decoder mirrors (`n_layers` is then not used).
    activation
        ``"relu"``, ``"tanh"``, ``"selu"``, ``"elu"`` or ``"silu"``.
    norm_after_activation
        Whether batch norm follows the activation (Dony et al. 2020), not the linear map (scVI).
    decoder_dropout_rate
        Dropout of the decoder's hidden layers; scVI has none.
    batch_norm_decay
        Decay of the moving averages of the encoder's batch norm. ``None``: scVI's 0.99, but 0.9 where components start at clusters
        (:attr:`~scdgd.prior.Prior.starts_at_clusters`). Pseudo-inputs are encoded by the moving averages, cells in training by
        their minibatch: with averages of 100 steps, components lag behind the cells that are drawn to them, and both move on
        without an end, the scale of representations with them.
    normalize_input
        Whether the encoder sees counts scaled to a total of 10,000 (then log1p), not raw ones.
    mean_activation
        ``"softmax"``: mean counts are shares times the library size (scVI); ``"exp"``: :math:`\mu = s e^o` with
        :math:`s = \max(N / 10^4, 10^{-3})` (Dony et al. 2020); ``"rate"``: :math:`\mu = e^o`, whatever the library size,
        with :math:`o` and the log inverse dispersion cut to :math:`\pm 10` (Grønbech et al. 2020); ``"identity"``:
        :math:`o` is the mean of a ``"normal"``, or the logits of a ``"bernoulli"``. ``None``: identity for
        ``"bernoulli"``, else softmax.
    gene_likelihood
        ``"zinb"``, ``"nb"``, ``"poisson"``, ``"normal"``, as in scVI; ``"zip"``: zero-inflated Poisson;
        ``"constrained_poisson"``: Poisson whose means add up to the total count of the cell (Grønbech et al. 2020); or
        ``"bernoulli"``: values zero and one. Or a class of your own, a :class:`~scdgd.likelihood.CountLikelihood` or
        :class:`~scdgd.likelihood.ValueLikelihood`.
    k_max
        Counts from 0 to ``k_max - 1`` have decoded probabilities of their own for each gene, and `gene_likelihood` is that
        of what others exceed `k_max` by (Grønbech et al. 2020), see :class:`~scdgd.likelihood.Categorised`. 0 for none.
    n_prior_samples
        Samples of ``z`` that the prior's half of the divergence is averaged over; 1 is the decoded sample itself.
    **kwargs
        As for :class:`scvi.module.VAE`.

    Raises
    ------
    ValueError
        If an option is unknown or parts do not go together.
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
        prior: PriorName | type[Prior] | Prior = "normal",
        n_components: int = 100,
        prior_kwargs: dict | None = None,
        posterior: PosteriorName = "normal",
        posterior_kwargs: dict | None = None,
        decoder: DecoderName | torch.nn.Module | type[torch.nn.Module] = "nonlinear",
        encoder: torch.nn.Module | type[torch.nn.Module] | None = None,
        activation: str = "relu",
        norm_after_activation: bool = False,
        decoder_dropout_rate: float = 0.0,
        batch_norm_decay: float | None = None,
        normalize_input: bool = False,
        mean_activation: MeanActivation | None = None,
        k_max: int = 0,
        n_prior_samples: int = 1,
        n_continuous_cov: int = 0,
        n_cats_per_cov: Sequence[int] | None = None,
        gene_likelihood: GeneLikelihood = "zinb",
        latent_distribution: Literal["normal", "ln"] = "normal",
        **kwargs: Any,
    ) -> None:
        family, gene_likelihood = _family_and_name(gene_likelihood, k_max)
        _check_names(posterior, decoder, mean_activation := mean_activation or _usual_link(family))
        check_positive_integers(n_latent=n_latent, n_prior_samples=n_prior_samples)
        prior, hidden_sizes = PriorRule(has_encoder=True)("prior", prior), _hidden_sizes(n_hidden, n_layers)
        _check_distribution(latent_distribution, prior, posterior)
        _check_layers(decoder, {"decoder_dropout_rate": decoder_dropout_rate, **kwargs})
        super().__init__(
            n_input,
            n_batch,
            n_labels,
            n_hidden=hidden_sizes[-1],
            n_latent=n_latent,
            n_layers=len(hidden_sizes),
            n_continuous_cov=n_continuous_cov,
            n_cats_per_cov=n_cats_per_cov,
            gene_likelihood=gene_likelihood,
            latent_distribution=latent_distribution,
            **kwargs,
        )
        self.normalize_input, self.n_prior_samples, self.likelihood = normalize_input, n_prior_samples, family
        self.has_linear_decoder, self.n_continuous_cov = decoder == "linear", n_continuous_cov
        self.link = self._checked_link(mean_activation, has_linear_decoder=self.has_linear_decoder)
        if len(set(hidden_sizes)) > 1 or activation != "relu" or norm_after_activation or decoder_dropout_rate > 0:
            self._replace_layers(hidden_sizes, decoder_dropout_rate, activation, norm_after_activation)
        self._replace_encoder(encoder)
        self._make_outputs(decoder)
        self._make_posterior(posterior, posterior_kwargs or {})
        encoded = (n_continuous_cov, (n_batch, *(n_cats_per_cov or ()))) if self.encode_covariates else (0, ())
        pseudo_inputs = partial(PseudoInputs, n_components, n_input, *encoded, nonnegative=self._is_nonnegative)
        self._set_prior(make_prior(prior, n_components, n_latent, prior_kwargs, pseudo_inputs), batch_norm_decay)

    def _set_prior(self, prior: Prior, decay: float | None) -> None:
        """Take over a prior, and a decay of the encoder's batch norm, ``None`` for the usual one of the prior."""
        self.prior = prior
        if decay is None and self.has_own("encoder"):
            return  # as the user made it
        decay = (0.9 if self.prior.starts_at_clusters else 0.99) if decay is None else decay
        for norm in (part for part in self.z_encoder.modules() if isinstance(part, torch.nn.BatchNorm1d)):
            norm.momentum = round(1 - decay, 12)  # 0.01 to the last digit, as scVI has it

    @property
    def _is_nonnegative(self) -> bool:
        """Whether the encoder sees no negative values."""
        return self.log_variational or not self.likelihood.is_real

    def _replace_layers(self, sizes: list[int], dropout_rate: float, activation: str, norm_after: bool) -> None:
        """Hidden layers that scvi-tools does not build."""
        replace_hidden_layers(
            self, sizes, dropout_rate, {"activation": activation, "norm_after_activation": norm_after}
        )

    def has_own(self, part: Literal["encoder", "decoder"]) -> bool:
        """Whether encoder or decoder is a network of the user's."""
        layers = self.z_encoder.encoder if part == "encoder" else self.decoder.px_decoder
        return not hasattr(layers, "fc_layers")

    def _replace_encoder(self, network: torch.nn.Module | type[torch.nn.Module] | None) -> None:
        """A network in the place of the hidden layers of the encoder, if there is one."""
        if network is not None:
            replace_encoder_layers(self, network)

    def _make_posterior(self, posterior: PosteriorName, options: dict) -> None:
        """What stands behind mean and variance of the encoder."""
        n_hidden, of_flow = self.z_encoder.mean_encoder.in_features, _OF_FLOW("posterior_kwargs", options)
        has_couplings = posterior == "full" and self.n_latent > 1
        self.couplings = _couplings(n_hidden, self.n_latent) if has_couplings else None
        of_flow = {"n_context": n_hidden, **of_flow}
        self.flow = InverseAutoregressiveFlow(self.n_latent, **of_flow) if posterior == "iaf" else None
        beyond = "a flow's" if posterior == "iaf" else "its correlations"
        is_normal = self.flow is None and self.couplings is None
        self.stored_posterior = StoredMoments() if is_normal else StoredEncoding(self.n_latent, n_hidden, beyond)

    def _make_outputs(self, decoder: DecoderName | torch.nn.Module | type[torch.nn.Module]) -> None:
        """What stands behind the hidden layers of the decoder, or in their place."""
        has_zero_inflation = "zi_logits" in self.likelihood.parameter_names
        if self.has_linear_decoder:
            self.decoder = linear_decoder_like(self, has_zero_inflation=has_zero_inflation)
        elif not isinstance(decoder, str):
            self.decoder = network_outputs_like(self, decoder, has_zero_inflation=has_zero_inflation)
        self._make_parameters()
        self.register_buffer("mean_profile", None, persistent=False)  # stands with the attributes of the model
        if not self.link.is_of_counts:
            self.register_buffer("placed", torch.tensor(False))

    def _encoder_counts(
        self, x: SparseCounts | torch.Tensor, measured: torch.Tensor | None = None
    ) -> SparseCounts | FilledCounts | torch.Tensor:
        """Counts in the units of the encoder, before log1p: raw or normalised; filled where genes were not `measured`."""
        if measured is not None:
            filled = self._filled(x, measured)
            return filled.scaled(NORMALIZED_TOTAL / filled.totals().clamp(min=1)) if self.normalize_input else filled
        if not self.normalize_input:
            return x
        if isinstance(x, SparseCounts):
            scale = NORMALIZED_TOTAL / x.totals().clamp(min=1)
            return SparseCounts(x.indptr, x.indices, x.values * scale[x.cells], x.n_genes)
        return x * (NORMALIZED_TOTAL / x.sum(1, keepdim=True).clamp(min=1))

    def _encoder_covariates(
        self, batch: torch.Tensor, categories: Sequence[torch.Tensor], continuous: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, tuple[torch.Tensor, ...]]:
        """Continuous and categorical covariates as the encoder takes them, from codes ``(b, 1)`` or weights ``(b, n)``."""
        if not self.encode_covariates:
            return None, ()
        if self.batch_representation != "embedding":
            return continuous, (batch, *categories)
        if not batch.is_floating_point():
            embedded = self.compute_embedding(REGISTRY_KEYS.BATCH_KEY, batch)
        else:  # a mixture of batches
            embedded = batch @ self.get_embedding(REGISTRY_KEYS.BATCH_KEY).weight
        return embedded if continuous is None else torch.cat([continuous, embedded], dim=-1), tuple(categories)

    def _encode(
        self,
        encoder: Encoder,
        counts: SparseCounts | FilledCounts | torch.Tensor,
        continuous: torch.Tensor | None,
        categories: tuple[torch.Tensor, ...],
    ) -> tuple[Gaussian, torch.Tensor]:
        """Gaussian that an encoder gives, and its last hidden layer ``(b, h)``; `counts` in the units of the encoder."""
        hidden = self._encoder_hidden(encoder.encoder, counts, continuous, categories)
        variance = encoder.var_activation(encoder.var_encoder(hidden)) + encoder.var_eps
        return Gaussian(single(encoder.mean_encoder(hidden)), single(variance).sqrt(), validate_args=False), hidden

    def _encoder_hidden(
        self,
        layers: FCLayers,
        counts: SparseCounts | FilledCounts | torch.Tensor,
        continuous: torch.Tensor | None,
        categories: tuple[torch.Tensor, ...],
    ) -> torch.Tensor:
        """Last hidden layer of an encoder, ``(b, h)``, or ``(m b, h)`` for ``m`` rows of covariates a cell."""
        if not isinstance(counts, torch.Tensor) and not hasattr(layers, "fc_layers"):
            counts = counts.to_dense()
        if not isinstance(counts, torch.Tensor):
            return forward_sparse(layers, counts, *categories, continuous=continuous, log1p=self.log_variational)
        x = torch.log1p(counts) if self.log_variational else counts
        if continuous is None:
            return layers(x, *categories)
        return layers(torch.cat([x.repeat(len(continuous) // len(x), 1), continuous], dim=-1), *categories)

    @auto_move_data
    def _regular_inference(
        self,
        x: SparseCounts | torch.Tensor,
        batch_index: torch.Tensor,
        cont_covs: torch.Tensor | None = None,
        cat_covs: torch.Tensor | None = None,
        n_samples: int = 1,
        genes_measured: torch.Tensor | None = None,
        found_mean: torch.Tensor | None = None,
        found_scale: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor | Distribution | None]:
        """Posteriors of cells, and samples ``(b, d)``, or ``(n_samples, b, d)`` of more than one.

        Posteriors of cells that lack genes may have been found, see :class:`~scdgd.module._absent_genes.AbsentGenesMixin`.

        Beside scvi-tools' entries there is ``"log_qz"``, shape ``(b,)`` or ``(n_samples, b)``: the first half of the
        divergence, the negative entropy of a Gaussian or the log density of a flow's sample.
        """
        inputs = self._encoder_inputs(x, batch_index, cont_covs, cat_covs, genes_measured)
        shape = torch.Size() if n_samples == 1 else torch.Size((n_samples,))
        outputs = self._draw(self._encoding(*inputs, found_of(found_mean, found_scale)), shape)
        if self.use_observed_lib_size:
            return outputs | self._observed_size(totals_of(x), genes_measured, shape)
        ql, _ = self._encode(self.l_encoder, *inputs)
        return outputs | {MODULE_KEYS.QL_KEY: ql, MODULE_KEYS.LIBRARY_KEY: ql.rsample(shape)}

    def _encoder_inputs(
        self,
        x: SparseCounts | torch.Tensor,
        batch_index: torch.Tensor,
        cont_covs: torch.Tensor | None = None,
        cat_covs: torch.Tensor | None = None,
        genes_measured: torch.Tensor | None = None,
    ) -> tuple[SparseCounts | FilledCounts | torch.Tensor, torch.Tensor | None, tuple[torch.Tensor, ...]]:
        """Counts, continuous and categorical covariates as encoders take them."""
        codes = () if cat_covs is None else torch.split(cat_covs, 1, dim=1)
        continuous, categories = self._encoder_covariates(batch_index, codes, cont_covs)
        return self._encoder_counts(x, genes_measured), continuous, categories

    def _encoding(
        self,
        counts: SparseCounts | FilledCounts | torch.Tensor,
        continuous: torch.Tensor | None,
        categories: tuple[torch.Tensor, ...],
        found: Gaussian | None,
    ) -> Encoding:
        """What the encoder says of cells, with posteriors that were `found` if there are such."""
        return Encoding(*self._encode(self.z_encoder, counts, continuous, categories), found)

    def _observed_size(self, total: torch.Tensor, measured: torch.Tensor | None, shape: torch.Size) -> dict:
        """Entries of sizes that are observed, from totals ``(b,)`` of measured genes; zero log sizes where values are no counts."""
        log_total = (total.log() if self.link.is_of_counts else torch.zeros_like(total)).unsqueeze(1)
        library = self._of_all(log_total, measured).expand(*shape, -1, -1)
        return {MODULE_KEYS.QL_KEY: None, MODULE_KEYS.LIBRARY_KEY: library}

    def _draw(self, encoding: Encoding, shape: torch.Size) -> dict[str, torch.Tensor | Distribution]:
        """Draws, the posterior, and the first half of the divergence, see :meth:`_regular_inference`."""
        base, hidden, found = encoding
        if self.flow is None:
            qz = self._gaussian(base, hidden)
            if found is not None:
                qz = normals_of(found, base) if self.couplings is None else PartlyFound(found, qz)
            z, log_qz = self.z_encoder.z_transformation(qz.rsample(shape)), -qz.entropy().sum(-1)
            return {MODULE_KEYS.Z_KEY: z, MODULE_KEYS.QZ_KEY: qz, "log_qz": log_qz}
        z, log_qz = self.flow(base, hidden, shape)
        qz = FlowPosterior(self.flow, base, hidden)
        if found is not None:
            qz, z_found = PartlyFound(found, qz), found.rsample(shape)
            log_qz = torch.where(qz.is_encoded.squeeze(-1), log_qz, found.log_prob(z_found).sum(-1))
            z = torch.where(qz.is_encoded, z, z_found)
        return {MODULE_KEYS.Z_KEY: z, MODULE_KEYS.QZ_KEY: qz, "log_qz": log_qz}

    def _gaussian(self, base: Gaussian, hidden: torch.Tensor) -> Gaussian | FullGaussian:
        """The posterior of cells with a last hidden layer ``(b, h)``, of full rank if that is asked for."""
        return base if self.couplings is None else FullGaussian(base.loc, base.scale, single(self.couplings(hidden)))

    @auto_move_data
    @torch.no_grad()
    def _cached_inference(
        self,
        qzm: torch.Tensor,
        qzv: torch.Tensor,
        observed_lib_size: torch.Tensor,
        n_samples: int = 1,
        stored_posterior: torch.Tensor | None = None,
        genes_measured: torch.Tensor | None = None,
        **drawing: Any,
    ) -> dict[str, torch.Tensor | Distribution | None]:
        """As :meth:`_regular_inference`, of what minified data keep; nothing of it is learned."""
        shape = torch.Size() if n_samples == 1 else torch.Size((n_samples,))
        outputs = self._draw(self.stored_posterior.read(qzm, qzv, stored_posterior), shape, **drawing)
        return outputs | self._observed_size(
            observed_lib_size.squeeze(1), genes_measured, outputs[MODULE_KEYS.Z_KEY].shape[:-2]
        )

    @torch.inference_mode()
    @auto_move_data
    def rows_to_store(self, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        """What minified data keep of the posteriors of a minibatch beside their moments, shape ``(b, n_columns)``."""
        inputs = self._get_inference_input(tensors, full_forward_pass=True)
        found = found_of(inputs.pop(FOUND_MEAN_KEY, None), inputs.pop(FOUND_SCALE_KEY, None))
        return self.stored_posterior.rows(self._encoding(*self._encoder_inputs(**inputs), found))

    def expect_sizes(self, n_batch: int) -> None:
        """Infer sizes of cells, whose laws in each batch are those of a state that is still to be loaded."""
        self.use_observed_lib_size = False
        for name in ("library_log_means", "library_log_vars"):
            self.register_buffer(name, torch.zeros(1, n_batch))

    @property
    def encoder_layers(self) -> list[FCLayers]:
        """Hidden layers of the encoders of the posterior, which see covariates."""
        return [self.z_encoder.encoder]

    @property
    def has_flow(self) -> bool:
        """Whether draws of posteriors pass a flow."""
        return self.flow is not None

    @property
    def has_size(self) -> bool:
        """Whether decoded profiles are multiplied with the size of a cell."""
        return self.link.takes_size

    def given_prior(self) -> Prior:
        """The prior for the encoder as it is now; pseudo-inputs are encoded once, in evaluation mode."""
        return self.prior.encoded_by(self.encode_pseudo_inputs)

    def encode_pseudo_inputs(self, inputs: EncoderInput) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance ``(k, d)``, or covariance ``(k, d, d)``, of the Gaussian posteriors of pseudo-inputs.

        With a flow they are those of its base: the density of a mixture of flows would need the inverse of every
        component's flow at every sample.
        """
        continuous, categories = None, ()
        if self.encode_covariates:
            batch, *others = inputs.categories
            continuous, categories = self._encoder_covariates(batch, others, inputs.continuous)
        with _evaluation_mode(self.z_encoder):
            qz = self._gaussian(*self._encode(self.z_encoder, inputs.counts, continuous, categories))
        return qz.loc, self._spread(qz)

    def _spread(self, qz: Distribution) -> torch.Tensor:
        """Variances ``(b, d)`` of Gaussian posteriors, or covariances ``(b, d, d)`` where they have correlations."""
        return qz.variance if self.couplings is None else qz.covariance

    def forward(
        self,
        tensors: dict[str, torch.Tensor],
        *args: Any,
        generative_kwargs: dict | None = None,
        compute_loss: bool = True,
        **kwargs: Any,
    ) -> tuple:
        """As in scvi-tools; where a loss is computed, the likelihood is one of :mod:`scdgd.likelihood` if there is one.

        Where none is, a posterior that is not Gaussian is given as the Gaussian with its moments, of which scvi-tools'
        downstream methods can join minibatches.
        """
        generative_kwargs = {"for_loss": compute_loss, **(generative_kwargs or {})}
        outputs = super().forward(
            tensors, *args, generative_kwargs=generative_kwargs, compute_loss=compute_loss, **kwargs
        )
        qz = outputs[0][MODULE_KEYS.QZ_KEY]
        if not compute_loss and not isinstance(qz, Gaussian):
            outputs[0][MODULE_KEYS.QZ_KEY] = Gaussian(qz.loc, qz.scale, validate_args=False)
        return outputs

    @without_autocast
    def loss(
        self,
        tensors: dict[str, torch.Tensor],
        inference_outputs: dict[str, torch.Tensor | Distribution | None],
        generative_outputs: dict[str, Distribution | None],
        kl_weight: torch.Tensor | float = 1.0,
        encoder_learns_from_prior: bool = False,
        prior: Prior | None = None,
    ) -> LossOutput:
        """Negative ELBO.

        Parameters
        ----------
        tensors, inference_outputs, generative_outputs, kl_weight
            As in scvi-tools.
        encoder_learns_from_prior
            Whether gradients reach a prior that is fitted by empirical Bayes, and the encoder through its pseudo-inputs, as
            in the code of Stirn & Knowles 2024.
        prior
            A prior without an encoder in the place of the module's own, which is ``None``.
        """
        px, z = generative_outputs[MODULE_KEYS.PX_KEY], inference_outputs[MODULE_KEYS.Z_KEY]
        reconstruction_loss = -self.log_likelihood(px, tensors)
        if prior is None:
            learns = encoder_learns_from_prior or update_of(self.prior, WITH_ENCODER).by_gradient
            is_frozen = not any(p.requires_grad for p in self.prior.parameters())  # in a query
            with torch.set_grad_enabled(torch.is_grad_enabled() and learns and not is_frozen):
                prior = self.given_prior()
        kl_z = inference_outputs["log_qz"] - self._expected_log_prior(prior, inference_outputs, z)
        kl_library = torch.zeros_like(kl_z)
        if not self.use_observed_lib_size:
            ql, pl = inference_outputs[MODULE_KEYS.QL_KEY], generative_outputs[MODULE_KEYS.PL_KEY]
            kl_library = kl_divergence(ql, pl).sum(-1).expand_as(kl_z)
        extra = {}
        if self.extra_payload_autotune:
            extra = {"z": z, "batch": tensors[REGISTRY_KEYS.BATCH_KEY], "labels": tensors[REGISTRY_KEYS.LABELS_KEY]}
        return LossOutput(
            loss=(reconstruction_loss + kl_weight * kl_z + kl_library).mean(),
            reconstruction_loss=reconstruction_loss,
            kl_local={MODULE_KEYS.KL_L_KEY: kl_library, MODULE_KEYS.KL_Z_KEY: kl_z},
            extra_metrics=extra,
        )

    def _expected_log_prior(self, prior: Prior, inference_outputs: dict, z: torch.Tensor) -> torch.Tensor:
        r"""Estimate of :math:`\mathbb E_q \log p(z)`, shape ``(..., b)``."""
        qz = inference_outputs[MODULE_KEYS.QZ_KEY]
        samples = z
        if self.n_prior_samples > 1 and self.training:
            samples = qz.rsample(torch.Size((self.n_prior_samples,)))
        if self.flow is None:
            expected = prior.expected_log_prob(samples, qz.loc, self._spread(qz))
        else:
            expected = prior.log_prob(samples)
        is_averaged = samples is not z and expected.ndim > 1  # not so where it is known in closed form
        return expected.mean(0) if is_averaged else expected

    @torch.inference_mode()
    @auto_move_data
    def marginal_ll(
        self,
        tensors: dict[str, torch.Tensor],
        n_mc_samples: int,
        return_mean: bool = False,
        n_mc_samples_per_pass: int = 1,
    ) -> torch.Tensor | float:
        r"""Log evidence by importance sampling from the posterior, with this model's prior and its posterior's density.

        .. math::
            \log p(x) \approx \log \frac1S \sum_s \frac{p(x \mid z_s)\, p(z_s)}{q(z_s \mid x)}

        Parameters
        ----------
        tensors
            Minibatch of ``b`` cells.
        n_mc_samples
            Number of samples ``S``.
        return_mean
            Whether to return the mean over cells.
        n_mc_samples_per_pass
            Samples that are decoded together.

        Returns
        -------
        Log evidences in nats, shape ``(b,)``, or their mean.
        """
        prior = self.given_prior()
        log_weights = []
        for first in range(0, n_mc_samples, n_mc_samples_per_pass):
            n_samples = min(n_mc_samples_per_pass, n_mc_samples - first)
            log_weights.append(self._log_importance_weights(prior, tensors, n_samples).reshape(n_samples, -1))
        log_evidence = torch.logsumexp(torch.cat(log_weights).double(), 0) - torch.tensor(float(n_mc_samples)).log()
        return log_evidence.mean().item() if return_mean else log_evidence.float().cpu()

    def _log_importance_weights(self, prior: Prior, tensors: dict[str, torch.Tensor], n_samples: int) -> torch.Tensor:
        """Log of joint density over posterior density at `n_samples` draws."""
        inference_outputs, generative_outputs, losses = self.forward(
            tensors,
            inference_kwargs={"n_samples": n_samples},
            get_inference_input_kwargs={"full_forward_pass": True},
        )
        z, qz = inference_outputs[MODULE_KEYS.Z_KEY], inference_outputs[MODULE_KEYS.QZ_KEY]
        log_qz = inference_outputs["log_qz"] if self.flow is not None else qz.log_prob(z).sum(-1)
        log_weight = prior.log_prob(z) - log_qz - losses.dict_sum(losses.reconstruction_loss)
        if not self.use_observed_lib_size:
            library = inference_outputs[MODULE_KEYS.LIBRARY_KEY]
            pl, ql = generative_outputs[MODULE_KEYS.PL_KEY], inference_outputs[MODULE_KEYS.QL_KEY]
            log_weight = log_weight + (pl.log_prob(library) - ql.log_prob(library)).sum(-1)
        return log_weight


@contextlib.contextmanager
def _evaluation_mode(network: torch.nn.Module) -> Iterator[None]:
    """No dropout, moving statistics; then the mode that it was in."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)


def _couplings(n_hidden: int, n_latent: int) -> torch.nn.Linear:
    """From the last hidden layer to the couplings of dimensions, of which there are none at first."""
    layer = torch.nn.Linear(n_hidden, n_latent * (n_latent - 1) // 2)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    return layer


def _check_names(posterior: str, decoder: str | torch.nn.Module | type, mean_activation: str) -> None:
    """Raise ValueError for names of parts that do not exist."""
    check_options(
        posterior=(posterior, get_args(PosteriorName)),
        decoder=(decoder if isinstance(decoder, str) else "nonlinear", get_args(DecoderName)),
        mean_activation=(mean_activation, get_args(MeanActivation)),
    )


def _check_distribution(latent_distribution: str, prior: PriorName | type[Prior] | Prior, posterior: str) -> None:
    """Raise ValueError for a logistic normal with parts that know nothing of it."""
    if latent_distribution == "ln" and (class_of(prior) is not StandardNormal or posterior != "normal"):
        msg = "`latent_distribution='ln'` goes with `prior='normal'` and `posterior='normal'` only."
        raise ValueError(msg)


def _check_layers(decoder: DecoderName | torch.nn.Module | type, options: dict[str, object]) -> None:
    """Raise ValueError where a decoder without hidden layers of ours has options of them."""
    of_layers = [name for name in ("decoder_dropout_rate", "extra_decoder_kwargs") if options.get(name)]
    for name in of_layers if decoder != "nonlinear" else ():
        has_none = "`decoder='linear'` has none" if decoder == "linear" else "`decoder` is a network of your own"
        msg = f"`{name}` is for hidden layers, and {has_none}. Leave it out."
        raise ValueError(msg)


def _usual_link(family: type[Likelihood]) -> str:
    """The first link of a family that there is for models with an encoder."""
    return next((name for name in family.links if name in get_args(MeanActivation)), family.links[0])


def _family_and_name(gene_likelihood: GeneLikelihood, k_max: int) -> tuple[type[Likelihood], str]:
    """The likelihood, counts below `k_max` with probabilities of their own, and what it is called."""
    family, name = family_of(gene_likelihood), name_of(gene_likelihood)
    return (Categorised.of(family, k_max), f"{name}, k_max {k_max}") if k_max > 0 else (family, name)


def _hidden_sizes(n_hidden: int | Sequence[int], n_layers: int) -> list[int]:
    """Widths of the encoder's hidden layers."""
    if isinstance(n_hidden, Real):
        check_positive_integers(n_hidden=n_hidden, n_layers=n_layers)
        return [int(n_hidden)] * int(n_layers)
    if len(n_hidden) == 0:
        msg = "`n_hidden` and `n_layers` must name at least one hidden layer."
        raise ValueError(msg)
    for size in n_hidden:
        check_positive_integers(n_hidden=size)
    return list(n_hidden)
