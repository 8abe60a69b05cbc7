"""The deep Boltzmann machine of counts, all of it.

An undirected model has no representation with a prior and no decoder, so nearly all of it is its own: energies and their
conditionals (:class:`DeepBoltzmannMachine`, on a :class:`NegativeBinomialLayer` of counts), sums over hidden states and
annealed importance sampling for what cannot be summed, Gibbs chains and the sampler of cells, training stage by stage
(:class:`ContrastiveDivergencePlan`) and the model that users call, :class:`scdgd.model.SCDBM`.
"""

from ._annealed_importance import LogPartition, annealed_log_partition, without_weights
from ._calibration import calibrate_hidden
from ._conditions import Conditions
from ._contrastive_divergence_plan import ContrastiveDivergencePlan
from ._deep_machine import DeepBoltzmannMachine
from ._dispersion_scoring import fit_dispersion
from ._gibbs_chains import GibbsCells, draw_exactly, run_chains, split_rhat
from ._negative_binomial_layer import NegativeBinomialLayer
from ._restricted_machine import RestrictedBoltzmannMachine
from ._run import one_thread
from ._sampler import BoltzmannSampler
from ._scdbm import SCDBM as SCDBM  # its page is that of scdgd.model
from ._stages import BottomStage, ChainOptions, JointStage, UpperStage
from ._state_sums import MAX_ENUMERATED, all_states

__all__ = [
    "MAX_ENUMERATED",
    "BoltzmannSampler",
    "BottomStage",
    "ChainOptions",
    "Conditions",
    "ContrastiveDivergencePlan",
    "DeepBoltzmannMachine",
    "GibbsCells",
    "JointStage",
    "LogPartition",
    "NegativeBinomialLayer",
    "RestrictedBoltzmannMachine",
    "UpperStage",
    "all_states",
    "annealed_log_partition",
    "calibrate_hidden",
    "draw_exactly",
    "fit_dispersion",
    "one_thread",
    "run_chains",
    "split_rhat",
    "without_weights",
]
