"""A network of the user's in the place of hidden layers."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Activations with kinks, by which second-order inference of representations stumbles.
_KINKED = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ReLU6, nn.Hardtanh, nn.Threshold, nn.MaxPool2d)


class OwnNetwork(nn.Module):
    r"""Any module from rows ``(b, n_in)`` to rows ``(b, n_out)``, with covariates, called as scvi-tools' layers are.

    The network reads `n_in` inputs followed by the one-hot codes of categorical covariates, and need not know of either.
    Leading dimensions of the input are folded into rows, since convolutions take no others.

    Parameters
    ----------
    network
        A module, which is copied; or a class of modules, called with the numbers of inputs and outputs, or of inputs alone if
        `n_out` is ``None``.
    n_in
        Number of inputs, without categorical covariates.
    n_out
        Number of outputs; ``None`` for as many as the network gives.
    n_cat_list
        Number of categories of each categorical covariate; one with a single category is ignored.
    name
        By which the user knows it.

    Raises
    ------
    ValueError
        If it does not take such rows, or gives others.
    """

    def __init__(
        self,
        network: nn.Module | type[nn.Module],
        n_in: int,
        n_out: int | None = None,
        n_cat_list: Sequence[int] = (),
        *,
        name: str = "decoder",
    ) -> None:
        super().__init__()
        self.n_cat_list = [n if n > 1 else 0 for n in n_cat_list]
        self.n_in = n_in + sum(self.n_cat_list)
        sizes = (self.n_in,) if n_out is None else (self.n_in, n_out)
        made = network(*sizes) if isinstance(network, type) else copy.deepcopy(network)
        self.network = made.to("cpu", torch.float32)
        self.n_out = self._checked(n_out, name)

    @property
    def has_kinks(self) -> bool:
        """Whether it has activations whose slope jumps."""
        return any(isinstance(part, _KINKED) for part in self.network.modules())

    def _checked(self, n_out: int | None, name: str) -> int:
        """Number of outputs of two rows of zeros; ValueError if they are not as many as wanted."""
        kind = type(self.network).__name__
        try:
            with evaluation_of(self.network), torch.no_grad():
                out = self.network(torch.zeros(2, self.n_in))
        except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            covariates = (
                f", of which {sum(self.n_cat_list)} are one-hot codes of covariates" if any(self.n_cat_list) else ""
            )
            msg = f"`{name}={kind}` does not take rows of {self.n_in} inputs{covariates}: {error}"
            raise ValueError(msg) from error
        has_rows = torch.is_tensor(out) and out.ndim == 2 and len(out) == 2
        if not has_rows or (n_out is not None and out.shape[1] != n_out):
            found = tuple(out.shape) if torch.is_tensor(out) else type(out).__name__
            msg = f"`{name}={kind}` must make rows {(2, n_out or 'any number')} of rows {(2, self.n_in)}, and gave {found}."
            raise ValueError(msg)
        return out.shape[1]

    def forward(self, x: torch.Tensor, *codes: torch.Tensor) -> torch.Tensor:
        """Rows ``(..., b, n_out)`` of inputs ``(..., b, n)`` and codes ``(b, 1)``, or weights ``(b, n_categories)``."""
        x = self.inputs(x, *codes)
        return self.network(x.flatten(0, -2)).unflatten(0, x.shape[:-1])

    def inputs(self, x: torch.Tensor, *codes: torch.Tensor) -> torch.Tensor:
        """What the network reads, ``(..., b, n_in)``."""
        parts = [x]
        for n, code in zip(self.n_cat_list, codes, strict=False):
            if n > 0:
                weights = code if code.shape[-1] == n and n > 1 else functional.one_hot(code.long().squeeze(-1), n)
                parts.append(weights.to(x).expand(*x.shape[:-1], -1))
        return torch.cat(parts, dim=-1) if len(parts) > 1 else x


@contextmanager
def evaluation_of(network: nn.Module) -> Iterator[None]:
    """No dropout, moving statistics; then the mode that each part was in."""
    modes = {part: part.training for part in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
