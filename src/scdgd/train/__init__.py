"""Training: plans, optimiser of representations, warm start, interruptions and checkpoints."""

from scdgd._lazy import names_from
from scdgd.inference._row_adam import RowAdam

from ._batch_balance import BatchBalance, BatchBalancer
from ._best_state import BestState
from ._checkpoint_folder import CheckpointFolder
from ._distillation import Distillation
from ._divergence import TrainingDivergedError, restored_if_it_diverges
from ._empirical_bayes_plan import EmpiricalBayesPlan
from ._gmvae_plan import GMVAEPlan
from ._information_balance import InformationBalance
from ._interruption import Interruption
from ._joint_batch_norm import joint_batch_norms
from ._laplace_plan import LaplacePlan
from ._plan_options import OF_TRAINING_PLAN as OF_TRAINING_PLAN  # rules, no part of the interface
from ._processes import JOINT, JointStrategy, LostProcessError, Processes
from ._representation_plan import RepresentationPlan
from ._shifted_mixture import ShiftedMixture
from ._start import PCAClusters, whitened_pca
from ._trainer import InterruptibleTrainer, InterruptibleTrainRunner
from ._training_checkpoints import TrainingCheckpoints, fingerprint, pack_history, read_checkpoint, unpack_history

__all__ = [
    "BatchBalance",
    "BatchBalancer",
    "BestState",
    "CheckpointFolder",
    "Distillation",
    "EmpiricalBayesPlan",
    "GMVAEPlan",
    "InformationBalance",
    "JOINT",
    "JointStrategy",
    "InterruptibleTrainRunner",
    "InterruptibleTrainer",
    "Interruption",
    "LaplacePlan",
    "LostProcessError",
    "PCAClusters",
    "Processes",
    "RepresentationPlan",
    "RowAdam",
    "ShiftedMixture",
    "TrainingCheckpoints",
    "TrainingDivergedError",
    "fingerprint",
    "joint_batch_norms",
    "pack_history",
    "read_checkpoint",
    "restored_if_it_diverges",
    "unpack_history",
    "whitened_pca",
]

#: Of the Boltzmann machine, which stands on this package.
__getattr__ = names_from(
    "scdgd.boltzmann",
    __name__,
    (
        "BottomStage",
        "ChainOptions",
        "ContrastiveDivergencePlan",
        "JointStage",
        "UpperStage",
        "calibrate_hidden",
        "one_thread",
    ),
)
