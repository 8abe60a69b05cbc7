"""How training changes a prior: by gradients, by empirical Bayes, or by expectation maximisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch

if TYPE_CHECKING:
    from ._base import Prior

#: Of Adam; scvi-tools' 0.01 is of the size of the gradients of a prior.
PRIOR_EPS = 1e-8


class PriorUpdate:
    """What happens to a prior in training, beside what the loss of the networks does.

    Parameters
    ----------
    prior
        The prior.

    Attributes
    ----------
    name
        What options call it.
    by_gradient
        Whether the loss of the networks trains the prior, in an optimiser group of its own; else it is held in the loss.
    """

    name: ClassVar[str]
    by_gradient: ClassVar[bool] = False

    def __init__(self, prior: Prior) -> None:
        self.prior = prior

    def begin(self, lr: float) -> None:
        """Get ready for steps of rate `lr`, with parameters on their device and frozen or not."""

    @property
    def wants_draws(self) -> bool:
        """Whether :meth:`after_minibatch` has something to do."""
        return False

    def after_minibatch(
        self, encoded: Prior, z: torch.Tensor, lr: float, total: Callable[..., list[torch.Tensor]] | None = None
    ) -> None:
        """Step on draws from the posteriors of a minibatch.

        Parameters
        ----------
        encoded
            The prior for the encoder as it is now.
        z
            Draws, shape ``(b, d)``.
        lr
            Rate of the step.
        total
            Gives sums of tensors over processes, where each has a part of the minibatch; ``None`` if there is one.
        """

    def state_dict(self) -> dict[str, Any] | None:
        """What goes on from step to step beside the prior, not copied; from :meth:`begin` on."""
        return None

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Put back what :meth:`state_dict` gave."""

    def after_epoch(
        self,
        posteriors: Callable[[], tuple[torch.Tensor, torch.Tensor | float]],
        dirichlet_weight: Callable[[int], float] = lambda _: 1.0,
        given: torch.Tensor | None = None,
        total: Callable[..., list[torch.Tensor]] | None = None,
    ) -> None:
        """Step on the posteriors of all training cells.

        Parameters
        ----------
        posteriors
            Gives means ``(n, d)`` and variances, as :meth:`Prior.e_step` takes them.
        dirichlet_weight
            How often the prior of the weights is counted, given the number of cells.
        given
            What is known of each cell, as :meth:`Prior.e_step` takes it.
        total
            Gives sums of tensors over processes, where each has other cells; ``None`` if there is one.
        """


class GradientUpdate(PriorUpdate):
    """Steps on the loss of the networks, every minibatch, with their optimiser."""

    name = "gradient"
    by_gradient = True


class EMUpdate(PriorUpdate):
    """One step of expectation maximisation on the moments of all training cells, once an epoch (:meth:`Prior.m_step`)."""

    name = "em"

    def after_epoch(
        self,
        posteriors: Callable[[], tuple[torch.Tensor, torch.Tensor | float]],
        dirichlet_weight: Callable[[int], float] = lambda _: 1.0,
        given: torch.Tensor | None = None,
        total: Callable[..., list[torch.Tensor]] | None = None,
    ) -> None:
        """E- and M-step."""
        mean, var = posteriors()
        moments = self.prior.e_step(mean, posterior_var=var, given=given)
        if total is not None:
            moments = moments.summed(total)
        n_cells = len(mean) if total is None else moments.n_cells
        self.prior.m_step(moments, dirichlet_weight=dirichlet_weight(n_cells))


class EmpiricalBayesUpdate(PriorUpdate):
    r"""A step of its own after each step of the networks (Stirn & Knowles 2024, Algorithm 1).

    On one draw :math:`z_i \sim q(z \mid x_i)` for each cell of the minibatch, with responsibilities
    :math:`\bar r_{ic} \propto e^{l_{ic}}` of the prior's :meth:`~Prior.expected_component_log_prob` ``l``, Adam steps down

    .. math::
        L(\zeta) = -\frac1b \sum_{i, c} \bar r_{ic}\, l_{ic} - \frac1{b_0} \log p(\zeta)

    where gradients reach pseudo-inputs through the encoder, whose weights stay as they are.

    Parameters
    ----------
    prior
        The prior, with parameters :math:`\zeta`.
    prior_batch_size
        Number :math:`b_0` of cells that the prior of the parameters counts once for.
    detach_responsibilities
        Whether :math:`\bar r` is held. ``False`` lets gradients through, as the code of Stirn & Knowles does; the objective
        is then :math:`\log \sum_c e^{l_c}` less the entropy of :math:`\bar r`.
    """

    name = "empirical_bayes"

    def __init__(self, prior: Prior, *, prior_batch_size: float = 256, detach_responsibilities: bool = True) -> None:
        super().__init__(prior)
        self.prior_batch_size, self.detach_responsibilities = prior_batch_size, detach_responsibilities
        self.optimizer: torch.optim.Optimizer | None = None

    def begin(self, lr: float) -> None:
        """Make the optimiser of what is not frozen, if anything is not (that of a query model is)."""
        self.parameters = [p for p in self.prior.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=lr, eps=PRIOR_EPS) if self.parameters else None

    @property
    def wants_draws(self) -> bool:
        """Whether there is anything to train."""
        return self.optimizer is not None

    def state_dict(self) -> dict[str, Any] | None:
        """Moments of Adam."""
        return None if self.optimizer is None else self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Put back what :meth:`state_dict` gave."""
        if self.optimizer is not None:
            self.optimizer.load_state_dict(state)

    def after_minibatch(
        self, encoded: Prior, z: torch.Tensor, lr: float, total: Callable[..., list[torch.Tensor]] | None = None
    ) -> None:
        """E- and M-step."""
        log_joint = encoded.expected_component_log_prob(z)  # (b, k)
        responsibilities = torch.softmax(log_joint, dim=-1)
        if self.detach_responsibilities:
            responsibilities = responsibilities.detach()
        hyper = sum(encoded.hyper_log_prob().values())
        loss = -(responsibilities * log_joint).sum(-1).mean() - hyper / self.prior_batch_size
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)  # the networks get none
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        if total is not None:
            self._average(len(z), total)
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _average(self, n_cells: int, total: Callable[..., list[torch.Tensor]]) -> None:
        """Make the gradients, each a mean over the cells of a process, the mean over all cells."""
        stepped = [p for p in self.parameters if p.grad is not None]
        n, *sums = total(torch.tensor(float(n_cells)), *(n_cells * p.grad for p in stepped))
        for parameter, gradient in zip(stepped, sums, strict=True):
            parameter.grad = gradient / n.to(gradient)


#: Strategies by name.
UPDATES: dict[str, type[PriorUpdate]] = {kind.name: kind for kind in (GradientUpdate, EMUpdate, EmpiricalBayesUpdate)}
#: What can be done where the encoder, and so the posterior of every cell, changes with each minibatch.
WITH_ENCODER = ("empirical_bayes", "gradient")
#: What can be done where each cell has a row of its own.
WITH_ROWS = ("em", "gradient")


def update_of(prior: Prior, offered: tuple[str, ...], wanted: str | None = None) -> type[PriorUpdate]:
    """The strategy that trains a prior: the one `wanted`, or its own choice, among those `offered`, which can be carried out.

    ValueError if the prior cannot be trained in that way, or in none that is offered.
    """
    possible = [name for name in prior.updates if name in offered]
    if wanted is not None and wanted not in possible or not possible:
        msg = (
            f"A {type(prior).__name__} cannot be trained with `prior_update={wanted!r}` here: it takes {list(prior.updates)}, "
            f"this model {list(offered)}."
        )
        raise ValueError(msg)
    return UPDATES[wanted or possible[0]]
