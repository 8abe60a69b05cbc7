"""Variational posteriors of new cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ._joint_density import JointDensity, frozen, owned
from ._laplace import laplace_posterior
from ._row_adam import RowAdam
from ._start_of_search import STARTS, StartName

if TYPE_CHECKING:
    from scdgd.module import DGDModule

_N_DRAWS = 4
_LR = 0.03


def place_variational(
    module: DGDModule,
    tensors: dict[str, torch.Tensor],
    n_steps: int | None = None,
    lr: float | None = None,
    start: StartName = "components",
) -> torch.Tensor:
    r"""Rows :math:`(\nu, \log\varsigma)` of new cells that maximise the evidence lower bound, everything else frozen.

    They start at the Laplace approximation: its mode, and the variances :math:`1 / H_{ll}` of the best Gaussian with
    independent dimensions; Adam with a falling rate then follows the lower bound.

    Parameters
    ----------
    module
        The module, whose rows learn their variances; left as it is.
    tensors
        Minibatch as the data loader gives it, ``b`` cells.
    n_steps, lr
        Number and first rate of the steps of Adam, by default 40 and 0.03, and from an encoder none.
    start
        Where the mode is looked for, see :class:`NewCellsConfig`.

    Returns
    -------
    Shape ``(b, 2d)``.
    """
    kind = STARTS[start]
    n_steps, lr = kind.n_variational_steps if n_steps is None else n_steps, _LR if lr is None else lr
    with frozen(module):
        z = kind(module, owned(module, tensors), 1)[0]
    laplace = laplace_posterior(module, tensors, z)
    generator = torch.Generator(device=laplace.mode.device).manual_seed(0)
    with frozen(module):
        precision = (laplace.cholesky @ laplace.cholesky.mT).diagonal(dim1=-2, dim2=-1)
        rows = torch.cat([laplace.mode, -0.5 * precision.log()], dim=1)
        optimizer, every_row = RowAdam(rows, lr=lr), torch.arange(len(rows), device=rows.device)
        density = JointDensity(module, owned(module, tensors))
        for step in range(n_steps):
            optimizer.lr = lr * (1 - step / n_steps)
            gradient = torch.zeros_like(rows)
            for _ in range(_N_DRAWS // 2):
                mean, log_scale = rows.chunk(2, dim=1)
                # the same noise for all cells: no result depends on what else is in the minibatch
                noise = torch.randn(1, mean.shape[1], generator=generator, device=mean.device, dtype=mean.dtype)
                for antithetic in (noise, -noise):
                    deviation = log_scale.exp() * antithetic
                    _, d_z = density.value_and_gradient(mean + deviation)
                    # dz/d log_scale is the deviation; the entropy's derivative is one
                    gradient += torch.cat([d_z, d_z * deviation - 1], dim=1) / _N_DRAWS
            optimizer.step(every_row, gradient)
    return rows
