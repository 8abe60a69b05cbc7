"""Representations for given parameters, and cells drawn from them."""

from scdgd._lazy import names_from

from ._cell_sampler import CellSampler, SyntheticCells
from ._encoder_posterior import encoder_samples, log_standard_normal
from ._found_posteriors import with_found_posteriors
from ._gauss_newton import GaussNewtonConfig, MAPEstimate, gauss_newton
from ._growing_csr import GrowingCSR
from ._importance import ImportanceSamples, importance_samples, log_prob_of_pairs
from ._information_coordinates import InformationCoordinates
from ._joint_density import fisher_information, information_of_modalities
from ._laplace import LaplacePosterior, laplace_posterior
from ._laplace_term import LaplaceTerm, laplace_term
from ._library import LogNormalLibrary
from ._mean_information import mean_information
from ._neighbors import Neighbors, nearest
from ._new_cells import NEW_CELLS as NEW_CELLS  # rules, no part of the interface
from ._new_cells import NewCellsConfig, place_new_cells
from ._new_levels import NewLevelsConfig, fit_levels
from ._noise_baseline import noise_baseline
from ._novelty import NoveltyReference, ReadCells, shares_above
from ._pareto import pareto_shape
from ._population_monte_carlo import MAX_PARETO_K as MAX_PARETO_K  # rules, no part of the interface
from ._population_monte_carlo import N_ROUNDS as N_ROUNDS
from ._population_monte_carlo import MendedSamples, mended
from ._posterior import mended_samples, posterior_draws, posterior_samples
from ._refinement import refined
from ._registered_sampler import Library
from ._seeding import seeded, undisturbed
from ._start_of_search import StartName
from ._starts import best_component_means
from ._stock_module import latent_module
from ._temperature import fit_temperature, tempered
from ._variational import place_variational

__all__ = [
    "fit_temperature",
    "tempered",
    "encoder_samples",
    "place_variational",
    "nearest",
    "noise_baseline",
    "posterior_draws",
    "posterior_samples",
    "mended",
    "mended_samples",
    "MendedSamples",
    "refined",
    "pareto_shape",
    "laplace_posterior",
    "LaplacePosterior",
    "LaplaceTerm",
    "laplace_term",
    "latent_module",
    "log_prob_of_pairs",
    "log_standard_normal",
    "importance_samples",
    "ImportanceSamples",
    "CellSampler",
    "GaussNewtonConfig",
    "GrowingCSR",
    "InformationCoordinates",
    "Library",
    "LogNormalLibrary",
    "MAPEstimate",
    "Neighbors",
    "NewCellsConfig",
    "NewLevelsConfig",
    "NoveltyReference",
    "ReadCells",
    "SyntheticCells",
    "StartName",
    "best_component_means",
    "fisher_information",
    "fit_levels",
    "gauss_newton",
    "information_of_modalities",
    "mean_information",
    "place_new_cells",
    "seeded",
    "shares_above",
    "undisturbed",
    "with_found_posteriors",
]

#: Of the Boltzmann machine, which stands on this package.
__getattr__ = names_from(
    "scdgd.boltzmann", __name__, ("BoltzmannSampler", "GibbsCells", "draw_exactly", "run_chains", "split_rhat")
)
