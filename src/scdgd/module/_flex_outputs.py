"""What a flexible autoencoder decodes: the distribution of counts, or of other values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from scvi import REGISTRY_KEYS
from scvi.distributions import NegativeBinomial, Normal, Poisson, ZeroInflatedNegativeBinomial
from scvi.module.base import auto_move_data
from torch.distributions import Normal as Gaussian
from torch.nn.functional import linear, one_hot

from scdgd._compat import MODULE_KEYS
from scdgd.likelihood import ALL_LIKELIHOODS, LIKELIHOODS, VALUE_LIKELIHOODS
from scdgd.likelihood.distributions import Bernoulli, ConstrainedPoisson, ZeroInflatedPoisson

from ._flex_parts import NORMALIZED_TOTAL
from ._linear_decoder import LinearDecoder
from ._value_start import log_scale_of

if TYPE_CHECKING:
    from torch.distributions import Distribution

#: Of log rates and log dispersions where rates are decoded without a library size (Grønbech et al. 2020).
_MAX_LOG_RATE = 10.0


class FlexOutputsMixin:
    """From the latent space to a likelihood: mean activation, dispersion and family."""

    def _check_outputs(self) -> None:
        """Raise ValueError unless the mean activation, the likelihood and the size of cells go together."""
        if self.mean_activation != "softmax" and self.use_size_factor_key:
            msg = f"`mean_activation={self.mean_activation!r}` sets sizes itself; set up without `size_factor_key`."
            raise ValueError(msg)
        if self.mean_activation != "softmax" and not self.use_observed_lib_size:
            msg = f"`mean_activation={self.mean_activation!r}` needs `use_observed_lib_size=True`."
            raise ValueError(msg)
        takes = {"bernoulli": ["identity"], "normal": ["softmax", "exp", "identity"]}
        if self.mean_activation not in (allowed := takes.get(self.gene_likelihood, ["softmax", "exp", "rate"])):
            msg = f"`gene_likelihood={self.gene_likelihood!r}` needs `mean_activation` in {allowed}, got {self.mean_activation!r}."
            raise ValueError(msg)
        if self.gene_likelihood == "constrained_poisson" and (
            self.mean_activation != "softmax" or self.use_size_factor_key or not self.use_observed_lib_size
        ):
            msg = (
                "The size of a cell is its total count for `gene_likelihood='constrained_poisson'`, which needs "
                "`mean_activation='softmax'`, `use_observed_lib_size=True` and data set up without `size_factor_key`."
            )
            raise ValueError(msg)

    @torch.no_grad()
    def start_at_moments(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        """Start values that are not counts at the mean and the variance of each gene, both ``(g,)``.

        Outputs are on the scale of the values, whatever it is, and take steps of the size of the rate from zero.
        """
        eta = VALUE_LIKELIHOODS[self.gene_likelihood].eta_of(mean)
        if isinstance(self.decoder, LinearDecoder):
            self.decoder.start_at_outputs(eta)
        else:
            self.decoder.px_scale_decoder[0].bias.copy_(eta)
        if self.gene_likelihood == "normal" and self.dispersion != "gene-cell":
            log_scale = log_scale_of(variance)
            self.px_r.copy_(log_scale if self.px_r.ndim == 1 else log_scale.unsqueeze(1).expand_as(self.px_r))
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
    ) -> dict[str, Distribution | None]:
        """Distribution of counts given ``z`` ``(..., b, d)``: scvi-tools', or `for_loss` our own, which is faster."""
        if transform_batch is not None:
            batch_index = torch.ones_like(batch_index) * transform_batch
        hidden = self._decode(z, batch_index, cont_covs, cat_covs)
        output = self.decoder.px_scale_decoder[0](hidden)
        log_theta = self._log_theta(hidden, batch_index, y)
        if for_loss and self.mean_activation == "identity":
            px = VALUE_LIKELIHOODS[self.gene_likelihood](output, *self._likelihood_parameters(hidden, log_theta))
        elif for_loss and self.gene_likelihood in LIKELIHOODS and not self.use_size_factor_key:
            family = LIKELIHOODS[self.gene_likelihood]
            parameters = self._likelihood_parameters(hidden, log_theta)
            if self.mean_activation != "softmax":
                px = family(self._log_mean(output, library), *parameters)
            elif self.use_observed_lib_size:
                px = family.from_softmax(output, library, *parameters)
            else:  # gradients reach a library size that is latent
                px = family(library + torch.log_softmax(output, dim=-1), *parameters)
        else:
            px = self._distribution(hidden, output, log_theta, size_factor if self.use_size_factor_key else library)
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

    def _log_theta(self, hidden: torch.Tensor, batch_index: torch.Tensor, y: torch.Tensor | None) -> torch.Tensor:
        """Log inverse dispersion (of a normal: log scale), ``(g,)``, ``(b, g)`` or, per gene and cell, ``(..., b, g)``."""
        if self.dispersion == "gene-cell":
            log_theta = self.decoder.px_r_decoder(hidden)
            return log_theta.clamp(-_MAX_LOG_RATE, _MAX_LOG_RATE) if self.mean_activation == "rate" else log_theta
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

    def _log_mean(self, output: torch.Tensor, library: torch.Tensor) -> torch.Tensor:
        """Log mean counts ``(..., b, g)`` where they are not shares of a library."""
        if self.mean_activation == "rate":
            return output.clamp(-_MAX_LOG_RATE, _MAX_LOG_RATE)
        return output + _log_scale(library)

    def _likelihood_parameters(self, hidden: torch.Tensor, log_theta: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = {
            "log_theta": lambda: log_theta,
            "log_scale": lambda: log_theta,
            "zi_logits": lambda: self.decoder.px_dropout_decoder(hidden),
        }
        return tuple(given[name]() for name in ALL_LIKELIHOODS[self.gene_likelihood].parameter_names)

    def _distribution(
        self, hidden: torch.Tensor, output: torch.Tensor, log_theta: torch.Tensor, size: torch.Tensor
    ) -> Distribution:
        """Distribution of counts as scvi-tools' downstream methods read it: theirs, or ours where they have none."""
        if self.gene_likelihood == "bernoulli":
            return Bernoulli(logits=output, validate_args=False)
        if self.mean_activation == "identity":
            return Normal(output, log_theta.exp(), normal_mu=output, validate_args=False)
        if self.mean_activation != "softmax":
            mean = self._log_mean(output, size).exp()
            scale = torch.softmax(output, dim=-1)
        else:
            scale = self.decoder.px_scale_decoder[1](output)
            mean = size.exp() * scale
        theta = log_theta.exp()
        if self.gene_likelihood == "zinb":
            logits = self.decoder.px_dropout_decoder(hidden)
            return ZeroInflatedNegativeBinomial(mu=mean, theta=theta, zi_logits=logits, scale=scale)
        if self.gene_likelihood == "nb":
            return NegativeBinomial(mu=mean, theta=theta, scale=scale)
        if self.gene_likelihood == "poisson":
            return Poisson(rate=mean, scale=scale, validate_args=False)
        if self.gene_likelihood == "zip":
            logits = self.decoder.px_dropout_decoder(hidden)
            return ZeroInflatedPoisson(rate=mean, zi_logits=logits, scale=scale, validate_args=False)
        if self.gene_likelihood == "constrained_poisson":
            return ConstrainedPoisson(rate=mean, scale=scale, validate_args=False)
        return Normal(mean, theta, normal_mu=scale, validate_args=False)


def _log_scale(library: torch.Tensor) -> torch.Tensor:
    r"""Log size factor of Dony et al. 2020, :math:`\log \max(N / 10^4, 10^{-3})`."""
    return (library - torch.tensor(NORMALIZED_TOTAL).log()).clamp(min=torch.tensor(1e-3).log())
