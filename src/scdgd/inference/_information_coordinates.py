"""Coordinates of the latent space in which distances are information."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from typing import Self


@dataclass(frozen=True)
class InformationCoordinates:
    r"""A linear map of representations after which squared distances count what cells tell about them.

    .. math::
        y = A^\top z, \qquad A = V \operatorname{diag}(\sqrt\lambda), \qquad F = V \operatorname{diag}(\lambda) V^\top

    with the mean Fisher information ``F`` of the counts of a cell about its representation (:func:`mean_information`; the prior is
    no part of it). Between cells that are close, and on the average over cells,

    .. math::
        \lVert y - y' \rVert^2 = (z - z')^\top F (z - z') \approx
            2\, \mathrm{KL}\big(p(x \mid z) \,\Vert\, p(x \mid z')\big)

    so a squared distance is twice the expected log likelihood ratio of the two, in nats, and one unit is a standard error of the
    place of a cell. A dimension of ``z`` that changes no counts has no length, whatever its scale. Distances do not depend on how
    ``z`` is parametrised: for ``z' = Bz``, ``F' = B^{-T} F B^{-1}``. Axes do: they are the principal axes of ``F``, in
    units of ``z``, in which the prior has about unit scale.

    Parameters
    ----------
    axes
        Principal axes :math:`V`, one a column, shape ``(d, d)``.
    nats
        Information :math:`\lambda` along each, shape ``(d,)``, in descending order: half of it is the expected log likelihood
        ratio, in nats, between places that are one unit of ``z`` apart.

    Examples
    --------
    >>> coordinates = InformationCoordinates.of(np.diag([1.0, 100.0]))
    >>> coordinates.nats
    array([100.,   1.])
    >>> coordinates.to_information(np.array([[3.0, 2.0]]))
    array([[20.,  3.]])
    """

    axes: np.ndarray
    nats: np.ndarray

    @classmethod
    def of(cls, information: np.ndarray) -> Self:
        """Coordinates of an information matrix.

        The largest entry of each axis is positive. Information that is not more than rounding is none.

        Parameters
        ----------
        information
            Mean information ``F``, shape ``(d, d)``, symmetric and not negative.

        Raises
        ------
        ValueError
            If it is not square, or not finite.
        """
        information = np.asarray(information, dtype=np.float64)
        if information.ndim != 2 or len(set(information.shape)) != 1 or not np.isfinite(information).all():
            n_wrong = int((~np.isfinite(information)).sum())
            msg = f"`information` must be a square matrix of finite numbers, got shape {information.shape} with {n_wrong} not finite."
            raise ValueError(msg)
        nats, axes = np.linalg.eigh((information + information.T) / 2)
        nats, axes = nats[::-1], axes[:, ::-1]
        largest = axes[np.abs(axes).argmax(0), np.arange(len(axes))]
        rounding = len(nats) * np.finfo(np.float64).eps * nats[0]
        return cls(axes * np.where(largest < 0, -1.0, 1.0), np.where(nats > rounding, nats, 0.0))

    @classmethod
    def none(cls, n_latent: int) -> Self:
        """Representations as they are, where their information is not known."""
        return cls(np.eye(n_latent), np.ones(n_latent))

    @property
    def root(self) -> np.ndarray:
        """:math:`A`, a root of the information, :math:`F = AA^T`, shape ``(d, d)``."""
        return self.axes * np.sqrt(self.nats)

    def to_information(self, z: np.ndarray) -> np.ndarray:
        """Coordinates of information of representations, both of shape ``(..., d)``.

        Raises
        ------
        ValueError
            If representations have another number of dimensions.
        """
        return self._times(z, self.root)

    def to_latent(self, y: np.ndarray) -> np.ndarray:
        """Representations with these coordinates of information, both of shape ``(..., d)``; zero along axes without any.

        Raises
        ------
        ValueError
            If there is another number of coordinates.
        """
        inverse = np.divide(1.0, np.sqrt(self.nats), out=np.zeros_like(self.nats), where=self.nats > 0)
        return self._times(y, (self.axes * inverse).T)

    def covariances(self, covariance: np.ndarray) -> np.ndarray:
        """Covariances of representations in these coordinates, shape ``(n, d, d)``."""
        return self.root.T.astype(covariance.dtype) @ covariance @ self.root.astype(covariance.dtype)

    def variances(self, variance: np.ndarray) -> np.ndarray:
        """Variances in these coordinates of representations whose dimensions are independent, both of shape ``(n, d)``."""
        return self._times(variance, self.root**2)

    def to_dict(self) -> dict[str, np.ndarray]:
        """Plain arrays, for a file."""
        return asdict(self)

    def _times(self, values: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        """Rows times a matrix, in double, in their own type."""
        values = np.asarray(values)
        if values.shape[-1:] != self.nats.shape:
            msg = f"These coordinates are of {len(self.nats)} latent dimensions, but the last axis of shape {values.shape} is another."
            raise ValueError(msg)
        kept = values.dtype if np.issubdtype(values.dtype, np.floating) else np.float64
        return (values @ matrix).astype(kept, copy=False)
