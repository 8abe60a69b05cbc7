"""Priors whose components are encoded pseudo-inputs."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self

import torch

from ._base import Prior
from ._component_mixture import ComponentMixture

if TYPE_CHECKING:
    from ._pseudo_inputs import Encode, PseudoInputs


class EncodedPrior(Prior):
    r"""A prior with components at :math:`q_\psi(z \mid u_c) = \mathcal N(\nu_c, S_c)`, diagonal or not.

    It holds the pseudo-inputs :math:`u_c` but not the encoder, so densities exist for an encoder only:
    :meth:`encoded_by` encodes all pseudo-inputs once and returns a prior to evaluate.

    Parameters
    ----------
    pseudo_inputs
        Encoder inputs, one for each component.
    n_latent
        Dimension ``d`` of the representations.
    """

    needs_encoder: ClassVar[bool] = True

    def __init__(self, pseudo_inputs: PseudoInputs, n_latent: int) -> None:
        super().__init__(pseudo_inputs.n_components, n_latent)
        self.pseudo_inputs = pseudo_inputs

    @classmethod
    def make(cls, n_components: int, n_latent: int, pseudo_inputs: PseudoInputs | None = None, **options: Any) -> Self:
        """As for any prior; there are as many components as pseudo-inputs."""
        return cls(pseudo_inputs, n_latent, **options)

    @property
    def is_placed(self) -> bool:
        """Whether pseudo-inputs are cells; :meth:`PseudoInputs.place` puts them in."""
        return bool(self.pseudo_inputs.placed)

    def encoded_by(self, encode: Encode | None = None) -> ComponentMixture:
        """The mixture for the encoder as it is now.

        Gradients flow to all parameters of this prior and, through `encode`, into the encoder; dropout and batch
        statistics belong switched off in it.

        Parameters
        ----------
        encode
            Mean and variance, each of shape ``(k, d)``, or covariance ``(k, d, d)``, of the encoder's ``q`` for an
            :class:`EncoderInput`.

        Raises
        ------
        ValueError
            If there is no `encode`, or its results have another shape.
        """
        if encode is None:
            msg = f"The components of a {type(self).__name__} are encoded: call `encoded_by(encode)` with the encoder."
            raise ValueError(msg)
        mean, var = encode(self.pseudo_inputs())
        expected = (self.n_components, self.n_latent)
        if mean.shape != expected or var.shape not in (expected, (*expected, self.n_latent)):
            msg = (
                f"Encoded means and variances must have shape {expected}, got {tuple(mean.shape)}, {tuple(var.shape)}."
            )
            raise ValueError(msg)
        return self._encoded(mean, var)

    @abstractmethod
    def _encoded(self, mean: torch.Tensor, var: torch.Tensor) -> ComponentMixture:
        """The mixture for encoded pseudo-inputs, moments of shape ``(k, d)``, or covariances ``(k, d, d)``."""

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        name = type(self).__name__
        msg = (
            f"The components of a {name} are encoded pseudo-inputs: call `encoded_by(encode)` first and ask its result."
        )
        raise RuntimeError(msg)

    component_means = property(_refuse)
    precisions = property(_refuse)
    _component_log_prob = _refuse
    _sample_components = _refuse
