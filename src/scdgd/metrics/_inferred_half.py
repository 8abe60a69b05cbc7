"""What a model knows of cells of whose counts it has seen one half."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from scvi import REGISTRY_KEYS

from scdgd._compat import MODULE_KEYS
from scdgd._constants import MEASURED_KEY
from scdgd.data import as_sparse_counts
from scdgd.inference import encoder_samples, latent_module, posterior_samples
from scdgd.inference._stock_module import knows_prior

from ._count_splitting import conditional_of_other_half

if TYPE_CHECKING:
    from scvi.module.base import BaseModuleClass
    from torch.distributions import Distribution

    from scdgd.likelihood import CountLikelihood


class InferredHalf:
    r"""Minibatch of ``b`` cells, of whose counts the module sees :math:`x^{\mathrm{tr}}`.

    The module is in evaluation mode; `tensors` are a minibatch of the inferred halves, as the data loader gives it, with a
    share `epsilon` of the counts.
    """

    def __init__(self, module: BaseModuleClass, tensors: dict[str, torch.Tensor], epsilon: float) -> None:
        self.module, self.epsilon, self.latent = module, epsilon, latent_module(module)
        self.tensors = {key: value.to(module.device) for key, value in tensors.items()}
        self.x = as_sparse_counts(self.tensors[REGISTRY_KEYS.X_KEY])
        self.measured = self.tensors.get(MEASURED_KEY)
        self.outputs = module.inference(**module._get_inference_input(self.tensors))

    def __len__(self) -> int:
        return len(self.x)

    def posterior_mean(self) -> torch.Tensor:
        """Representations ``(b, d)`` that are plugged in: of the table, or the mean of the encoder's normal.

        TypeError if representations are binary.
        """
        qz = self.outputs.get(MODULE_KEYS.QZ_KEY)
        if qz is not None and not hasattr(qz, "loc"):
            msg = (
                f"Representations of a {type(self.module).__name__} are {type(qz).__name__} variables, whose means nothing decodes "
                "into counts. Models with continuous representations can be scored by held-out counts."
            )
            raise TypeError(msg)
        return self.outputs[MODULE_KEYS.Z_KEY] if qz is None else qz.loc

    def decode(self, z: torch.Tensor) -> Distribution | CountLikelihood:
        r"""Law of the half that is seen, with the mean :math:`\epsilon\mu`, at representations ``(b, d)``.

        Size factors are those of this half. Encoders' representations are taken before scvi-tools' transformation to the
        simplex, which its models with ``latent_distribution="ln"`` make.
        """
        outputs = {**self.outputs, MODULE_KEYS.Z_KEY: self.latent.transformed(z)}
        inputs = self.module._get_generative_input(self.tensors, outputs)
        return self.module.generative(**inputs)[MODULE_KEYS.PX_KEY]

    def decode_other(self, z: torch.Tensor) -> CountLikelihood:
        """Law of the half that is not seen, given the one that is, at representations ``(b, d)``."""
        other = conditional_of_other_half(self.decode(z), self.x.to_dense(), self.epsilon)
        return other.measuring(self.measured)

    def weighted_draws(self, n_samples: int) -> tuple[torch.Tensor, torch.Tensor]:
        r"""Draws of the posterior given the half that is seen.

        .. math::
            z_s \sim q(z \mid x^{\mathrm{tr}}), \qquad
            w_s \propto \frac{p(x^{\mathrm{tr}} \mid z_s)\, p(z_s)}{q(z_s \mid x^{\mathrm{tr}})}

        With a table, `q` surrounds the refined Laplace approximation (:func:`scdgd.inference.posterior_samples`) and `p`
        is the model's own prior; with an encoder, see :func:`scdgd.inference.encoder_samples`.
        There are `n_samples` draws ``(s, b, d)`` of each cell, rounded up to an even number, with logs of the weights up to
        a constant of each cell, ``(s, b)``.

        Raises
        ------
        TypeError
            If the prior and posterior of the module are not known here.
        """
        if not knows_prior(self.module):
            msg = f"The posterior of a {type(self.module).__name__} is not known here; score it with `form='plug_in'`."
            raise TypeError(msg)
        if self.latent.keeps_rows:
            rows = self.module.representations(self.tensors[REGISTRY_KEYS.INDICES_KEY].ravel())
            samples = posterior_samples(self.module, self.tensors, rows, n_samples)
            return samples.z, samples.log_weights
        with torch.inference_mode(False), torch.no_grad():
            log_prior = self.latent.given_prior().log_prob
        qz, x = self.outputs[MODULE_KEYS.QZ_KEY], self.x.to_dense()
        samples = encoder_samples(self.module, self.decode, x, qz, n_samples, log_prior, self.measured)
        return samples.z, samples.log_weights
