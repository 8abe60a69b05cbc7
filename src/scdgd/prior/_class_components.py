"""Components that belong to classes: labels restrict which components a cell can come from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from scdgd._options import check_positive_integers

#: Code of a cell without a label, and of a component that belongs to no class.
NOBODY = -1


class ClassComponents(nn.Module):
    r"""Which components of a mixture belong to which class.

    A class ``y`` owns a block :math:`\mathcal C_y` of components, and the label of a cell restricts it to these
    (Schuster & Krogh 2023):

    .. math::
        \log p(z, y) = \log \sum_{c \in \mathcal C_y} w_c\, p_c(z), \qquad
        \log p(z) = \log \sum_c w_c\, p_c(z) \ \text{without a label}, \qquad
        r_c \propto w_c\, p_c(z)\, [c \in \mathcal C_y]

    The density is that of representation *and* label, so that weights learn how frequent classes are, and
    :math:`\sum_y p(z, y) = p(z)` where each component has an owner. Components beyond the blocks belong to no class: no labelled cell
    is of them, and they are there for kinds of cells that no label names.

    Parameters
    ----------
    n_classes
        Number of classes ``C``.
    n_components
        Number of components ``k``.
    per_class
        Number of components in each block.

    Raises
    ------
    ValueError
        If a number is smaller than 1, or there are fewer components than the blocks need.

    Attributes
    ----------
    owner
        Class of each component, ``(k,)``, int64; -1 for no class.

    Examples
    --------
    >>> ClassComponents(2, 5, per_class=2).owner.tolist()
    [0, 0, 1, 1, -1]
    """

    owner: torch.Tensor

    def __init__(self, n_classes: int, n_components: int, per_class: int = 1) -> None:
        super().__init__()
        check_positive_integers(n_classes=n_classes, n_components=n_components, per_class=per_class)
        n_owned = n_classes * per_class
        if n_owned > n_components:
            msg = f"{n_classes} classes of {per_class} components need {n_owned} components, got {n_components}."
            raise ValueError(msg)
        self.n_classes, self.per_class = n_classes, per_class
        owner = torch.full((n_components,), NOBODY)
        owner[:n_owned] = torch.arange(n_classes).repeat_interleave(per_class)
        self.register_buffer("owner", owner)

    def keep(self, classes: Sequence[int] | torch.Tensor) -> None:
        """Keep the components of these classes; those of all others belong to no class until they are kept again."""
        whole = type(self)(self.n_classes, len(self.owner), self.per_class).owner.to(self.owner.device)
        kept = torch.as_tensor(classes, device=whole.device, dtype=whole.dtype)
        self.owner.copy_(torch.where(torch.isin(whole, kept), whole, NOBODY))

    def components_of(self, code: int) -> torch.Tensor:
        """Components of a class, or those that belong to no class for the code -1."""
        return (self.owner == code).nonzero().ravel()

    def allowed(self, classes: torch.Tensor) -> torch.Tensor:
        """Components that cells of codes ``(...)`` may be of, a mask ``(..., k)``: all, if a code is -1 or owns none."""
        own = self.owner == classes.unsqueeze(-1)
        is_free = (classes < 0).unsqueeze(-1) | ~own.any(-1, keepdim=True)
        return own | is_free

    def restricted(self, log_joint: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Log joint densities ``(..., k)`` of cells of codes ``(...)``: minus infinity where a component is not theirs."""
        return log_joint.masked_fill(~self.allowed(classes), -torch.inf)

    def probabilities(self, responsibilities: torch.Tensor) -> torch.Tensor:
        r"""Sums :math:`\sum_{c \in \mathcal C_y} r_c` of ``(..., k)``, shape ``(..., C + 1)``; the last is that of no class."""
        columns = torch.where(self.owner < 0, self.n_classes, self.owner)
        total = responsibilities.new_zeros(*responsibilities.shape[:-1], self.n_classes + 1)
        return total.index_add(-1, columns, responsibilities)
