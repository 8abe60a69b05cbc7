"""Who steps when: training plan, optimiser of representations, warm start, interruptions and checkpoints."""

from scdgd.inference._row_adam import RowAdam

from ._best_state import BestState
from ._boltzmann_calibration import calibrate_hidden
from ._boltzmann_stages import BottomStage, ChainOptions, JointStage, UpperStage
from ._checkpoint_folder import CheckpointFolder
from ._contrastive_divergence_plan import ContrastiveDivergencePlan
from ._divergence import TrainingDivergedError, restored_if_it_diverges
from ._empirical_bayes_plan import EmpiricalBayesPlan
from ._gmvae_plan import GMVAEPlan
from ._interruption import Interruption, orderly_training
from ._laplace_plan import LaplacePlan
from ._one_thread import one_thread
from ._pca_clusters import PCAClusters
from ._plan_options import OF_TRAINING_PLAN as OF_TRAINING_PLAN  # rules, no part of the interface
from ._representation_plan import RepresentationPlan
from ._trainer import InterruptibleTrainer, InterruptibleTrainRunner
from ._training_checkpoints import TrainingCheckpoints, fingerprint, pack_history, read_checkpoint, unpack_history
from ._warm_start import whitened_pca

__all__ = [
    "BestState",
    "BottomStage",
    "ChainOptions",
    "CheckpointFolder",
    "ContrastiveDivergencePlan",
    "EmpiricalBayesPlan",
    "GMVAEPlan",
    "InterruptibleTrainRunner",
    "InterruptibleTrainer",
    "Interruption",
    "JointStage",
    "LaplacePlan",
    "PCAClusters",
    "RepresentationPlan",
    "RowAdam",
    "TrainingCheckpoints",
    "TrainingDivergedError",
    "UpperStage",
    "calibrate_hidden",
    "fingerprint",
    "one_thread",
    "orderly_training",
    "pack_history",
    "read_checkpoint",
    "restored_if_it_diverges",
    "unpack_history",
    "whitened_pca",
]
