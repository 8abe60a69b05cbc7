"""Grey values between zero and one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import logsigmoid

from ._bernoulli import Bernoulli

if TYPE_CHECKING:
    from scdgd.data import SparseCounts


class CrossEntropy(Bernoulli):
    r"""Values from zero to one, such as grey values of pixels, scored by the binary cross-entropy.

    .. math::
        \ell(x) = x\, o - \log(1 + e^o) = x \log p + (1 - x) \log(1 - p), \qquad p = \sigma(o)

    This is the score of the image models of Schuster & Krogh 2023: the expected log probability of a :class:`Bernoulli` whose
    ones are drawn with the grey values. It is a density of zeros and ones, not of what lies between (Loaiza-Ganem & Cunningham
    2019), so that draws are zeros and ones; what is shown of a model are means.

    Parameters
    ----------
    logits
        Decoder output :math:`o`, shape ``(..., b, g)``.
    """

    takes_fractions = True
    values_are = "values from 0 to 1"
    remedy = "Divide by the largest that is possible, such as 255: `adata.X = adata.X / 255`, and set up with `is_count_data=False`."

    @staticmethod
    def _check(values: SparseCounts) -> None:
        outside = values.values[(values.values < 0) | (values.values > 1)]
        if len(outside):
            msg = f"Values of a cross-entropy lie between 0 and 1, got {float(outside[0]):g}. {CrossEntropy.remedy}"
            raise ValueError(msg)

    @staticmethod
    def _of_entries(x: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return x * logits + logsigmoid(-logits)
