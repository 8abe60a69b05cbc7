"""The contract of a row posterior: what a row of the table stores about its cell."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch.distributions import Normal


class RowPosterior(ABC):
    r"""A family :math:`q_i(z)` of posteriors over representations, one for each row of a table.

    Training maximises, with one draw :math:`z_i \sim q_i` a visit,

    .. math::
        \sum_i \Big[ \mathbb E_{q_i} \log p(x_i \mid z)
        + \beta\, \big(\mathbb E_{q_i} \log p(z \mid \phi) + \mathbb H[q_i]\big) \Big] + \sum_t \kappa_t \log p_t(\phi)

    Models without an encoder differ by this object alone. An entropy that is the same for all rows is left out.

    Attributes
    ----------
    is_learned
        Whether rows hold the spread of :math:`q_i` beside its mean: then it is what the model knows of a cell. Else
        posteriors are found when they are asked for.
    noise_scale
        Standard deviation of the noise on representations in training.
    """

    is_learned: ClassVar[bool] = False
    noise_scale: float = 0.0

    def width(self, n_latent: int) -> int:
        """Number of parameters of a row, for ``d`` dimensions."""
        return n_latent

    def start(self, table: torch.Tensor) -> None:
        """Write what rows ``(n, w)`` start from into a table: means of zero."""
        table.zero_()

    @abstractmethod
    def draw(self, rows: torch.Tensor, *, training: bool = True) -> torch.Tensor:
        """Representations ``(b, d)`` as the loss sees them, from rows ``(b, w)``.

        Parameters
        ----------
        rows
            Rows of the table.
        training
            Whether decoder and prior train: noise that only they are to see is left out where they do not.
        """

    @abstractmethod
    def moments(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | float]:
        """Mean ``(b, d)`` and variance, ``(b, d)`` or one for all, from rows ``(b, w)``."""

    def distribution(self, rows: torch.Tensor) -> Normal | None:
        """The family at rows ``(b, w)``, normals with independent dimensions ``(b, d)``; ``None`` for points."""
        if not (self.is_learned or self.noise_scale > 0):
            return None
        mean, var = self.moments(rows)
        return Normal(mean, (torch.ones_like(mean) * var).sqrt(), validate_args=False)

    def rows(self, mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
        """Rows ``(b, w)`` of which :meth:`moments` says these, each ``(b, d)``, as far as rows hold them."""
        return mean

    def move(self, table: torch.Tensor, rows: torch.Tensor, by: torch.Tensor) -> None:
        """Add ``(m, d)`` to the means that `rows` ``(m,)`` of a table ``(n, w)`` hold, which come first in each row."""
        table[rows, : by.shape[1]] += by

    def entropy(self, var: torch.Tensor | float) -> torch.Tensor | float:
        """Entropy in nats, ``(b,)``, from the variance of :meth:`moments`, without what is the same for all rows."""
        return 0.0
