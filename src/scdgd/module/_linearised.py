"""A decoder linearised in the representation."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from scdgd.likelihood import Link


class Linearised(NamedTuple):
    r"""Linear predictors of ``m`` genes at ``b`` representations, :math:`\eta(z + \delta) \approx \eta(z) + J_\eta \delta`.

    With the Jacobian :math:`J_h` of the last hidden layer and the output weights :math:`W`,

    * softmax: :math:`J_\eta = (W - \mathbf 1 \bar W^\top) J_h`, where :math:`\bar W = \sum_j p_j W_j`
    * identity: :math:`J_\eta = W J_h`
    * otherwise: :math:`J_\eta = \operatorname{diag}(a'(o) / a(o))\, W J_h`

    Of a network without such a layer, :math:`W = I` and :math:`J_h` is the Jacobian of the outputs.
    """

    eta: torch.Tensor
    """Log of the softmax or of the other output activation, or the output: shape ``(b, m)``."""
    jacobian: torch.Tensor
    """Of the last hidden layer, transposed, shape ``(b, d, h)``."""
    output: torch.Tensor | None
    """Weights of the output layer, shape ``(m, h)``; ``None`` where what is before it are the outputs, ``h = m``."""
    centre: torch.Tensor | None
    r""":math:`J_h^\top \bar W` of a softmax, shape ``(b, d, 1)``."""
    log_slope: torch.Tensor | None
    """Of sigmoid and softplus, shape ``(b, m)``."""

    def rows(self, cells: slice) -> torch.Tensor:
        r""":math:`J_\eta^\top` of some cells, shape ``(block, d, m)``."""
        rows = self._weighted(self.jacobian[cells].flatten(0, 1)).unflatten(0, (-1, self.jacobian.shape[1]))
        if self.centre is not None:
            return rows.sub_(self.centre[cells])
        return rows if self.log_slope is None else rows.mul_(self.log_slope[cells].unsqueeze(1))

    def along(self, steps: torch.Tensor) -> torch.Tensor:
        r"""Change of the linear predictors with steps of the representations, :math:`J_\eta \delta`: ``(b, d)`` to ``(b, m)``."""
        change = self._weighted((steps.unsqueeze(1) @ self.jacobian).squeeze(1))
        if self.centre is not None:
            return change.sub_((steps.unsqueeze(1) @ self.centre).squeeze(1))
        return change if self.log_slope is None else change.mul_(self.log_slope)

    def back(self, change: torch.Tensor) -> torch.Tensor:
        r""":math:`J_\eta^\top` applied to a change of the linear predictors: ``(b, m)`` to ``(b, d)``."""
        if self.log_slope is not None:
            change = change * self.log_slope
        steps = self.jacobian @ (change if self.output is None else change @ self.output).unsqueeze(-1)
        if self.centre is not None:
            steps = steps - self.centre * change.sum(1)[:, None, None]
        return steps.squeeze(-1)

    def _weighted(self, hidden: torch.Tensor) -> torch.Tensor:
        """Last hidden layers ``(r, h)`` to outputs ``(r, m)``, a tensor of its own."""
        return hidden.clone() if self.output is None else hidden @ self.output.T

    def of_outputs(self, outputs: torch.Tensor) -> torch.Tensor:
        r"""Change of the linear predictors with the outputs, :math:`J_o`: ``(b, g)`` to ``(b, g)``, where all genes are decoded."""
        if self.centre is not None:
            return outputs - (self.eta.exp() * outputs).sum(1, keepdim=True)
        return outputs if self.log_slope is None else outputs * self.log_slope

    def to_outputs(self, change: torch.Tensor) -> torch.Tensor:
        r""":math:`J_o^\top` applied to a change of the linear predictors, ``(b, g)``, where all genes are decoded."""
        if self.centre is not None:
            return change - self.eta.exp() * change.sum(1, keepdim=True)
        return change if self.log_slope is None else change * self.log_slope

    def diagonal_in_outputs(self, weights: torch.Tensor) -> torch.Tensor:
        r"""Diagonal of :math:`J_o^\top \operatorname{diag}(w) J_o`, for weights ``(b, g)``: ``(b, g)``."""
        if self.centre is not None:
            share = self.eta.exp()
            return weights * (1 - 2 * share) + share.square() * weights.sum(1, keepdim=True)
        return weights if self.log_slope is None else weights * self.log_slope.square()


def linearised(
    hidden: Callable[[torch.Tensor], torch.Tensor],
    output: nn.Linear,
    link: Link,
    z: torch.Tensor,
    genes: torch.Tensor,
    gene_weights: torch.Tensor,
    further: Callable[[torch.Tensor], torch.Tensor] = lambda output: output,
) -> Linearised:
    """:meth:`Decoder.linearise` of last hidden layer, output layer, what is added to its outputs ``(b, m)``, and link."""
    h, jacobian = value_and_jacobian(hidden, z)  # (b, h), (b, d, h)
    weight = output.weight[genes]  # (m, h)
    o = further(torch.addmm(output.bias[genes], h, weight.T))  # (b, m)
    if not link.is_share:
        eta = link.log_profile(o)
        return Linearised(eta, jacobian, weight, None, link.log_slope(eta))
    eta = o - torch.logsumexp(o + gene_weights.log(), dim=1, keepdim=True)
    mean_output = (gene_weights * eta.exp()) @ weight  # (b, h)
    return Linearised(eta, jacobian, weight, jacobian @ mean_output.unsqueeze(-1), None)


def linearised_outputs(o: torch.Tensor, jacobian: torch.Tensor, link: Link, gene_weights: torch.Tensor) -> Linearised:
    """The same of outputs ``(b, m)`` and their Jacobian, transposed, ``(b, d, m)``."""
    if not link.is_share:
        eta = link.log_profile(o)
        return Linearised(eta, jacobian, None, None, link.log_slope(eta))
    eta = o - torch.logsumexp(o + gene_weights.log(), dim=1, keepdim=True)
    centre = jacobian @ (gene_weights * eta.exp()).unsqueeze(-1)
    return Linearised(eta, jacobian, None, centre, None)


def value_and_jacobian(
    function: Callable[[torch.Tensor], torch.Tensor], z: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """A function of each row, ``(b, d)`` to ``(b, h)``, and, by forward mode, its Jacobian, transposed: ``(b, d, h)``."""
    basis = torch.eye(z.shape[1], dtype=z.dtype, device=z.device).unsqueeze(1).expand(-1, *z.shape)  # (d, b, d)
    along = lambda direction: torch.func.jvp(function, (z,), (direction,))
    return torch.func.vmap(along, out_dims=(None, 1))(basis)
