"""The deep generative decoder."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch
from scvi import REGISTRY_KEYS
from scvi.module.base import BaseModuleClass, EmbeddingModuleMixin, LossOutput, auto_move_data
from torch import nn
from torch.distributions import Normal

from scdgd._compat import MODULE_KEYS
from scdgd._constants import LOG_SIZE_KEY, MEASURED_KEY
from scdgd._precision import without_autocast
from scdgd.data import as_sparse_counts
from scdgd.likelihood import GeneLikelihood, Link, name_of
from scdgd.posterior import Point

from ._checkpoint_format import CheckpointFormatMixin
from ._decoder import Activation, Decoder
from ._joint_observation import JointObservation, Modality
from ._latent_size import LatentSize
from ._network_decoder import NetworkDecoder
from ._observation import Observation, covariates_of
from ._query_encoder import QueryEncoder
from ._representation_table import RepresentationTable
from ._size_factor import SIZES, SizeFactor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch.distributions import Distribution

    from scdgd.data import SparseCounts
    from scdgd.likelihood import CountLikelihood, Likelihood, ValueLikelihood
    from scdgd.likelihood._link import OutputActivation
    from scdgd.posterior import RowPosterior
    from scdgd.prior import Prior

    from ._family_parameters import FamilyParameters
    from ._joint_level import JointLevel
    from ._level_embedding import LevelEmbedding
    from ._size_factor import Size

HyperpriorWeight = Literal["once", "per_cell"]

#: Draws ``(s, b, d)`` of posteriors, given module, minibatch, rows of the table ``(b, w)`` and the number ``s``.
PosteriorSampler = Callable[["DGDModule", dict, torch.Tensor, int], torch.Tensor]

#: Name of the observation of genes.
GENES = "genes"
#: Attribute of the module, and beginning of names in its state.
QUERY_ENCODER = "query_encoder"
#: Key of inference outputs: the rows of the table that autograd differentiates, before noise is added.
REPRESENTATION_KEY = "representation"
#: Key of minibatches: codes of classes that count wherever the minibatch is used.
CLASSES_KEY = "classes"


class DGDModule(EmbeddingModuleMixin, CheckpointFormatMixin, BaseModuleClass):
    r"""Deep generative decoder for counts (Schuster & Krogh 2023).

    .. math::
        z_i \sim p(z \mid \phi), \qquad \mu_{ij} = s_i\, a(f_\vartheta(z_i))_j, \qquad
        x_{ij} \sim \mathrm{NB}(\mu_{ij}, \theta_j)

    There is no encoder: representations :math:`z_i` are free, one row of a table for each cell, and maximise with
    decoder :math:`\vartheta` and prior parameters :math:`\phi`

    .. math::
        \sum_i \Big[ \mathbb E_{q_i} \log p(x_i \mid z)
        + \beta\, \big(\mathbb E_{q_i} \log p(z \mid \phi) + \mathbb H[q_i]\big) \Big] + \sum_t \kappa_t \log p_t(\phi)

    where the row of a cell says what :math:`q_i` is. With :class:`~scdgd.posterior.Point` this is the published joint
    density (their eq. 3), with :class:`~scdgd.posterior.Noisy` and :class:`~scdgd.posterior.Gaussian` the evidence lower
    bound, of the former up to a constant.

    Parameters
    ----------
    n_genes, n_cells
        Number of genes, and of training cells (rows of the table).
    prior
        Prior of representations.
    n_batch, n_cats_per_cov, n_continuous
        Numbers of batches, of categories of each covariate, and of continuous covariates.
    batch_representation
        ``"one-hot"``: levels of batch and categorical covariates are columns of hidden layers. ``"embedding"``: they have
        vectors, too, with a Gaussian prior which is counted once, see :class:`LevelEmbedding`.
    batch_embedding_dim
        Rank of the vectors of batches, see :class:`LowRankLevelEmbedding`; ``None`` for a vector of each.
    n_hidden, n_layers, activation, use_layer_norm, output_activation
        Of the :class:`Decoder`.
    gene_likelihood
        ``"nb"``, ``"zinb"``, ``"poisson"``, ``"zip"`` or ``"constrained_poisson"``; the last needs totals as size
        factors, and a softmax. Zeros are inflated by a share :math:`\pi_j` of each gene, so information about
        representations reaches the counts through :math:`\mu` alone. ``"bernoulli"`` and ``"normal"``, for values that
        are not counts, need no size factors and no output activation. Or a class of your own, a
        :class:`~scdgd.likelihood.CountLikelihood` or :class:`~scdgd.likelihood.ValueLikelihood`.
    dispersion
        ``"gene"`` or ``"gene-batch"``.
    dispersion_floor
        0 for :math:`\theta = e^\rho`; 1 for :math:`\theta = 1 + e^\rho`, the released code's form.
    size_factor
        How :math:`s_i` is found, see :func:`log_size_factor`; of ``"latent"`` ones, see :class:`LatentSize`.
    posterior
        What a row of the table says of :math:`q_i`; a point estimate if not given.
    hyperprior_weight
        :math:`\kappa` of each term of the prior's :meth:`~scdgd.prior.Prior.hyper_log_prob`, by name: ``"once"`` per
        data set (eq. 3 of the paper) or ``"per_cell"`` (its eq. 4, and the released code).
    modalities
        Several ways in which cells are measured, by name, in place of genes alone: blocks of columns, in that order, each with a
        decoder of its own, see :class:`JointObservation`.
    decoder
        A network in the place of hidden layers, see :class:`NetworkDecoder`: a module, which is copied, or a class of modules.
        `n_hidden`, `n_layers`, `activation` and `use_layer_norm` are then not used.
    """

    keeps_rows = True
    #: How the attached data are minified, which scvi-tools says here; a minibatch says by itself what it has.
    minified_data_type: str | None = None
    #: What draws posteriors that are not known without the counts.
    posterior_sampler: PosteriorSampler | None = None
    #: Whether single samples are draws, too, not the representation itself.
    samples_posterior = False

    def __init__(
        self,
        n_genes: int,
        n_cells: int,
        prior: Prior,
        *,
        n_batch: int = 1,
        n_cats_per_cov: Sequence[int] = (),
        n_continuous: int = 0,
        batch_representation: Literal["one-hot", "embedding"] = "one-hot",
        batch_embedding_dim: int | None = None,
        n_hidden: int = 64,
        n_layers: int = 1,
        activation: Activation = "silu",
        use_layer_norm: bool = False,
        output_activation: OutputActivation = "softmax",
        gene_likelihood: GeneLikelihood = "nb",
        dispersion: Literal["gene", "gene-batch"] = "gene",
        dispersion_floor: Literal[0, 1] = 0,
        size_factor: SizeFactor = "observed",
        posterior: RowPosterior | None = None,
        hyperprior_weight: Mapping[str, HyperpriorWeight] | None = None,
        modalities: Mapping[str, Modality] | None = None,
        decoder: nn.Module | type[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        genes = Modality(n_genes, gene_likelihood, size_factor, output_activation)
        keeps_usual_sizes, modalities = modalities is not None, modalities or {GENES: genes}
        self.gene_likelihood, self.dispersion = "+".join(name_of(m.likelihood) for m in modalities.values()), dispersion
        self.posterior = Point() if posterior is None else posterior
        self.hyperprior_weight = dict(hyperprior_weight or {})
        self.n_batch, self.prior = n_batch, prior
        self.representations = RepresentationTable(n_cells, self.posterior.width(prior.n_latent))
        self.posterior.start(self.representations.table)
        self.query_encoder: QueryEncoder | None = None
        make = functools.partial(
            Decoder, n_hidden=n_hidden, n_layers=n_layers, activation=activation, use_layer_norm=use_layer_norm
        )
        make = make if decoder is None else functools.partial(NetworkDecoder, decoder)
        options = {
            "n_cats_per_cov": [n_batch, *n_cats_per_cov],
            "n_continuous": n_continuous,
            "embeds_levels": batch_representation == "embedding",
            "batch_rank": batch_embedding_dim,
        }
        n_batch_own, observations = n_batch if dispersion == "gene-batch" else None, {}
        for name, each in modalities.items():
            observations[name] = Observation(
                make(prior.n_latent, each.n_features, output_activation=each.output_activation, **options),
                each.likelihood,
                each.size_factor,
                n_batch=n_batch_own,
                dispersion_floor=dispersion_floor,
                latent_size=LatentSize(n_batch) if SIZES[each.size_factor].is_latent else None,
            )
        self.observations = nn.ModuleDict(observations)
        self.register_buffer("usual_log_size", torch.zeros(len(observations)) if keeps_usual_sizes else None)
        self.register_buffer("modality_weights", torch.ones(len(observations)) if len(observations) > 1 else None)
        if self.levels and self.levels[0].codes is not None:  # here scvi-tools looks for vectors of batches
            self.add_embedding(REGISTRY_KEYS.BATCH_KEY, self.levels[0].codes)

    @property
    def former_names(self) -> dict[str, str | None]:
        """Format 2 had no observations, one parameter of genes for all families, and logits in the decoder."""
        of_genes = [name for name, p in self.likelihood.own_parameters.items() if not p.is_decoded]
        parameters = f"observations.{GENES}.family_parameters."
        return {
            "px_r": f"{parameters}{of_genes[0]}" if of_genes else None,
            "decoder.zi_logits": f"{parameters}zi_logits",
            "decoder.": f"observations.{GENES}.decoder.",
        }

    def _load_from_state_dict(
        self, state_dict: dict[str, torch.Tensor], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """The encoder of new cells, if there is one, is no part of how a module is made: the state says what it is."""
        begin = f"{prefix}{QUERY_ENCODER}."
        state = {key.removeprefix(begin): value for key, value in state_dict.items() if key.startswith(begin)}
        self.query_encoder = QueryEncoder.of_state(state).to(self.device) if state else None
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    @property
    def observed(self) -> Observation | JointObservation:
        """All that is measured of a cell: its one observation, or several side by side."""
        if len(self.observations) > 1:
            return JointObservation(self.observations, self.usual_log_size, self.modality_weights)
        return next(iter(self.observations.values()))

    @property
    def genes(self) -> Observation:
        """The counts of genes, of a module without other modalities."""
        return self.observations[GENES]

    @property
    def decoder(self) -> Decoder:
        """Decoder of the genes; of several modalities, that of the first."""
        return self.observed.decoder

    @property
    def levels(self) -> list[LevelEmbedding] | list[JointLevel]:
        """Vectors of the levels of each variable, if levels have vectors."""
        return self.observed.levels

    def batch_vectors(self) -> torch.Tensor:
        """What stands for each batch, ``(L, g)``, or ``(L, r)`` if offsets are of low rank; KeyError if scvi-tools removed it."""
        if self.levels[0].codes is not None:
            self.get_embedding(REGISTRY_KEYS.BATCH_KEY)
        return self.levels[0].representations()

    @property
    def likelihood(self) -> type[Likelihood]:
        """Family of the values."""
        return self.observed.family

    @property
    def family_parameters(self) -> FamilyParameters:
        """What the family has beside the linear predictor."""
        return self.observed.family_parameters

    @property
    def size(self) -> Size:
        """What decoded profiles are multiplied with."""
        return self.observed.size

    @property
    def link(self) -> Link:
        """From outputs of the decoder to the linear predictor of the likelihood; of several modalities, that of the first."""
        return self.observed.link

    @property
    def log_theta(self) -> torch.Tensor:
        r"""Log inverse dispersion :math:`\log\theta`, shape ``(g,)`` or ``(n_batch, g)``; infinite for Poisson counts."""
        return self.observed.log_theta

    @property
    def latent_size(self) -> LatentSize | None:
        """The law of sizes that are parameters of cells; ``None`` where they are known."""
        return getattr(self.observed, "latent_size", None)

    @property
    def use_observed_lib_size(self) -> bool:
        """Whether sizes of cells are known, which scvi-tools asks."""
        return self.latent_size is None

    @property
    def library_log_means(self) -> torch.Tensor | None:
        """Means of latent log sizes in each batch, ``(1, L)``, under scvi-tools' name; ``None`` where they are known."""
        return None if self.latent_size is None else self.latent_size.moments()[:1]

    @property
    def library_log_vars(self) -> torch.Tensor | None:
        """Their variances, ``(1, L)``."""
        return None if self.latent_size is None else self.latent_size.moments()[1:]

    def log_size(self, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        r"""Log size factor :math:`\log s` of the cells of a minibatch, shape ``(b, 1)``, or of each modality ``(b, M)``.

        A latent one is that at the representation of a cell; of a cell that has none yet, where it starts.
        """
        log_size = self.observed.log_size(tensors)
        if self.latent_size is None or LOG_SIZE_KEY in tensors:
            return log_size
        tensors = {key: value.to(self.device) for key, value in tensors.items()}
        log_size, rows = log_size.to(self.device), tensors[REGISTRY_KEYS.INDICES_KEY].ravel()
        has_row = rows >= 0
        if not self.training and not has_row.any():
            return log_size
        z, _ = self.posterior.moments(self.representations(rows.clamp(min=0)))
        return torch.where(has_row.unsqueeze(1), self.fitted_log_size(tensors, z, log_size), log_size)

    @torch.no_grad()
    def fitted_log_size(self, tensors: dict[str, torch.Tensor], z: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        """Latent log sizes ``(b, 1)`` of the cells of a minibatch at representations ``(b, d)``, without a gradient."""
        law = self.genes.law_of_sizes(z, **self.covariates(tensors))
        counts = as_sparse_counts(self.observed.values(tensors))
        return self.latent_size.fitted(law, counts, start, tensors[REGISTRY_KEYS.BATCH_KEY])

    def has_sizes(self, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        """Which modalities the cells of a minibatch have, shape ``(b, 1)`` or ``(b, M)``, bool."""
        return self.observed.has_sizes(tensors)

    def _get_inference_input(self, tensors: dict[str, torch.Tensor], **kwargs: Any) -> dict:
        return {
            MODULE_KEYS.X_KEY: tensors[REGISTRY_KEYS.X_KEY],
            "rows": tensors[REGISTRY_KEYS.INDICES_KEY].ravel(),
            MODULE_KEYS.SIZE_FACTOR_KEY: tensors.get(REGISTRY_KEYS.SIZE_FACTOR_KEY),
            "tensors": tensors,
            MEASURED_KEY: tensors.get(MEASURED_KEY),
            "log_size": self.log_size(tensors) if LOG_SIZE_KEY in tensors else None,
        }

    def _get_generative_input(
        self, tensors: dict[str, torch.Tensor], inference_outputs: dict[str, torch.Tensor], **kwargs: Any
    ) -> dict:
        return {
            MODULE_KEYS.Z_KEY: inference_outputs[MODULE_KEYS.Z_KEY],
            MODULE_KEYS.LIBRARY_KEY: inference_outputs[MODULE_KEYS.LIBRARY_KEY],
            **self.covariates(tensors),
        }

    covariates = staticmethod(covariates_of)

    @property
    def has_size(self) -> bool:
        """Whether decoded profiles are multiplied with the size of a cell."""
        return self.link.takes_size

    def given_prior(self) -> Prior:
        """The prior."""
        return self.prior

    def classes_of(self, tensors: dict[str, torch.Tensor]) -> torch.Tensor | None:
        """Codes of the classes of the cells of a minibatch, ``(b,)``, as the prior takes them; ``None`` where labels play no part.

        They do where components belong to classes and the module trains, or the minibatch says so itself, see
        :meth:`with_classes`. Cells that are held out or new are placed without.
        """
        if self.prior.classes is None:
            return None
        codes = tensors.get(CLASSES_KEY, tensors.get(REGISTRY_KEYS.LABELS_KEY) if self.training else None)
        return None if codes is None else codes.ravel().to(self.device)

    def with_classes(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A minibatch whose labels count, if the prior has classes, in evaluation too."""
        has_labels = self.prior.classes is not None and REGISTRY_KEYS.LABELS_KEY in tensors
        return {**tensors, CLASSES_KEY: tensors[REGISTRY_KEYS.LABELS_KEY]} if has_labels else tensors

    def transformed(self, z: torch.Tensor) -> torch.Tensor:
        """Identity."""
        return z

    def decode(
        self, z: torch.Tensor, log_size: torch.Tensor, tensors: dict[str, torch.Tensor]
    ) -> CountLikelihood | ValueLikelihood:
        """See :class:`LatentModule`."""
        return self.generative(z, log_size, **self.covariates(tensors))[MODULE_KEYS.PX_KEY]

    def draw_posterior(self, tensors: dict[str, torch.Tensor], n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """See :class:`LatentModule`."""
        rows = self.representations(tensors[REGISTRY_KEYS.INDICES_KEY].ravel())
        return self.draws(tensors, rows, n), self.log_size(tensors)

    def variational_posterior(self, tensors: dict[str, torch.Tensor]) -> Normal:
        """See :class:`LatentModule`: Gaussians of rows that have a variance, or that minified data keep."""
        qz = self.known_posterior(tensors, self.representations(tensors[REGISTRY_KEYS.INDICES_KEY].ravel()))
        if qz is None:
            msg = (
                "Training found points, not posteriors, so there is no bound to take apart. Train an `SCVAD`, or score the model by "
                "`get_marginal_ll` or `scdgd.metrics.held_out_log_likelihood`."
            )
            raise NotImplementedError(msg)
        return qz

    def known_posterior(self, tensors: dict[str, torch.Tensor], rows: torch.Tensor) -> Normal | None:
        """Normal with independent dimensions ``(b, d)`` that minified data keep or rows have learned; ``None`` if neither."""
        if REGISTRY_KEYS.LATENT_QZM_KEY in tensors:
            mean, var = tensors[REGISTRY_KEYS.LATENT_QZM_KEY], tensors[REGISTRY_KEYS.LATENT_QZV_KEY]
            return Normal(mean, var.sqrt())
        return self.posterior.distribution(rows) if self.posterior.is_learned else None

    def draws(self, tensors: dict[str, torch.Tensor], rows: torch.Tensor, n: int) -> torch.Tensor:
        """Draws ``(n, b, d)`` of the posteriors of the cells of a minibatch, whose rows ``(b, w)`` are given."""
        if REGISTRY_KEYS.LATENT_QZM_KEY in tensors:
            return self.known_posterior(tensors, rows).sample((n,))
        if self.posterior_sampler is None:
            msg = "The posterior has no sampler: use the methods of the model, or set `module.posterior_sampler`."
            raise RuntimeError(msg)
        return self.posterior_sampler(self, tensors, rows, n)  # (n, b, d)

    @auto_move_data
    def inference(
        self,
        x: SparseCounts,
        rows: torch.Tensor,
        size_factor: torch.Tensor | None = None,
        tensors: dict | None = None,
        n_samples: int = 1,
        genes_measured: torch.Tensor | None = None,
        log_size: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor | Distribution | None]:
        """Look up representations: no inference happens here.

        Parameters
        ----------
        x
            Counts, shape ``(b, g)``, read for the size factor only.
        rows
            Rows of the table, shape ``(b,)``.
        size_factor
            Registered size factors, shape ``(b, 1)``, if any.
        tensors
            The whole minibatch, for draws of the posterior.
        n_samples
            Draws ``s`` of each cell's posterior; for one, the representation itself unless
            ``samples_posterior`` is set.
        genes_measured
            Genes that were measured, shape ``(b, g)``, read for the size factor; ``None`` for all.
        log_size
            Log size factors ``(b, 1)`` that are known, in place of those of counts.

        Returns
        -------
        ``z`` and ``library`` (log size factor), shapes ``(b, d)`` and ``(b, 1)``, with a leading ``s`` if
        ``n_samples > 1``; ``representation``, the leaf of autograd in training; and ``qz``, a normal with independent
        dimensions: what minified data keep, or what training knows of rows, see :meth:`RowPosterior.distribution`.
        """
        representation = self.representations(rows)
        if self.training:
            representation.requires_grad_()
        if self.training:
            z = self.posterior.draw(representation)
        elif n_samples == 1 and not self.samples_posterior:
            z, _ = self.posterior.moments(representation)
        else:
            z = self.draws(tensors, representation, n_samples)
            z = z.squeeze(0) if n_samples == 1 else z
        library = self.observed.log_size_of(x, size_factor, genes_measured) if log_size is None else log_size
        if self.latent_size is not None and log_size is None:
            library = self.fitted_log_size(tensors, z, library) if self.training else self.log_size(tensors)
        if n_samples > 1:
            library = library.expand(n_samples, *library.shape)
        return {
            MODULE_KEYS.Z_KEY: z,
            MODULE_KEYS.LIBRARY_KEY: library,
            MODULE_KEYS.QZ_KEY: self.known_posterior(tensors or {}, representation)
            or self.posterior.distribution(representation),
            MODULE_KEYS.QL_KEY: None,
            REPRESENTATION_KEY: representation,
        }

    @auto_move_data
    def generative(
        self,
        z: torch.Tensor,
        library: torch.Tensor,
        batch_index: torch.Tensor,
        cat_covs: torch.Tensor | None = None,
        cont_covs: torch.Tensor | None = None,
        transform_batch: int | None = None,
        genes_measured: torch.Tensor | None = None,
    ) -> dict[str, CountLikelihood | ValueLikelihood]:
        """Decode representations ``(..., d)`` to the likelihood of counts ``(..., g)``, under ``px``.

        Log probabilities are those of the genes that were measured, ``(b, g)``; means and draws are of all genes.
        """
        if transform_batch is not None:
            batch_index = torch.full_like(batch_index, transform_batch)
        px = self.observed.likelihood(z, library, batch_index, cat_covs, cont_covs, genes_measured)
        return {MODULE_KEYS.PX_KEY: px}

    @without_autocast
    def loss(
        self,
        tensors: dict[str, torch.Tensor],
        inference_outputs: dict[str, torch.Tensor],
        generative_outputs: dict[str, CountLikelihood | ValueLikelihood],
        kl_weight: float = 1.0,
        n_obs: int | None = None,
    ) -> LossOutput:
        r"""Negative lower bound *per cell*, a mean over the minibatch.

        .. math::
            \frac1b \sum_{i \in \mathcal B} \big[-\log p(x_i \mid z_i) + \beta\, \mathrm{KL}(q_i \,\|\, p)\big]
            - \sum_t \frac{\kappa_t}{n} \log p_t(\phi), \qquad
            \mathrm{KL}(q_i \,\|\, p) = -\mathbb H[q_i] - \mathbb E_{q_i} \log p(z \mid \phi)

        with one draw :math:`z_i \sim q_i`, where :math:`\kappa_t` is 1 for ``"once"`` and ``n`` for ``"per_cell"``. Nothing
        in it depends on the size of the minibatch. The entropy of points and of noise of one scale is a constant and left
        out: their "KL" is a negative log density, and ``elbo_train`` the negative log joint density per cell.

        Where components belong to classes, the density of a cell that trains is that of representation and label, see
        :meth:`classes_of`. Where sizes are latent, the negative log density of a cell's is a further term, ``kl_divergence_l``.

        Parameters
        ----------
        tensors, inference_outputs, generative_outputs
            As scvi-tools passes them.
        kl_weight
            Weight :math:`\beta` of the divergence.
        n_obs
            Number of training cells ``n``; the size of the table if not given.
        """
        n = len(self.representations) if n_obs is None else n_obs
        log_prob = generative_outputs[MODULE_KEYS.PX_KEY].log_prob(self.observed.values(tensors))  # (b,)
        z = inference_outputs[MODULE_KEYS.Z_KEY]
        mean, var = self.posterior.moments(inference_outputs[REPRESENTATION_KEY])
        expected = self.prior.expected_log_prob(z, mean, var, self.classes_of(tensors))
        kl_divergence = -self.posterior.entropy(var) - expected  # (b,)
        neg_log_hyperprior = -self.weighted_hyper_log_prob(n)
        kl_local, of_size = {MODULE_KEYS.KL_Z_KEY: kl_divergence}, 0.0
        if self.latent_size is not None:
            log_size = inference_outputs[MODULE_KEYS.LIBRARY_KEY]
            of_size = -self.latent_size.log_prob(log_size, tensors[REGISTRY_KEYS.BATCH_KEY])
            kl_local[MODULE_KEYS.KL_L_KEY] = of_size
        return LossOutput(
            loss=(-log_prob + kl_weight * kl_divergence + of_size).mean() + neg_log_hyperprior / n,
            reconstruction_loss=-log_prob,
            kl_local=kl_local,
            kl_global={"neg_log_prior_params": neg_log_hyperprior},
        )

    def weighted_hyper_log_prob(self, n_cells: int) -> torch.Tensor:
        r"""Hyper-prior of the whole data set, :math:`\sum_t \kappa_t \log p_t(\phi)`, a scalar in nats.

        The prior of the vectors of levels is one of its terms, counted once.
        """
        total = self.representations.table.new_zeros(())
        for levels in (levels for observation in self.observations.values() for levels in observation.levels):
            total = total + levels.log_prob()
        for term, log_prob in self.prior.hyper_log_prob().items():
            total = total + (n_cells if self.hyperprior_weight.get(term, "once") == "per_cell" else 1) * log_prob
        return total

    @torch.inference_mode()
    def sample(
        self, tensors: dict[str, torch.Tensor], n_samples: int = 1, generative_kwargs: dict | None = None
    ) -> torch.Tensor:
        """Counts drawn at the representations of a minibatch, shape ``(b, g)``, or ``(b, g, s)`` if ``s > 1``."""
        _, outputs = self.forward(
            tensors, inference_kwargs={"n_samples": n_samples}, generative_kwargs=generative_kwargs, compute_loss=False
        )
        samples = outputs[MODULE_KEYS.PX_KEY].sample()
        return (samples if n_samples == 1 else samples.permute(1, 2, 0)).cpu()
