"""Gibbs chains of a Boltzmann machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from ._conditions import Conditions


class GibbsSamplingMixin:
    """Gibbs chains over the hidden layers, and counts given their states."""

    @torch.no_grad()
    def sweep(
        self, hidden: list[torch.Tensor], given: Conditions, *, collapse: bool = True, fix_top: bool = False
    ) -> list[torch.Tensor]:
        r"""One Gibbs sweep of ``n`` chains over the hidden layers; leaves :math:`p(h)` invariant.

        Even layers are drawn given odd ones, then odd ones given even ones. Counts belong to the even layers. If they
        are drawn as well, a chain can hardly leave a state: a thousand counts tell which :math:`h^1` they came from. With
        `collapse` they are summed out, and the units of :math:`h^1` are drawn one after the other from

        .. math::
            \operatorname{logit} p(h^1_k = 1 \mid h^1_{-k}, h^2) = b^1_k + s c_k + (W^2 h^2)_k
            - s\sum_j \theta_j \log\frac{1 - e^{\hat a_j(h^1_k = 1)}}{1 - e^{\hat a_j(h^1_k = 0)}}

        Parameters
        ----------
        hidden
            States, shapes ``(n, H_l)``.
        given
            Conditions.
        collapse
            Whether counts are summed out.
        fix_top
            Whether the topmost layer keeps its state; the others are then drawn given it.

        Returns
        -------
        New states.
        """
        hidden, evidence = list(hidden), None
        moving = self.n_layers - fix_top
        if not collapse:
            v = self.visible.sample(self.natural(hidden[0], given), given.size)
            evidence = v @ self.weights[0]
        for layer in range(1, moving, 2):
            hidden[layer] = torch.bernoulli(torch.sigmoid(self.logits(layer, hidden, given)))
        for layer in range(0, moving, 2):
            logits = self.logits(layer, hidden, given, evidence)
            if layer == 0 and collapse:
                hidden[0] = self._draw_first(hidden[0], logits, given)
            else:
                hidden[layer] = torch.bernoulli(torch.sigmoid(logits))
        return hidden

    def _draw_first(self, first: torch.Tensor, logits: torch.Tensor, given: Conditions) -> torch.Tensor:
        """Units ``(n, H_1)`` in turn, given the log-odds ``(n, H_1)`` that counts have no part in."""
        first, weight = first.clone(), self.weights[0]
        shift = self.shift(first)
        current = self.visible.log_partition(self.visible.natural(shift, given.batch), given.size)
        for unit in range(self.n_hidden[0]):
            state = first[:, unit].clone()
            flipped_shift = shift + (1 - 2 * state).unsqueeze(1) * weight[:, unit]
            flipped = self.visible.log_partition(self.visible.natural(flipped_shift, given.batch), given.size)
            on_minus_off = torch.where(state == 1, current - flipped, flipped - current)
            first[:, unit] = torch.bernoulli(torch.sigmoid(logits[:, unit] + on_minus_off))
            changed = first[:, unit] != state
            shift = torch.where(changed.unsqueeze(1), flipped_shift, shift)
            current = torch.where(changed, flipped, current)
        return first

    @torch.no_grad()
    def random_hidden(self, n: int) -> list[torch.Tensor]:
        """States of ``n`` chains, each unit on with probability one half."""
        return [torch.bernoulli(bias.new_full((n, len(bias)), 0.5)) for bias in self.biases]

    @torch.no_grad()
    def sample_hidden(self, given: Conditions, n_steps: int, *, collapse: bool = True) -> list[torch.Tensor]:
        """States of ``n`` chains after `n_steps` sweeps, from random states."""
        hidden = self.random_hidden(len(given.size))
        for _ in range(n_steps):
            hidden = self.sweep(hidden, given, collapse=collapse)
        return hidden

    @torch.no_grad()
    def sample_counts(self, hidden: list[torch.Tensor], given: Conditions) -> torch.Tensor:
        """Counts given hidden states or probabilities, shape ``(n, g)``."""
        return self.visible.sample(self.natural(hidden[0], given), given.size)

    @torch.no_grad()
    def mean_counts_given(self, hidden: list[torch.Tensor], given: Conditions) -> torch.Tensor:
        """Mean counts given hidden states or probabilities, shape ``(n, g)``."""
        return self.visible.mean(self.natural(hidden[0], given), given.size)
