"""The importance of each unit: features and weights -> signals -> measure -> running average per unit.

_training_forwards     which forwards count
_feature_recording     features recorded by forward pre-hooks, once for all readers
_tap_features          the features that one reader keeps until its next update
_feature_entries       which of these count, and which are the same
_recorded_taps         the taps of all groups, and their subscription to the hooks
_feature_buffer        the features of all taps: checked (_validation), and taken once per update as a _feature_batch
_resting_groups        the groups that an update does not measure
_backward_watch        optimizer steps that did not happen
_statistics, _signals  means of features and weights, which measures read; _gradient_signals: those of gradients
_measure_registry      the measures of utility (measures/), by name
_running_averages      running averages per unit; _shared_state: the tensors that all groups share
_evaluate/             how measures are computed: torch operations, C kernels
_replaced_by_others    units that an engine replaced after features of the next update were recorded
_across_processes      means over several processes
"""

from gnt._utils.running_backward import in_backward
from gnt.importance._across_processes import average_over_processes, check_shards
from gnt.importance._backward_watch import BackwardWatch, GroupWatches, step_was_skipped
from gnt.importance._evaluate.evaluator import ENGINE_UNCHANGED
from gnt.importance._evaluate.means_layout import WeightMeans
from gnt.importance._feature_batch import FeatureBatch, Features
from gnt.importance._feature_buffer import FeatureBuffer
from gnt.importance._feature_recording import is_recording_hook, record, record_compiled, recorders
from gnt.importance._gradient_scale import check_grad_scaler
from gnt.importance._gradient_signals import GRADIENT_SIGNALS
from gnt.importance._importance import Importance
from gnt.importance._measure_registry import (
    MEASURES,
    Measure,
    compute_measure,
    find_measure,
    register_utility,
    restore_generators_on_error,
)
from gnt.importance._running_averages import AgedAverages, RunningAverages, age_correction
from gnt.importance._running_importance import RunningImportance
from gnt.importance._shared_state import SharedState
from gnt.importance._signals import Signals
from gnt.importance._statistics import GroupStatistics, TapStatistics
from gnt.importance._tap_features import TapFeatures
from gnt.importance._training_forwards import OwnWeights, PastBackward
from gnt.importance._validation import check_feature, check_measured
from gnt.importance.attribution import ATTRIBUTIONS, attribute, check_attribution

__all__ = [
    "ATTRIBUTIONS",
    "ENGINE_UNCHANGED",
    "GRADIENT_SIGNALS",
    "MEASURES",
    "AgedAverages",
    "BackwardWatch",
    "FeatureBatch",
    "FeatureBuffer",
    "Features",
    "GroupStatistics",
    "GroupWatches",
    "Importance",
    "Measure",
    "OwnWeights",
    "PastBackward",
    "RunningAverages",
    "RunningImportance",
    "SharedState",
    "Signals",
    "TapFeatures",
    "TapStatistics",
    "WeightMeans",
    "age_correction",
    "attribute",
    "average_over_processes",
    "check_attribution",
    "check_feature",
    "check_grad_scaler",
    "check_measured",
    "check_shards",
    "compute_measure",
    "find_measure",
    "in_backward",
    "is_recording_hook",
    "record",
    "record_compiled",
    "recorders",
    "register_utility",
    "restore_generators_on_error",
    "step_was_skipped",
]
