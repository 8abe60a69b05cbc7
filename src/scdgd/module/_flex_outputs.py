"""What a flexible autoencoder decodes: the distribution of counts, or of other values."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import torch
from scvi import REGISTRY_KEYS
from scvi.module.base import auto_move_data
from torch import nn
from torch.distributions import Normal as Gaussian
from torch.nn.functional import linear, one_hot

from scdgd._compat import MODULE_KEYS
from scdgd.likelihood import LINKS
from scdgd.likelihood._link import Exp, MeanActivation, Softplus
from scdgd.likelihood._outputs import output_of

if TYPE_CHECKING:
    from torch.distributions import Distribution

    from scdgd.likelihood import Likelihood, Link

#: Parameter for which scvi-tools' decoder has an output.
_LOGITS = "zi_logits"


class FlexOutputsMixin:
    """From the latent space to a likelihood: mean activation, dispersion and family."""

    likelihood: type[Likelihood]
    link: Link

    def _checked_link(self, name: str, *, has_linear_decoder: bool) -> Link:
        """The link of a name, or that of registered sizes; ValueError unless it goes with the likelihood and the sizes."""
        link, family = LINKS[name], self.likelihood
        if family.has_background:
            msg = (
                f"`gene_likelihood={self.gene_likelihood!r}` has a background in proportion to the size of a cell, which only models "
                "without an encoder have: SCDGD, SCVAD, MULTIDGD. Use e.g. `gene_likelihood='nb'`."
            )
            raise ValueError(msg)
        if self.use_size_factor_key and not link.is_share:
            msg = f"`mean_activation={name!r}` sets sizes itself; set up without `size_factor_key`."
            raise ValueError(msg)
        if not self.use_observed_lib_size and not link.is_share:
            msg = f"`mean_activation={name!r}` needs `use_observed_lib_size=True`."
            raise ValueError(msg)
        if family.needs_total and (not link.is_share or self.use_size_factor_key or not self.use_observed_lib_size):
            msg = (
                f"The size of a cell is its total count for `gene_likelihood={self.gene_likelihood!r}`, which needs "
                "`mean_activation='softmax'`, `use_observed_lib_size=True` and data set up without `size_factor_key`."
            )
            raise ValueError(msg)
        allowed = [known for known in family.links if known in get_args(MeanActivation)]
        if name not in allowed:
            msg = f"`gene_likelihood={self.gene_likelihood!r}` needs `mean_activation` in {allowed}, got {name!r}."
            raise ValueError(msg)
        if not self.use_size_factor_key:
            return link
        return Exp() if has_linear_decoder else Softplus()

    def _make_parameters(self) -> None:
        """Add what the family has and scvi-tools' decoder does not give: see :meth:`_parameters_of`."""
        self._own_name = next((name for name, p in self.likelihood.own_parameters.items() if not p.is_decoded), None)
        further = {
            name: p for name, p in self.likelihood.own_parameters.items() if name not in (self._own_name, _LOGITS)
        }
        if not further:
            return
        decoded = [name for name, p in further.items() if p.is_decoded]
        if decoded and (self.has_linear_decoder or self.has_own("decoder")):
            kind = "A linear decoder" if self.has_linear_decoder else "A decoder of your own"
            msg = f"{kind} gives no {decoded}, which `gene_likelihood={self.gene_likelihood!r}` needs."
            raise ValueError(msg)
        self.parameter_decoders, self.gene_parameters = nn.ModuleDict(), nn.ParameterDict()
        for name, parameter in further.items():
            if parameter.is_decoded:
                n_hidden = self.decoder.px_scale_decoder[0].in_features
                self.parameter_decoders[name] = nn.Linear(n_hidden, self.n_input * (parameter.width or 1))
            else:
                self.gene_parameters[name] = nn.Parameter(torch.full((self.n_input,), float(parameter.start)))

    @torch.no_grad()
    def start_at_moments(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        """Start values that are not counts at the mean and the variance of each gene, both ``(g,)``.

        Outputs are on the scale of the values, whatever it is, and take steps of the size of the rate from zero.
        """
        eta = self.likelihood.eta_of(mean)
        if self.has_linear_decoder:
            self.decoder.start_at_outputs(eta)
        else:
            self.decoder.px_scale_decoder[0].bias.copy_(eta)
        start = self.likelihood.parameters_at(variance).get(self._own_name)
        if start is not None and self.dispersion != "gene-cell":
            self.px_r.copy_(start if self.px_r.ndim == 1 else start.unsqueeze(1).expand_as(self.px_r))
        self.placed.fill_(True)

    @auto_move_data
    def generative(
        self,
        z: torch.Tensor,
        library: torch.Tensor,
        batch_index: torch.Tensor,
        cont_covs: torch.Tensor | None = None,
        cat_covs: torch.Tensor | None = None,
        size_factor: torch.Tensor | None = None,
        y: torch.Tensor | None = None,
        transform_batch: torch.Tensor | None = None,
        for_loss: bool = False,
        genes_measured: torch.Tensor | None = None,
    ) -> dict[str, Distribution | None]:
        """Distribution of counts given ``z`` ``(..., b, d)``: scvi-tools', or `for_loss` our own, which is faster.

        Where genes were not measured, means are of all genes, at the depth of those that were.
        """
        if transform_batch is not None:
            batch_index = torch.ones_like(batch_index) * transform_batch
        hidden = self._decode(z, batch_index, cont_covs, cat_covs)
        layer = self.decoder.px_scale_decoder[0]
        parameters = [self._parameter(name, hidden, batch_index, y) for name in self.likelihood.parameter_names]
        size = size_factor if self.use_size_factor_key else library
        if not for_loss or self.use_size_factor_key or not self.link.is_of(self.likelihood):
            output = layer(hidden)
            mean, scale = self.link.mean_and_scale(output, self._size_at_all(output, size, genes_measured))
            px = self.likelihood.distribution(mean, scale, self.likelihood.arguments(parameters))
        elif self.use_observed_lib_size:
            output = output_of(layer, hidden) if self.training else layer(hidden)
            px = self.link.likelihood(self.likelihood, output, size, parameters, genes_measured)
        else:  # gradients reach a library size that is latent
            px = self.likelihood(self.link.eta(layer(hidden), size), *parameters).measuring(genes_measured)
        pl = None
        if not self.use_observed_lib_size:
            means, variances = self._compute_local_library_params(batch_index)
            pl = Gaussian(means, variances.sqrt())
        pz = Gaussian(torch.zeros_like(z), torch.ones_like(z), validate_args=False)
        return {MODULE_KEYS.PX_KEY: px, MODULE_KEYS.PL_KEY: pl, MODULE_KEYS.PZ_KEY: pz}

    def _decode(
        self, z: torch.Tensor, batch_index: torch.Tensor, cont_covs: torch.Tensor | None, cat_covs: torch.Tensor | None
    ) -> torch.Tensor:
        """Last hidden layer of the decoder, shape ``(..., b, h)``; all outputs side by side if it is linear."""
        inputs = [z]
        categories = () if cat_covs is None else torch.split(cat_covs, 1, dim=1)
        if cont_covs is not None:
            inputs.append(cont_covs.expand(*z.shape[:-1], -1))
        if self.batch_representation == "embedding":
            embedded = self.compute_embedding(REGISTRY_KEYS.BATCH_KEY, batch_index)
            inputs.append(embedded.expand(*z.shape[:-1], -1))
        else:
            categories = (batch_index, *categories)
        return self.decoder.px_decoder(torch.cat(inputs, dim=-1), *categories)

    def _parameter(
        self, name: str, hidden: torch.Tensor, batch_index: torch.Tensor, y: torch.Tensor | None
    ) -> torch.Tensor:
        """A parameter of the family, ``(g,)``, ``(b, g)`` or, per gene and cell, ``(..., b, g)``, wherever it is kept.

        The first of genes is scvi-tools' ``px_r``, or decoded, as `dispersion` says, and logits of zero inflation are
        what its decoder gives for dropout.
        """
        if name == self._own_name:
            return self._own_parameter(hidden, batch_index, y)
        if name == _LOGITS:
            return self.decoder.px_dropout_decoder(hidden)
        if name in self.gene_parameters:
            return self.gene_parameters[name]
        value, width = self.parameter_decoders[name](hidden), self.likelihood.own_parameters[name].width
        return value if width is None else value.unflatten(-1, (-1, width))

    def _own_parameter(self, hidden: torch.Tensor, batch_index: torch.Tensor, y: torch.Tensor | None) -> torch.Tensor:
        if self.dispersion == "gene-cell":
            return self.link.bounded(self.decoder.px_r_decoder(hidden))
        if self.dispersion == "gene":
            return self.px_r
        codes, n = (y, self.n_labels) if self.dispersion == "gene-label" else (batch_index, self.n_batch)
        if (codes < 0).any():
            msg = (
                f"`dispersion='gene-label'` needs the label of each cell, one of {n} that the model was set up with, and some "
                "cells have none of them. Give them one in the column of `labels_key`, or train with `dispersion='gene'`."
            )
            raise ValueError(msg)
        return linear(one_hot(codes.squeeze(-1).long(), n).to(self.px_r.dtype), self.px_r)
