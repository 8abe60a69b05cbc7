"""Processes that train one model together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

#: Lightning's name of :class:`JointStrategy`; scvi-tools takes whatever has "ddp" in its name for its own sampler.
JOINT = "joint"


class LostProcessError(RuntimeError):
    """A process of several that train together has ended."""


class JointStrategy(DDPStrategy):
    """Lightning's processes and their communication, without the wrapper that broadcasts buffers and averages gradients.

    Gradients here are of sums over cells, so they are added up, not averaged, and a process may have no cells in a minibatch;
    a table of representations differs between processes.
    """

    def configure_ddp(self) -> None:
        """Leave the module as it is: the plan adds up gradients itself."""


StrategyRegistry.register(JOINT, JointStrategy, description="DDP whose plan adds up gradients", override=True)


class Processes:
    """All that processes tell each other are sums.

    Parameters
    ----------
    rank, n
        Number of this process, from 0, and of all.
    device
        Where numbers must be to be sent.
    """

    def __init__(self, rank: int = 0, n: int = 1, device: torch.device | str = "cpu") -> None:
        self.rank, self.n, self.device = rank, n, torch.device(device)

    @classmethod
    def of(cls, trainer: Trainer) -> Processes:
        """Those of a trainer that has started."""
        return cls(trainer.global_rank, trainer.world_size, trainer.strategy.root_device)

    @classmethod
    def of_group(cls, device: torch.device) -> Processes:
        """All that have found each other."""
        return cls(dist.get_rank(), dist.get_world_size(), device) if dist.is_initialized() else cls(device=device)

    def bounds(self, n_rows: int, rank: int | None = None) -> tuple[int, int]:
        """First row that a process owns, and first of the next one's: parts of a table that differ by one row at most."""
        rank = self.rank if rank is None else rank
        return n_rows * rank // self.n, n_rows * (rank + 1) // self.n

    def sum(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        """Sums of tensors over all processes, in one message; the tensors themselves if there is one process.

        Raises
        ------
        LostProcessError
            If another process has ended.
        """
        if self.n == 1:
            return list(tensors)
        dtype = torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
        message = torch.cat([t.detach().to(self.device, dtype).flatten() for t in tensors])
        try:
            dist.all_reduce(message)
        except RuntimeError as error:
            msg = (
                f"Another of the {self.n} processes that train together has ended ({' '.join(str(error).split())[:200]}). What it "
                "said is above. The same call goes on from the last checkpoint, if there is a `checkpoint_dir`."
            )
            raise LostProcessError(msg) from error
        parts = message.split([t.numel() for t in tensors])
        return [part.view_as(t).to(t) for part, t in zip(parts, tensors, strict=True)]

    def is_any(self, flag: bool) -> bool:
        """Whether something is true in any process."""
        return flag if self.n == 1 else bool(self.sum(torch.tensor(float(flag)))[0] > 0)

    def share(self, module: torch.nn.Module) -> None:
        """Let all begin with the parameters and buffers of the first."""
        if self.n > 1:
            for value in module.state_dict(keep_vars=True).values():
                with torch.no_grad():
                    value.copy_(self.sum(value if self.rank == 0 else torch.zeros_like(value))[0])

    def separate_noise(self) -> None:
        """Draw other random numbers in each process from now on, which those of the first decide."""
        if self.n > 1:
            torch.manual_seed(self.of_first(int(torch.randint(2**31, ()))) + self.rank)

    def of_first(self, value: Any) -> Any:
        """What the first process has, in all; for small things."""
        values = [value]
        if self.n > 1:
            dist.broadcast_object_list(values, device=self.device)
        return values[0]

    def collected(self, n: int, positions: np.ndarray, values: torch.Tensor) -> torch.Tensor:
        """Values of `n` things ``(n, ...)``, of which this process has those at `positions`, shape ``(m, ...)``; each has others."""
        if self.n == 1 and np.array_equal(positions, np.arange(n)):
            return values
        whole = values.new_zeros(n, *values.shape[1:])
        whole[torch.as_tensor(positions, device=values.device)] = values
        return self.sum(whole)[0]
