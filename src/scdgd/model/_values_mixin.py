"""What differs where a model is one of values that are not counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scvi import REGISTRY_KEYS

from scdgd._compat import get_state_registry
from scdgd.data import CountsField
from scdgd.likelihood import VALUE_LIKELIHOODS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pandas as pd
    from anndata import AnnData


class ValuesMixin:
    """Downstream methods of models with a Bernoulli or a Gaussian likelihood, whose values have no library size."""

    def get_normalized_expression(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        transform_batch: Sequence[float | str] | None = None,
        gene_list: Sequence[str] | None = None,
        library_size: float | str = 1,
        *args,
        **kwargs,
    ) -> np.ndarray | pd.DataFrame:
        """As in scvi-tools; where values are not counts, their expected values.

        Parameters
        ----------
        adata, indices, transform_batch, gene_list, *args, **kwargs
            As in scvi-tools.
        library_size
            Total that profiles are scaled to, or ``"latent"`` for expected counts. Values that are not counts have none.

        Raises
        ------
        ValueError
            If a library size is given where values are not counts.
        """
        if self._has_sizes:
            return super().get_normalized_expression(
                adata, indices, transform_batch, gene_list, library_size, *args, **kwargs
            )
        if library_size not in (1, "latent"):
            msg = f"`library_size={library_size!r}` is for counts, and `gene_likelihood` is of other values. Leave it out."
            raise ValueError(msg)
        return super().get_normalized_expression(adata, indices, transform_batch, gene_list, "latent", *args, **kwargs)

    def differential_expression(self, *args, **kwargs) -> pd.DataFrame:
        """As in scvi-tools; not for Gaussian values, of which fold changes are no ratios.

        Raises
        ------
        NotImplementedError
            If values are Gaussian and not counts.
        """
        if not self._has_sizes and self.module.gene_likelihood == "normal":
            msg = (
                "Fold changes are ratios of shares, which values on a logarithmic scale do not have. Compare "
                "`get_normalized_expression()` of two groups by differences, or model the counts."
            )
            raise NotImplementedError(msg)
        return super().differential_expression(*args, **kwargs)

    @property
    def _has_sizes(self) -> bool:
        module = self.module
        if module.gene_likelihood not in VALUE_LIKELIHOODS:
            return True
        return getattr(module, "mean_activation", "identity") != "identity"


def holds_counts(registry: dict) -> bool:
    """Whether the values of a registry are counts."""
    return get_state_registry(registry, REGISTRY_KEYS.X_KEY).get(CountsField.HOLDS_COUNTS_KEY, True)


def check_values(registry: dict, gene_likelihood: str) -> None:
    """Raise ValueError unless a likelihood is one of the values of a registry."""
    if not holds_counts(registry) and gene_likelihood != "normal":
        msg = (
            f"`gene_likelihood={gene_likelihood!r}` is for counts, but the data were set up with `is_count_data=False`. "
            "Choose 'normal', or set up with raw counts."
        )
        raise ValueError(msg)
    largest = get_state_registry(registry, REGISTRY_KEYS.X_KEY).get(CountsField.LARGEST_KEY, 1)
    if gene_likelihood == "bernoulli" and largest > 1:
        msg = (
            f"`gene_likelihood='bernoulli'` is for values 0 and 1, but the largest is {largest:g}. Binarise them: "
            "`adata.layers['binary'] = (adata.X > 0).astype('float32')`, and set up with `layer='binary'`."
        )
        raise ValueError(msg)
