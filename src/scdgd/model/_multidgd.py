"""MULTIDGD: one representation of cells that are measured in several ways."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from scvi import REGISTRY_KEYS
from scvi.utils import setup_anndata_dsp

from scdgd._absent_options import without
from scdgd._compat import MODULE_KEYS, get_adata_minify_type, get_state_registry
from scdgd._constants import MEASURED_KEY
from scdgd._options import Choice, Either, Flag, Integer, Names, Optional, Options, checked, checked_by
from scdgd.data import (
    MODALITIES,
    MODALITY_KEY,
    ModalityCountsField,
    joined_modalities,
    joined_proteins,
    last_joined,
    modalities_in,
)
from scdgd.inference import posterior_draws
from scdgd.likelihood import BackgroundMixture, family_of
from scdgd.module import Modality, usual_size_and_link
from scdgd.module._dgd import GENES

from ._arguments import BUILDING, SETUP
from ._cells import positions_of
from ._host_options import OF_ENCODERS, OF_ONE_MODALITY
from ._scdgd import SCDGD

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scvi.data.fields import BaseAnnDataField

    from scdgd.likelihood import GeneLikelihood, Likelihood
    from scdgd.module import Observation
    from scdgd.prior import Prior, PriorName

#: Likelihood of each modality.
_LIKELIHOODS: dict[str, GeneLikelihood] = {"rna": "nb", "atac": "poisson", "protein": "nb"}
#: Further likelihoods of proteins, by name.
_OF_PROTEINS: dict[str, type[Likelihood]] = {"nb_background": BackgroundMixture}
_RULE = Options(
    dict.fromkeys(MODALITIES, BUILDING["gene_likelihood"])
    | {"protein": Either(Choice(*_OF_PROTEINS), BUILDING["gene_likelihood"])},
    of="the modalities",
)
_MAX_NAMED = 5
#: Arguments that name features.
_LISTS = {"rna": "gene_list", "atac": "region_list", "protein": "protein_list"}
_FEATURES = Optional(Names("a list of features", may_be_empty=False))


class MULTIDGD(SCDGD):
    r"""Deep generative decoder for several modalities of the same cells, after multiDGD (Schuster et al. 2024).

    .. math::
        \log p(x_i, z_i) = \sum_m h_{im} \log p(x_{im} \mid f_m(z_i), s_{im}) + \log p(z_i \mid \phi)

    One representation explains whatever was measured: genes, accessibility of chromatin, proteins. Each modality has a decoder, a
    likelihood and a size of its own. A modality that a cell lacks (:math:`h_{im} = 0`: it has no count there) leaves its likelihood
    exactly; nothing is imputed, and what the model expects of it can be asked for. All else is :class:`SCDGD`, of which it is a bit
    for bit copy if there is one modality. Where multiDGD has a latent space of covariates, batches have vectors here
    (:class:`~scdgd.module.LevelEmbedding`).

    Parameters
    ----------
    adata
        MuData registered with :meth:`setup_mudata`, or AnnData registered with :meth:`setup_anndata`.
    registry, n_components, n_latent, n_hidden, n_layers, activation, dispersion
        As for :class:`SCDGD`; decoders of all modalities are alike.
    likelihoods
        Likelihood of each modality, by ``"rna"``, ``"atac"`` and ``"protein"``, as `gene_likelihood` of :class:`SCDGD`. Default
        ``{"rna": "nb", "atac": "poisson", "protein": "nb"}``: fragments are counted (Martens et al. 2023). ``"bernoulli"`` is for
        accessibility that was made zero or one. ``"nb_background"`` of proteins tells signal from background
        (:class:`~scdgd.likelihood.BackgroundMixture`); it is not the default, for counts held out by count splitting are
        as likely under either (`benchmarks/multimodal.py`).
    modality_weights
        Weights of the log likelihoods of modalities in the objective: ``"likelihood"``, all one; ``"information"``, such that all
        have the same information of representations (:class:`~scdgd.train.InformationBalance`); or numbers by name, one for those
        that are not named. In the sum over modalities, counts held out by count splitting are no likelier under ``"information"``
        (`benchmarks/multimodal.py`). With weights, what is called a likelihood or an ELBO of a cell is the weighted sum.
    dispersion_floor, batch_representation, prior, prior_kwargs, noise_scale, hyperprior_weight, new_cells
        As for :class:`SCDGD`.
    supervision, components_per_class
        As for :class:`SCDGD`.

    Raises
    ------
    ValueError
        If an option is unknown, or there are more components than cells.

    Examples
    --------
    >>> scdgd.model.MULTIDGD.setup_mudata(mdata, modalities={"rna": "rna", "atac": "atac"}, batch_key="batch")
    >>> model = scdgd.model.MULTIDGD(mdata)
    >>> model.train()
    >>> mdata.obsm["X_multidgd"] = model.get_latent_representation()
    """

    _latent_key = "X_multidgd"

    _may_wait_for_cells = False

    @without(**OF_ENCODERS, **OF_ONE_MODALITY)
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
        likelihoods: dict[str, GeneLikelihood] | None = None,
        modality_weights: Literal["likelihood", "information"] | dict[str, float] = "likelihood",
        dispersion: Literal["gene", "gene-batch"] = "gene",
        dispersion_floor: Literal[0, 1] = 0,
        batch_representation: Literal["embedding", "one-hot"] = "embedding",
        prior: PriorName | type[Prior] | Prior = "gaussian_mixture",
        prior_kwargs: dict | None = None,
        noise_scale: float = 0.6,
        hyperprior_weight: dict[str, Literal["once", "per_cell"]] | None = None,
        new_cells: dict | None = None,
        supervision: Literal["components"] | None = None,
        components_per_class: int = 1,
    ) -> None:
        self._likelihoods = _LIKELIHOODS | _RULE("likelihoods", likelihoods or {})
        adata = last_joined(adata)
        super().__init__(
            adata,
            registry,
            n_components=n_components,
            n_latent=n_latent,
            n_hidden=n_hidden,
            n_layers=n_layers,
            activation=activation,
            dispersion=dispersion,
            dispersion_floor=dispersion_floor,
            batch_representation=batch_representation,
            prior=prior,
            prior_kwargs=prior_kwargs,
            noise_scale=noise_scale,
            hyperprior_weight=hyperprior_weight,
            new_cells=new_cells,
            supervision=supervision,
            components_per_class=components_per_class,
        )
        self._weigh_modalities(modality_weights)
        self._describe(
            **self._parts
            | {
                "modalities": ", ".join(f"{name} ({n:,})" for name, n in self.modalities.items()),
                "likelihood": f"{self.module.gene_likelihood}, dispersion {dispersion}",
            }
        )
        self.init_params_ = self._get_init_params(locals())

    def _weigh_modalities(self, weights: str | dict[str, float]) -> None:
        """Take up weights; ValueError if they are of modalities that the model does not have."""
        self._balances_modalities = weights == "information" and len(self.modalities) > 1
        named = weights if isinstance(weights, dict) else {}
        if named and (set(named) - set(self.modalities) or len(self.modalities) == 1):
            msg = (
                f"`modality_weights={named}` weighs modalities against each other, and the model was set up with "
                f"{list(self.modalities)}. Name some of several that it has."
            )
            raise ValueError(msg)
        for i, name in enumerate(self.modalities if named else ()):
            self.module.modality_weights[i] = named.get(name, 1.0)

    @property
    def modality_weights(self) -> dict[str, float]:
        """Weight of each modality in the objective."""
        weights = self.module.modality_weights
        return (
            dict.fromkeys(self.modalities, 1.0)
            if weights is None
            else dict(zip(self.modalities, weights.tolist(), strict=True))
        )

    def _module_options(self, batch_representation: str, batch_embedding_dim: int | None = None) -> dict[str, Any]:
        modalities = {}
        for name, n_features in self.modalities.items():
            likelihood = _OF_PROTEINS.get(self._likelihoods[name], self._likelihoods[name])
            size, link = usual_size_and_link(family_of(likelihood), None, None, has_registered=False)
            modalities[name] = Modality(n_features, likelihood, size, link)
        if len(modalities) == 1:
            modalities = {GENES: next(iter(modalities.values()))}
        return super()._module_options(batch_representation, batch_embedding_dim) | {"modalities": modalities}

    # ------------------------------------------------------------ data

    @property
    def modalities(self) -> dict[str, int]:
        """Number of features of each modality, in the order of their columns."""
        return modalities_in(self.registry_, REGISTRY_KEYS.X_KEY)

    @property
    def adata(self) -> AnnData | None:
        """The cells, with the features of all modalities side by side."""
        return self._adata

    @adata.setter
    def adata(self, adata: AnnData | MuData) -> None:
        SCDGD.adata.fset(self, self._as_registered(adata, self.registry_))

    def _validate_anndata(self, adata: AnnData | MuData | None = None, copy_if_view: bool = True) -> AnnData:
        return super()._validate_anndata(self._as_registered(adata, self.registry_), copy_if_view)

    @classmethod
    def _as_registered(cls, adata: AnnData | MuData | None, registry: dict) -> AnnData | None:
        """The data as the model reads them: joined as those that it was set up with."""
        if isinstance(adata, AnnData) and get_adata_minify_type(adata) is not None:
            return adata  # made of data that were joined
        source = get_state_registry(registry, REGISTRY_KEYS.X_KEY)[ModalityCountsField.SOURCE_KEY]
        if isinstance(adata, MuData):
            if "modalities" not in source:
                msg = (
                    "The model was set up with an AnnData, so it takes AnnData: join the modalities as they were then."
                )
                raise ValueError(msg)
            return joined_modalities(adata, source["modalities"], source["layers"])
        if isinstance(adata, AnnData) and "protein_obsm_key" in source and source["protein_obsm_key"] in adata.obsm:
            return joined_proteins(adata, source["protein_obsm_key"], source.get("layer"))
        return adata

    @classmethod
    def _fields(cls, counts: Sequence[BaseAnnDataField], of: dict[str, Any]) -> list[BaseAnnDataField]:
        return super()._fields([ModalityCountsField(of["layer"], of["modality_key"])], of)

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
        modality_key: str = MODALITY_KEY,
        protein_obsm_key: str | None = None,
        gene_mask_key: str | None = None,
        unlabeled_category: str | float | None = None,
        standardize_covariates: bool = True,
        **kwargs: Any,
    ) -> None:
        """%(summary)s

        Features of all modalities stand side by side in one matrix, as in files of 10x (``modality_key="feature_types"``) and as
        :class:`scvi.model.MULTIVI` takes them; or genes in the matrix and proteins in ``obsm``, as :class:`scvi.model.TOTALVI`
        does. A cell without any count in a modality was not measured in it.

        Parameters
        ----------
        %(param_adata)s
        %(param_layer)s
        %(param_batch_key)s
        %(param_labels_key)s
        size_factor_key
            Not for several modalities: each has its totals.
        %(param_cat_cov_keys)s
        %(param_cont_cov_keys)s
        modality_key
            Column of ``adata.var`` that says of which modality a feature is: ``"rna"``, ``"atac"``, ``"protein"``, or as 10x calls
            them.
        protein_obsm_key
            Key of raw counts of proteins in ``adata.obsm``, in place of `modality_key`. They are copied side by side with the genes.
        gene_mask_key
            As for :class:`SCDGD`: which features, of all modalities, were measured in each batch. Not with `protein_obsm_key`.
        unlabeled_category, standardize_covariates
            As for :class:`SCDGD`.

        Raises
        ------
        ValueError
            If counts, names, modalities or columns are not as they must be; the message names the remedy.
        """
        if size_factor_key is not None:
            msg = (
                f"`size_factor_key={size_factor_key!r}` would be one size of all modalities of a cell, each of which has its own "
                "total. Leave it out."
            )
            raise ValueError(msg)
        cls._check_mask(gene_mask_key, batch_key)
        if gene_mask_key is not None and protein_obsm_key is not None:
            msg = (
                f"`gene_mask_key={gene_mask_key!r}` is a table of the features of all modalities, and proteins in `obsm` have no rows in it. "
                "Put all features side by side in one AnnData, with a column that says of which modality they are (`modality_key`)."
            )
            raise ValueError(msg)
        if protein_obsm_key is not None:
            adata = joined_proteins(adata, protein_obsm_key, layer)
            layer, protein_obsm_key, modality_key = None, None, MODALITY_KEY
        setup_method_args = cls._get_setup_method_args(**locals())
        cls._register(adata, cls._fields([], setup_method_args["setup_args"]), setup_method_args, kwargs)

    @classmethod
    @setup_anndata_dsp.dedent
    @checked_by(SETUP)
    def setup_mudata(
        cls,
        mdata: MuData,
        modalities: dict[str, str] | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        categorical_covariate_keys: list[str] | None = None,
        continuous_covariate_keys: list[str] | None = None,
        *,
        layers: dict[str, str] | None = None,
        unlabeled_category: str | float | None = None,
        standardize_covariates: bool = True,
        **kwargs: Any,
    ) -> None:
        """%(summary_mdata)s

        Modalities may have different cells. Counts are copied side by side into one sparse matrix, ``model.adata``, whose features
        are called ``"rna:CD4"`` and ``"protein:CD4"``; columns of cells are those of ``mdata.obs``.

        Parameters
        ----------
        %(param_mdata)s
        modalities
            Name in `mdata` of each modality, by ``"rna"``, ``"atac"`` and ``"protein"``: ``{"rna": "gex", "atac": "peaks"}``.
        %(param_batch_key)s
        %(param_labels_key)s
        %(param_cat_cov_keys)s
        %(param_cont_cov_keys)s
        layers
            Layer of the counts, by modality, where they are not in ``X``.
        unlabeled_category, standardize_covariates
            As for :class:`SCDGD`.

        Raises
        ------
        ValueError
            As for :meth:`setup_anndata`, and if a modality is unknown.
        TypeError
            If it is no MuData.
        """
        given = [batch_key, labels_key, *(categorical_covariate_keys or []), *(continuous_covariate_keys or [])]
        absent = [key for key in given if key is not None and key not in mdata.obs]
        if absent:
            msg = (
                f"There is no column {absent[0]!r} in `mdata.obs`, which has {list(map(str, mdata.obs.columns))[:_MAX_NAMED]}. Columns "
                "of a modality come there by `mdata.pull_obs()`."
            )
            raise ValueError(msg)
        named = {} if modalities is None else modalities
        lacking = [key for key in named.values() if key not in mdata.mod]
        if lacking:
            msg = f"There is no modality {lacking[0]!r} in the MuData, which has {list(mdata.mod)}."
            raise ValueError(msg)
        cls.setup_anndata(
            joined_modalities(mdata, named, layers),
            batch_key=batch_key,
            labels_key=labels_key,
            categorical_covariate_keys=categorical_covariate_keys,
            continuous_covariate_keys=continuous_covariate_keys,
            unlabeled_category=unlabeled_category,
            standardize_covariates=standardize_covariates,
            **kwargs,
        )

    @staticmethod
    def prepare_query_anndata(*args: Any, **kwargs: Any) -> None:
        """Refused: features of several modalities are found by name, and those that are missing leave the likelihood.

        Raises
        ------
        NotImplementedError
            Always.
        """
        msg = (
            "Features of new cells are found by name, whole modalities may be missing, and nothing has to be padded: pass the data as "
            "they are to `load_query_data`."
        )
        raise NotImplementedError(msg)

    # ------------------------------------------------------------ what is expected of each modality

    def get_normalized_expression(
        self,
        adata: AnnData | MuData | None = None,
        indices: Sequence[int] | None = None,
        transform_batch: Sequence[float | str] | None = None,
        gene_list: Sequence[str] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> np.ndarray | pd.DataFrame:
        """Decoded expression of genes, as of :class:`SCDGD`, whether they were measured in a cell or not.

        With ``n_samples`` above 1 and ``return_mean=False`` they are draws, whose spread is the uncertainty of a cell's representation.

        Parameters
        ----------
        adata, indices, transform_batch
            As for :class:`SCDGD`.
        gene_list
            Names of genes, with or without ``"rna:"``.
        *args, **kwargs
            As for :class:`SCDGD`.

        Raises
        ------
        ValueError
            If the model knows no genes, and as for :class:`SCDGD`.
        """
        genes, names = self._features_of("rna", gene_list, _LISTS["rna"])
        found = self._expression_of_all(adata, indices, transform_batch, genes, *args, **kwargs)
        return found.set_axis(names, axis=1) if isinstance(found, pd.DataFrame) else found

    @checked(region_list=_FEATURES, n_samples=Integer(1), return_spread=Flag())
    def get_accessibility_estimates(
        self,
        adata: AnnData | MuData | None = None,
        indices: Sequence[int] | None = None,
        transform_batch: Sequence[float | str] | None = None,
        region_list: Sequence[str] | None = None,
        *,
        n_samples: int = 1,
        return_spread: bool = False,
        batch_size: int | None = None,
    ) -> pd.DataFrame | tuple[pd.DataFrame, pd.DataFrame]:
        r"""Probability of a fragment in each region, :math:`1 - p(x = 0 \mid z, \bar s)`, measured in a cell or not.

        At the usual depth of the training cells, so that cells can be compared.

        Parameters
        ----------
        adata, indices, transform_batch, batch_size
            As for :meth:`get_normalized_expression`.
        region_list
            Names of regions; all if not given.
        n_samples
            Draws of a cell's posterior, over which probabilities are averaged; one is at the representation.
        return_spread
            Whether to return their standard deviations over the draws, too.

        Returns
        -------
        Cells by regions; with `return_spread`, and standard deviations.

        Raises
        ------
        ValueError
            If the model knows no chromatin, a region or batch is unknown, or a spread is asked for of one draw.
        """
        probability = lambda px: -px.log_zero_probability.expm1()
        return self._at_usual_depth(
            "atac", probability, adata, indices, transform_batch, region_list, n_samples, return_spread, batch_size
        )

    @checked(protein_list=_FEATURES, n_samples=Integer(1), return_spread=Flag(), include_protein_background=Flag())
    def get_normalized_protein(
        self,
        adata: AnnData | MuData | None = None,
        indices: Sequence[int] | None = None,
        transform_batch: Sequence[float | str] | None = None,
        protein_list: Sequence[str] | None = None,
        *,
        n_samples: int = 1,
        return_spread: bool = False,
        include_protein_background: bool = True,
        batch_size: int | None = None,
    ) -> pd.DataFrame | tuple[pd.DataFrame, pd.DataFrame]:
        r"""Expected counts of each protein, :math:`\mathbb E[x \mid z, \bar s]`, measured in a cell or not.

        At the usual depth of the training cells.

        Parameters
        ----------
        adata, indices, transform_batch, batch_size, n_samples, return_spread
            As for :meth:`get_accessibility_estimates`.
        protein_list
            Names of proteins; all if not given.
        include_protein_background
            Whether background is part of them; false needs the likelihood ``"nb_background"``.

        Returns
        -------
        Cells by proteins; with `return_spread`, and standard deviations.

        Raises
        ------
        ValueError
            If the model knows no proteins, or no background of them, a protein or batch is unknown, or a spread is asked for of one draw.
        """
        if not include_protein_background:
            self._check_background()
        return self._at_usual_depth(
            "protein",
            lambda px: px.mean if include_protein_background else px.signal,
            adata,
            indices,
            transform_batch,
            protein_list,
            n_samples,
            return_spread,
            batch_size,
        )

    @checked(protein_list=_FEATURES, n_samples=Integer(1), return_spread=Flag())
    def get_protein_foreground_probability(
        self,
        adata: AnnData | MuData | None = None,
        indices: Sequence[int] | None = None,
        transform_batch: Sequence[float | str] | None = None,
        protein_list: Sequence[str] | None = None,
        *,
        n_samples: int = 1,
        return_spread: bool = False,
        batch_size: int | None = None,
    ) -> pd.DataFrame | tuple[pd.DataFrame, pd.DataFrame]:
        r"""Probability that a molecule of a protein that was counted in a cell is no background, given the count, :math:`(1 - t) w`.

        TOTALVI's method of this name gives what is decoded, :math:`1 - \pi`, which is that of a protein in all cells here. Cells without
        proteins have what is expected, :math:`(1 - \pi) w`. See :class:`~scdgd.likelihood.BackgroundMixture`.

        Parameters
        ----------
        adata, indices, transform_batch, batch_size, n_samples, return_spread, protein_list
            As for :meth:`get_normalized_protein`.

        Returns
        -------
        Cells by proteins; with `return_spread`, and standard deviations.

        Raises
        ------
        ValueError
            As for :meth:`get_normalized_protein`.
        """
        self._check_background()

        def probability(tensors: dict[str, torch.Tensor], z: torch.Tensor, covariates: dict) -> torch.Tensor:
            """Of the cells of a minibatch, shape ``(s, b, m)``."""
            observed = self.module.observed
            parts = observed.parts(observed.values(tensors), self.module.log_size(tensors), covariates[MEASURED_KEY])
            part = parts[list(self.modalities).index("protein")]
            px = part.observation.likelihood(z, part.log_size, **covariates | {MEASURED_KEY: part.measured})
            found = px.foreground_probability(part.values.to_dense())
            return (
                found
                if part.present is None
                else torch.where(part.present[:, None], found, px.foreground_probability())
            )

        return self._averaged(
            "protein", probability, adata, indices, transform_batch, protein_list, n_samples, return_spread, batch_size
        )

    def _check_background(self) -> None:
        """Raise ValueError unless signal of proteins is told from background."""
        self._features_of("protein", None, _LISTS["protein"])
        if not self._observation_of("protein").family.has_background:
            msg = (
                f"The likelihood of proteins of the model, {self._likelihoods['protein']!r}, does not tell signal from background. Build "
                "it with `MULTIDGD(mdata, likelihoods={'protein': 'nb_background'})`."
            )
            raise ValueError(msg)

    def _genes_in(self, modality: str) -> np.ndarray:
        """Which features of the model are of a modality, shape ``(g,)``, bool."""
        of_genes = get_state_registry(self.registry_, REGISTRY_KEYS.X_KEY)[ModalityCountsField.MODALITIES_KEY]
        return np.asarray(of_genes) == modality

    def _observation_of(self, modality: str) -> Observation:
        return list(self.module.observations.values())[list(self.modalities).index(modality)]

    def _expression_of_all(self, *args: Any, **kwargs: Any) -> np.ndarray | pd.DataFrame:
        return super().get_normalized_expression(*args, **kwargs)

    def _features_of(self, modality: str, wanted: Sequence[str] | None, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Features of a modality by their names in the model, and as users call them."""
        if modality not in self.modalities:
            msg = f"The model knows no modality {modality!r}: it was set up with {list(self.modalities)}."
            raise ValueError(msg)
        features = self._genes[self._genes_in(modality)]
        short = np.array([feature.removeprefix(f"{modality}:") for feature in features], dtype=object)
        if wanted is None:
            return features, short
        of_name = {**dict(zip(features, features, strict=True)), **dict(zip(short, features, strict=True))}
        unknown = [feature for feature in wanted if feature not in of_name]
        if unknown:
            msg = f"{unknown[:_MAX_NAMED]} in `{name}` are not among the {len(features)} features of {modality!r} of the model."
            raise ValueError(msg)
        return np.array([of_name[feature] for feature in wanted]), np.array(list(wanted), dtype=object)

    def _at_usual_depth(
        self, modality: str, read: Callable[[Likelihood], torch.Tensor], *args: Any
    ) -> pd.DataFrame | tuple[pd.DataFrame, pd.DataFrame]:
        """What is decoded of one modality for cells of the usual size; further arguments as of :meth:`_averaged`."""

        def decoded(tensors: dict[str, torch.Tensor], z: torch.Tensor, covariates: dict) -> torch.Tensor:
            """Of the cells of a minibatch, shape ``(s, b, m)``."""
            log_size = self.module.usual_log_size[list(self.modalities).index(modality)].expand(*z.shape[:-1], 1)
            return read(self._observation_of(modality).likelihood(z, log_size, **covariates | {MEASURED_KEY: None}))

        return self._averaged(modality, decoded, *args)

    @torch.inference_mode()
    def _averaged(
        self,
        modality: str,
        decoded: Callable[[dict[str, torch.Tensor], torch.Tensor, dict], torch.Tensor],
        adata: AnnData | MuData | None,
        indices: Sequence[int] | None,
        transform_batch: Any,
        wanted: Sequence[str] | None,
        n_samples: int,
        return_spread: bool,
        batch_size: int | None,
    ) -> pd.DataFrame | tuple[pd.DataFrame, pd.DataFrame]:
        """What is decoded of a modality ``(s, b, m)`` from minibatches, draws and covariates, averaged over batches and draws."""
        self._check_if_trained(warn=False)
        if return_spread and n_samples == 1:
            msg = "A spread is over draws of posteriors: pass `n_samples` above 1, e.g. 50."
            raise ValueError(msg)
        features, names = self._features_of(modality, wanted, _LISTS[modality])
        of_modality, _ = self._features_of(modality, None, _LISTS[modality])
        columns = torch.as_tensor(pd.Index(of_modality).get_indexer(features), device=self.module.device)
        codes = self._codes_of(transform_batch, "transform_batch")
        adata = self._validate_anndata(adata)
        positions = positions_of(indices, adata.n_obs)
        values, module = [], self.module
        for tensors, rows in self.posterior.minibatches(adata, positions, batch_size, "Decoding"):
            draws = []
            for code in codes:
                z = posterior_draws(module, tensors, rows, n_samples) if n_samples > 1 else None
                z = module.posterior.moments(rows)[0].unsqueeze(0) if z is None else z
                covariates = module.covariates(tensors)
                if code is not None:
                    of_batch = torch.full_like(covariates[MODULE_KEYS.BATCH_INDEX_KEY], code)
                    covariates[MODULE_KEYS.BATCH_INDEX_KEY] = of_batch
                draws.append(decoded(tensors, z, covariates)[..., columns])
            of_cells = torch.stack(draws).mean(0)  # (s, b, m)
            values.append(torch.stack([of_cells.mean(0), of_cells.std(0, correction=0)]).cpu())
        mean, spread = (
            pd.DataFrame(moment.numpy(), adata.obs_names[positions], names) for moment in torch.cat(values, 1)
        )
        return (mean, spread) if return_spread else mean

    # ------------------------------------------------------------ refusals

    def train_encoder(self, *args: Any, **kwargs: Any) -> pd.DataFrame:
        """As of :class:`SCDGD`, of one modality; refused for several, whose patterns in cells an encoder would have to read.

        Raises
        ------
        NotImplementedError
            If there are several modalities.
        """
        if len(self.modalities) > 1:
            msg = (
                "An encoder of new cells reads one modality, and the model has several, any of which cells may lack. New cells are "
                "placed from component means without it."
            )
            raise NotImplementedError(msg)
        return super().train_encoder(*args, **kwargs)
