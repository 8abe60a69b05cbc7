"""Options of :class:`scvi.model.SCVI` that some of our models lack, and of ours that others lack: what they would be, and why not."""

from __future__ import annotations

from scdgd._absent_options import Absent

_NO_ENCODER = "is of an encoder, and this model has none. Leave it out, or use `scdgd.model.FlexSCVI`."
_NO_NORMS = "norms hidden layers, and those of this model have no norms. Leave it out, or use `scdgd.model.FlexSCVI`."
_NO_BATCH_NORM = "norms hidden layers by the other cells of a minibatch, and cells are placed each by itself. Leave it out, or use `scdgd.model.FlexSCVI`."
_NO_DECODER = "is of scvi-tools' decoder, and this model has another. Leave it out, or use `scdgd.model.FlexSCVI`."
#: What no model without networks of scvi-tools' kind has.
_OF_NETWORKS = {
    # batches and covariates are known where cells are read, as they are to such an encoder
    "encode_covariates": Absent(_NO_ENCODER, (False, True)),
    "var_activation": Absent(_NO_ENCODER, (None,)),
    "extra_encoder_kwargs": Absent(_NO_ENCODER, (None,)),
    "extra_decoder_kwargs": Absent(_NO_DECODER, (None,)),
    "extra_payload_autotune": Absent(
        "hands what an encoder says of a minibatch to metrics of `scvi.autotune`, and this model has none. Leave it out, and tune by "
        "`elbo_validation`.",
        (False,),
    ),
}
#: Of models with a row of a table for each cell.
OF_ENCODERS = {
    **_OF_NETWORKS,
    "use_batch_norm": Absent(_NO_BATCH_NORM, ("none", "encoder")),  # there is no such part
    "latent_distribution": Absent(
        "has representations on a simplex, and here they lie anywhere, with the density that `prior` names. Leave it out, or use "
        "`scdgd.model.FlexSCVI`.",
        ("normal",),
    ),
    "dropout_rate": Absent(
        "drops hidden units, and here noise on representations keeps the decoder from learning cells by heart. Leave it out.",
        (0,),
    ),
    "deeply_inject_covariates": Absent(
        "keeps batches and covariates out of later layers, and here they enter all hidden layers. Leave it out.",
        (True,),
    ),
    "log_variational": Absent(_NO_ENCODER, (True,)),
}
_FROZEN = "is for models with an encoder. Training a query of this model moves representations of its cells only; all else is frozen. Leave it out."
#: Of a query of such a model.
OF_SURGERY = {
    "unfrozen": Absent(_FROZEN, (False,)),
    **dict.fromkeys(("freeze_expression", "freeze_decoder_first_layer"), Absent(_FROZEN, (True,))),
    # there are no such parts
    **dict.fromkeys(
        ("freeze_dropout", "freeze_batchnorm_encoder", "freeze_batchnorm_decoder", "freeze_classifier"),
        Absent(_FROZEN, (True, False)),
    ),
    "registry": Absent(
        "is in the place of data, and a query of this model places the cells of its `adata`. Leave it out.", (None,)
    ),
    "datamodule": Absent(
        "reads cells in the place of `adata`, which a query of this model needs. Pass `adata`.", (None,)
    ),
    "transfer_batch": Absent(
        "leaves out new batches, and a query of this model places all its cells. Leave it out.", (True,)
    ),
}
#: Dispersions that models with a row for each cell do not have.
DISPERSIONS_OF_ENCODERS = {
    "gene-cell": "makes dispersions depend on representations, which are found as if they did not. Use 'gene' or 'gene-batch'.",
    "gene-label": "gives labels dispersions of their own, and new cells have no labels. Use 'gene' or 'gene-batch', or `scdgd.model.FlexSCVI`.",
}
#: What several modalities have in place of one likelihood and size.
OF_ONE_MODALITY = {
    "use_layer_norm": Absent(_NO_NORMS, ("none", "encoder")),
    "batch_embedding_kwargs": Absent(
        "chooses the rank of the vectors of batches, and those of each modality have one number a feature. Leave it out.",
        (None,),
    ),
    "use_observed_lib_size": Absent(
        "makes the size of a cell a parameter, and here each modality has one, which is observed. Leave it out, or use "
        "`scdgd.model.SCDGD`.",
        (True,),
    ),
    "gene_likelihood": Absent(
        "is that of one modality. Name those of all: `likelihoods={'rna': 'nb', 'atac': 'poisson'}`."
    ),
}
_ENCODED = "needs representations that are free to follow the labels of their cells, and those of this model come from an encoder. Use `scdgd.model.SCDGD`, or `scvi.model.SCANVI`."
#: Of models with a row for each cell, what needs rows that are free.
OF_ROWS = {"supervision": Absent(_ENCODED, (None,)), "components_per_class": Absent(_ENCODED, (1,))}


def fixed(value: str, name: str) -> Absent:
    """An option that is what makes a class."""
    return Absent(
        f"is not what makes a model {name}, which is {value!r}. Choose it in `scdgd.model.FlexSCVI`.", (value,)
    )


_OF_MIXTURE = "is not that of SCGMVAE and SCVAE, whose posteriors and prior are mixtures of normals. Choose it in `scdgd.model.FlexSCVI`."
#: Of models with an encoder, what mixtures of normals leave no choice of.
OF_MIXTURES = {
    **dict.fromkeys(("prior", "posterior", "n_prior_samples"), Absent(_OF_MIXTURE)),
    **dict.fromkeys(("prior_kwargs", "posterior_kwargs"), Absent(_OF_MIXTURE, (None,))),
    "latent_distribution": Absent(_OF_MIXTURE, ("normal",)),
}
#: Of models with networks, what a Boltzmann machine has no place for.
OF_DECODERS = {
    **_OF_NETWORKS,
    **dict.fromkeys(("use_batch_norm", "use_layer_norm"), Absent(_NO_NORMS, ("none",))),
    "n_latent": Absent(
        "is a number of dimensions, and representations are units of the top layer: `n_hidden=(12, 4)` has four."
    ),
    "n_layers": Absent("is a number of layers, and `n_hidden` names the units of each: `n_hidden=(12, 4)` has two."),
    "latent_distribution": Absent("is of representations with a density, and hidden units are binary. Leave it out."),
    "use_observed_lib_size": Absent(
        "is `use_library_size` here: whether cells have a size, the registered one or their total."
    ),
    "gene_likelihood": Absent(
        "is not the likelihood of this machine, whose visible units are negative binomial. Leave it out.", ("nb",)
    ),
    "dispersion": Absent(
        "is not that of this machine, whose genes have an inverse dispersion each. Leave it out.", ("gene",)
    ),
    "dropout_rate": Absent(
        "drops units of a network, and those of this machine are random anyway. Leave it out.", (0,)
    ),
    "deeply_inject_covariates": Absent(
        "is of hidden layers that read batches, and here visible units have biases of batches. Leave it out."
    ),
    "log_variational": Absent(_NO_ENCODER),
    "batch_representation": Absent(
        "is not that of this machine, whose batches have visible biases of their own. Leave it out.", ("one-hot",)
    ),
    "batch_embedding_kwargs": Absent(
        "is of vectors of batches, and here visible units have biases of batches. Leave it out.", (None,)
    ),
}
