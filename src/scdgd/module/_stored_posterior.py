"""What minified data keep of the posteriors that encoders give."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch.distributions import Normal

from scdgd._constants import POSTERIOR_KEY


class Encoding(NamedTuple):
    """What an encoder says of ``b`` cells."""

    base: Normal
    """Gaussians, batch shape ``(b, d)``."""
    hidden: torch.Tensor | None = None
    """Last hidden layer, shape ``(b, h)``, which a flow or correlations depend on."""
    found: Normal | None = None
    """Gaussians that were found for cells that lack genes, means NaN for the others; ``None`` where there are none."""


class ComponentEncoding(NamedTuple):
    """What encoders say of ``b`` cells and ``m`` components of each."""

    log_qy: torch.Tensor
    r"""Logs of :math:`q(c \mid x)`, shape ``(m, b)``."""
    components: torch.Tensor
    """Which components these are, shape ``(m, b)``."""
    qz_given_y: Normal
    r"""Gaussians :math:`q(z \mid x, c)`, batch shape ``(m, b, d)``."""


class StoredPosterior(ABC):
    """How minified data keep what encoders say of cells, so that posteriors are the same without counts.

    Mean and variance of each posterior are kept in any case. Where they do not describe it, so is a row of numbers.
    """

    n_columns: int
    """Numbers in a row."""
    beyond_moments: str | None = None
    """What moments do not describe; ``None`` if there is no such thing."""

    def read(
        self, mean: torch.Tensor, variance: torch.Tensor, rows: torch.Tensor | None
    ) -> Encoding | ComponentEncoding:
        """What encoders said of cells, from moments ``(b, d)`` and rows ``(b, n_columns)``, ``None`` if data have none.

        Raises
        ------
        ValueError
            If posteriors of another form were kept.
        """
        n_kept = 0 if rows is None else rows.shape[1]
        if n_kept != self.n_columns:
            msg = (
                f"These data were minified by a model with other posteriors: adata.obsm['{POSTERIOR_KEY}'] has {n_kept} numbers for "
                f"each cell, and this model keeps {self.n_columns}. Read data with counts, or those that it has minified itself."
            )
            raise ValueError(msg)
        return self._read(mean, variance, rows)

    @abstractmethod
    def _read(
        self, mean: torch.Tensor, variance: torch.Tensor, rows: torch.Tensor | None
    ) -> Encoding | ComponentEncoding:
        """The same, of rows of the right length."""

    @abstractmethod
    def rows(self, encoding: Encoding | ComponentEncoding) -> torch.Tensor:
        """What is kept of cells beside moments, shape ``(b, n_columns)``."""


class StoredMoments(StoredPosterior):
    """Nothing beside moments, which are all there is to a normal with independent dimensions."""

    n_columns = 0

    def _read(self, mean: torch.Tensor, variance: torch.Tensor, rows: torch.Tensor | None) -> Encoding:
        return Encoding(Normal(mean, variance.sqrt(), validate_args=False))

    def rows(self, encoding: Encoding) -> torch.Tensor:
        """See :class:`StoredPosterior`."""
        return encoding.base.loc[:, :0]


class StoredEncoding(StoredPosterior):
    """Mean and standard deviation before a flow or correlations, and the hidden layer that these depend on.

    A Gaussian that was found for a cell takes the place of the encoder's, with a hidden layer of NaN.

    Parameters
    ----------
    n_latent, n_hidden
        Dimensions ``d`` and width ``h`` of the layer; a row has ``2 d + h`` numbers.
    beyond_moments
        What depends on the layer.
    """

    def __init__(self, n_latent: int, n_hidden: int, beyond_moments: str) -> None:
        self.beyond_moments = beyond_moments
        self._widths = [n_latent, n_latent, n_hidden]
        self.n_columns = sum(self._widths)

    def _read(self, mean: torch.Tensor, variance: torch.Tensor, rows: torch.Tensor) -> Encoding:
        loc, scale, hidden = rows.split(self._widths, dim=-1)
        base, is_encoded = Normal(loc, scale, validate_args=False), ~hidden[:, :1].isnan()
        if is_encoded.all():
            return Encoding(base, hidden)
        found = Normal(loc.masked_fill(is_encoded, torch.nan), scale, validate_args=False)
        return Encoding(base, hidden.nan_to_num(), found)

    def rows(self, encoding: Encoding) -> torch.Tensor:
        """See :class:`StoredPosterior`."""
        loc, scale, hidden = encoding.base.loc, encoding.base.scale, encoding.hidden
        if encoding.found is not None:
            is_found = ~encoding.found.loc[:, :1].isnan()
            loc, scale = (
                torch.where(is_found, encoding.found.loc, loc),
                torch.where(is_found, encoding.found.scale, scale),
            )
            hidden = hidden.masked_fill(is_found, torch.nan)
        return torch.cat([loc, scale, hidden], dim=-1)


class StoredComponent(StoredMoments):
    """Nothing beside moments, for a mixture of one component."""

    def _read(self, mean: torch.Tensor, variance: torch.Tensor, rows: torch.Tensor | None) -> ComponentEncoding:
        base = super()._read(mean, variance, rows).base.expand((1, *mean.shape))
        log_qy = mean.new_zeros(1, len(mean))
        return ComponentEncoding(log_qy, torch.zeros_like(log_qy, dtype=torch.int64), base)

    def rows(self, encoding: ComponentEncoding) -> torch.Tensor:
        """See :class:`StoredPosterior`."""
        return encoding.qz_given_y.loc[0, :, :0]


class StoredComponents(StoredPosterior):
    r"""Of each component its number, :math:`\log q(c \mid x)`, mean and standard deviation.

    Parameters
    ----------
    n_components, n_latent
        Components ``m`` of a cell and dimensions ``d``; a row has ``2 m (1 + d)`` numbers.
    """

    beyond_moments = "a mixture"

    def __init__(self, n_components: int, n_latent: int) -> None:
        self._shape = (n_components, 2 * (1 + n_latent))
        self.n_columns = n_components * 2 * (1 + n_latent)

    def _read(self, mean: torch.Tensor, variance: torch.Tensor, rows: torch.Tensor) -> ComponentEncoding:
        parts = rows.unflatten(-1, self._shape).transpose(0, 1)  # (m, b, 2 + 2 d)
        loc, scale = (
            part.contiguous() for part in parts[..., 2:].chunk(2, dim=-1)
        )  # added up in the same order as before
        return ComponentEncoding(
            parts[..., 1].contiguous(), parts[..., 0].long(), Normal(loc, scale, validate_args=False)
        )

    def rows(self, encoding: ComponentEncoding) -> torch.Tensor:
        """See :class:`StoredPosterior`."""
        log_qy, components, qz = encoding
        of_y = torch.stack([components.to(log_qy), log_qy], dim=-1)
        return torch.cat([of_y, qz.loc, qz.scale], dim=-1).transpose(0, 1).flatten(1)
