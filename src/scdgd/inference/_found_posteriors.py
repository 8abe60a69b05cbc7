"""Posteriors of cells that lack genes, in models with an encoder of all genes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from scvi import REGISTRY_KEYS

from scdgd._compat import MODULE_KEYS
from scdgd._constants import MEASURED_KEY
from scdgd.data import as_sparse_counts
from scdgd.module._absent_genes import FOUND_MEAN_KEY, FOUND_SCALE_KEY

from ._encoder_posterior import SCORING, DecodedDensity, fisher_scoring
from ._joint_density import frozen, owned
from ._seeding import undisturbed

if TYPE_CHECKING:
    from scdgd.module import FlexVAE

#: A mode that hardly depends on where the search starts.
_FINE = SCORING._replace(max_steps=20, tolerance=0.01)


def with_found_posteriors(module: FlexVAE, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    r"""A minibatch with Gaussian posteriors of its cells that lack genes, by gradients instead of an encoder.

    .. math::
        q(z) = \mathcal N\big(z^*, \operatorname{diag} H^{-1}\big), \qquad
        z^* = \arg\max_z\, \log p(x_M \mid z) + \log p(z)

    with the measured genes :math:`M` of a cell and the curvature :math:`H` of :func:`encoder_samples`. An encoder that has
    seen all genes does not know how little a few of them tell; what it says of filled counts is where damped Fisher scoring
    starts. A latent size is held at its mean under the encoder.

    Parameters
    ----------
    module
        The module, left as it is.
    tensors
        Minibatch as the data loader gives it, ``b`` cells.

    Returns
    -------
    The minibatch itself if all genes of all cells were measured, or it keeps moments; else with means and standard deviations ``(b, d)``, NaN
    for cells with all genes, which the module takes in the place of those of its encoder.
    """
    measured = tensors.get(MEASURED_KEY)
    if measured is None or REGISTRY_KEYS.LATENT_QZM_KEY in tensors:
        return tensors
    lacking = (~measured.all(1)).nonzero().ravel()
    if len(lacking) == 0:
        return tensors
    mean, scale = _found(module, {key: value[lacking] for key, value in tensors.items()})
    nothing = mean.new_full((len(measured), mean.shape[1]), torch.nan)
    of_cells = {
        key: nothing.index_copy(0, lacking.to(mean.device), value)
        for key, value in ((FOUND_MEAN_KEY, mean), (FOUND_SCALE_KEY, scale))
    }
    return tensors | of_cells


def _found(module: FlexVAE, tensors: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Means and standard deviations ``(b, d)`` of the posteriors of a minibatch."""
    with frozen(module), undisturbed():
        tensors = owned(module, tensors)
        outputs = module.inference(**module._get_inference_input(tensors, full_forward_pass=True))
        first, ql = outputs[MODULE_KEYS.QZ_KEY], outputs[MODULE_KEYS.QL_KEY]
        log_size = module.log_size(tensors) if ql is None else ql.loc
        decode = lambda z: module.decode(module.transformed(z), log_size, tensors)
        x = as_sparse_counts(tensors[REGISTRY_KEYS.X_KEY]).to_dense()
        density = DecodedDensity(decode, x, module.given_prior().log_prob, tensors[MEASURED_KEY], takes_draws=True)
        posterior = fisher_scoring(density, first.loc.clone(), first.scale, _FINE)
    return posterior.mode, posterior.variance.sqrt()
