"""Adam for the rows of a table."""

from __future__ import annotations

import math

import torch


class RowAdam:
    r"""Adam whose moments and step count belong to rows, so that a minibatch costs as much as its rows.

    .. math::
        m_i \leftarrow \beta_1 m_i + (1 - \beta_1) g_i, \quad v_i \leftarrow \beta_2 v_i + (1 - \beta_2) g_i^2, \quad
        z_i \leftarrow z_i - \eta\, \frac{m_i / (1 - \beta_1^{t_i})}{\sqrt{v_i / (1 - \beta_2^{t_i})} + \epsilon}

    Every cell is visited once per epoch, so stepping its row at once gives the trajectory of the published schedule,
    which collects gradients over the epoch and steps the whole table at its end (Schuster & Krogh 2023,
    Algorithm 1). :class:`torch.optim.SparseAdam` would not: its step count is that of the table. Rows that are not
    in the minibatch never move.

    Parameters
    ----------
    table
        Tensor of shape ``(n, d)``, changed in place.
    lr
        Learning rate :math:`\eta`.
    betas
        Decay of the moments.
    eps
        :math:`\epsilon`.
    weight_decay
        L2 penalty added to the gradient; the released code puts 1e-4 on representations.
    """

    def __init__(
        self,
        table: torch.Tensor,
        lr: float = 2e-2,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        self.table, self.lr, self.betas, self.eps, self.weight_decay = table, lr, betas, eps, weight_decay
        # side by side, so that a minibatch is one look-up: moments and number of steps of a row
        self._state = torch.zeros(len(table), 2 * table.shape[1] + 1, dtype=table.dtype, device=table.device)
        self.first_moment, self.second_moment, self.steps = self._parts(self._state)

    @torch.no_grad()
    def step(self, rows: torch.Tensor, gradient: torch.Tensor) -> None:
        """Step `rows` ``(b,)``, each at most once, down `gradient` ``(b, d)``."""
        beta1, beta2 = self.betas
        z, state = self.table[rows], self._state[rows]
        m, v, t = self._parts(state)
        g = gradient.add(z, alpha=self.weight_decay) if self.weight_decay else gradient
        m.mul_(beta1).add_(g, alpha=1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        t.add_(1)
        self._state[rows] = state
        unbiased_m, unbiased_v = m / _one_minus_power(beta1, t), v / _one_minus_power(beta2, t)
        self.table[rows] = z.addcdiv_(unbiased_m, unbiased_v.sqrt_().add_(self.eps), value=-self.lr)

    def _parts(self, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Moments, each ``(..., d)``, and steps ``(..., 1)`` of rows, which are views."""
        n_latent = self.table.shape[1]
        return state.split([n_latent, n_latent, 1], dim=-1)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Moments ``(n, d)`` and step counts ``(n, 1)``, not copied."""
        return {"first_moment": self.first_moment, "second_moment": self.second_moment, "steps": self.steps}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Take over moments and step counts of another table of the same shape.

        Raises
        ------
        ValueError
            If the shapes differ.
        """
        for name, value in self.state_dict().items():
            if state[name].shape != value.shape:
                msg = f"`{name}` has shape {tuple(state[name].shape)}, but this table needs {tuple(value.shape)}."
                raise ValueError(msg)
        for name, value in self.state_dict().items():
            value.copy_(state[name])


def _one_minus_power(beta: float, t: torch.Tensor) -> torch.Tensor | float:
    """Compute ``1 - beta**t`` to full precision for `beta` close to one."""
    return -torch.expm1(t * math.log(beta)) if beta > 0 else 1.0
