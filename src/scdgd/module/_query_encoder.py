"""An encoder for new cells, beside a model that was trained without one."""

from __future__ import annotations

from typing import Self

import torch
from scvi import REGISTRY_KEYS
from torch import nn

from scdgd._constants import MEASURED_KEY
from scdgd.data import SparseCounts, as_sparse_counts

from ._query_step import QueryStep

#: Beside projections: log size against that of training cells, and log share of the profile that was measured.
_N_FURTHER = 2
_LEAST_SHARE = 1e-6


class QueryEncoder(nn.Module):
    r"""From counts to where the mode of a cell's representation is looked for.

    .. math::
        z = f\big(A^\top (x / s - p),\; A^\top (\tilde x - m),\; \log s,\; \log c\big), \qquad
        A_j = w_j (W_j - \bar W), \qquad \tilde x_j = \log(1 + x_j \bar s / s)

    with the output weights :math:`W` of the decoder and a network :math:`f`, two hidden layers. With the Fisher weight
    :math:`w_j` of a count, as a share of its mean, the first projection is the gradient of the log likelihood in the
    decoder's last hidden layer at the mean profile :math:`p`: all that counts say of representations, as far as the
    likelihood is one of an exponential family. So the first layer is not learned, and cannot overfit: genes are many, and
    training cells may be few. The second projection, of logs, is less led by large counts.

    Size :math:`s = \sum_j x_j / c`, where :math:`c` is the share of the profile that was measured; sums are over measured
    genes. Centred at means over training cells, :math:`p` and :math:`m`, genes that were not measured enter as zero.
    Batches and covariates do not enter, so new ones can be encoded. Values that are not counts enter as they are, once.
    What the first gradient of a search then says is read by the encoder's :class:`QueryStep`, ``step``.

    Parameters
    ----------
    n_genes, n_projections, n_latent
        Sizes of input, projections and output.
    n_hidden
        Width of the hidden layers.
    of_counts
        Whether values are counts.
    """

    def __init__(
        self, n_genes: int, n_projections: int, n_latent: int, n_hidden: int = 256, *, of_counts: bool = True
    ) -> None:
        super().__init__()
        self.register_buffer("of_counts", torch.tensor(of_counts))
        self.register_buffer("projection", torch.zeros(n_genes, n_projections))
        self.register_buffer("profile", torch.full((n_genes,), 1 / n_genes))
        self.register_buffer("mean", torch.zeros(n_genes))
        self.register_buffer("mean_log_size", torch.zeros(()))
        n_inputs = (1 + of_counts) * n_projections + _N_FURTHER
        self.register_buffer("scale", torch.ones(n_inputs))
        self.network = nn.Sequential(
            nn.Linear(n_inputs, n_hidden),
            nn.SiLU(),
            nn.Linear(n_hidden, n_hidden),
            nn.SiLU(),
            nn.Linear(n_hidden, n_latent),
        )
        self.step = QueryStep(n_inputs, n_latent, n_hidden)

    @classmethod
    def of_state(cls, state: dict[str, torch.Tensor]) -> Self:
        """An encoder of the sizes that a state has."""
        n_latent, n_hidden = state["network.4.weight"].shape
        return cls(*state["projection"].shape, n_latent, n_hidden, of_counts=bool(state["of_counts"]))

    @classmethod
    @torch.no_grad()
    def beside(cls, module: nn.Module, tensors: dict[str, torch.Tensor], n_hidden: int) -> Self:
        """An encoder for a module, which learns from a minibatch of its training cells what is usual."""
        output = module.decoder.directions(module.prior.component_means).detach()  # (g, h)
        encoder = cls(*output.shape, module.prior.n_latent, n_hidden, of_counts=module.link.is_of_counts)
        encoder.to(output.device)
        x, measured = as_sparse_counts(tensors[REGISTRY_KEYS.X_KEY]), tensors.get(MEASURED_KEY)
        if encoder.of_counts:
            of_measured = x.totals().sum() if measured is None else x.totals() @ measured.to(output.dtype)
            profile = _sums(x) / of_measured.clamp(min=1)
            encoder.profile.copy_(profile / profile.sum())
        log_share = encoder._log_share(x, measured)
        encoder.mean_log_size.copy_(encoder._log_size(x, log_share).mean())
        n_measured = torch.tensor(len(x)) if measured is None else measured.sum(0)
        logs = encoder._logs(x, encoder._log_size(x, log_share))
        encoder.mean.copy_(_sums(logs) / n_measured.clamp(min=1))
        encoder._project(module, output)
        projections = encoder.inputs(tensors)[:, :-_N_FURTHER]  # scales are one
        encoder.scale[:-_N_FURTHER] = projections.square().mean(0).sqrt().clamp(min=_LEAST_SHARE)
        return encoder

    def _project(self, module: nn.Module, output: torch.Tensor) -> None:
        r""":math:`A`, from output weights ``(g, h)``, at the mean profile and size."""
        if not self.of_counts:
            self.projection.copy_(output - output.mean(0))
            return
        mean = (self.profile * self.mean_log_size.exp()).clamp(min=_LEAST_SHARE)
        parameters = module.likelihood.at_size(module.family_parameters.of_genes(), self.mean_log_size)
        weight = module.likelihood(mean.log(), *parameters).information() / mean
        self.projection.copy_(weight.unsqueeze(1) * (output - self.profile @ output))

    def forward(self, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        """Representations ``(b, d)`` of a minibatch as the data loader gives it."""
        return self.network(self.inputs(tensors))

    def inputs(self, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        """What networks see of a minibatch, ``(b, 2h + 2)``, or ``(b, h + 2)`` of values that are not counts."""
        x, measured = as_sparse_counts(tensors[REGISTRY_KEYS.X_KEY]), tensors.get(MEASURED_KEY)
        log_share = self._log_share(x, measured)
        log_size = self._log_size(x, log_share)
        parts = [self._logs(x, log_size) @ self.projection - self._usual(self.mean, measured)]
        if self.of_counts:
            shares = (x @ self.projection) / (log_size + self.mean_log_size).exp().unsqueeze(1)
            parts.append(shares - self._usual(self.profile, measured))
        return torch.cat([*parts, log_size.unsqueeze(1), log_share.unsqueeze(1)], dim=1) / self.scale

    def _usual(self, mean: torch.Tensor, measured: torch.Tensor | None) -> torch.Tensor:
        """Projection of means ``(g,)`` over measured genes, ``(1, h)``, or ``(b, h)`` if cells were not all of one panel."""
        if measured is None:
            return (mean @ self.projection).unsqueeze(0)
        if (measured == measured[:1]).all():
            measured = measured[:1]
        return (measured * mean) @ self.projection

    def _log_share(self, x: SparseCounts, measured: torch.Tensor | None) -> torch.Tensor:
        """Log share of the mean profile that was measured, shape ``(b,)``."""
        if measured is None:
            return self.profile.new_zeros(len(x))
        return (measured.to(self.profile.dtype) @ self.profile).clamp(min=_LEAST_SHARE).log()

    def _log_size(self, x: SparseCounts, log_share: torch.Tensor) -> torch.Tensor:
        r""":math:`\log s / \bar s` of each cell, shape ``(b,)``."""
        if not self.of_counts:
            return torch.zeros_like(log_share)
        return x.totals().clamp(min=1).log() - log_share - self.mean_log_size

    def _logs(self, x: SparseCounts, log_size: torch.Tensor) -> SparseCounts:
        r""":math:`\tilde x` where there are entries; of values that are not counts, these."""
        if not self.of_counts:
            return x
        values = (x.values * (-log_size).exp()[x.cells]).log1p()
        return SparseCounts(x.indptr, x.indices, values, x.n_genes)


def _sums(x: SparseCounts) -> torch.Tensor:
    """Sum of the values of each gene, shape ``(g,)``."""
    return x.values.new_zeros(x.n_genes).index_add_(0, x.indices, x.values)
