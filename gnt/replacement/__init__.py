"""Replacement of units: the engine, and everything that it changes.

engine, _step, _config      GnT, the order of a step, the settings with their defaults
_saved_engine, _reported_engine, _followed_engine, _attached_engine
                            the parts of GnT: saving; reports; optimizer and followers; attach, rebind and copies
eligibility                 ages, and which units are old enough to be replaced
selection                   how many units are due, and which
reinitialization            new weights, transfer of mean contributions, norms
_followers                  what else takes part in each replacement (follow)
optimizer_state             the optimizer's state of replaced units; _optimizer_registry, _optimizer_reset_table,
                            _third_party_reset_table: which optimizers; _optimizer_checks, _state_structure,
                            _state_kinds: what is refused
_optimizer_hooks            an engine that steps after its optimizer (attach)
_rebinding                  going on with a network that was changed (gnt.units.StructureCheck finds changes)
_kernel_replacement, _triton_replacement
                            selection and replacement by kernels, in C on the CPU and in Triton on a GPU
                            (_replacement_tasks: what they write; _triton_plan)
_soft_replacement           (settings: _soft_settings) all units moved a little instead of a few replaced (soft)
_setting_changes            settings assigned to a running engine
_protect_setting            what ``protect`` accepts
_protection                 units that are never replaced, as told by the objects in ``protect``
_top_units                  units that are held because of their importance (_long_term_importance), and learn more
                            slowly (_slowed_learning)
_checkpoint                 saved states
report, dry_run, _figures   what an engine reports; idle_warning: nothing was ever replaced
layers                      CBPLinear and CBPConv
_cbp_layer, _layer_steps    their base; the steps of all CBP layers of an optimizer
_layer_use                  whether the network still runs the layers around a CBP layer
_algorithm_1, redo, snr     other rules of replacement (_replacement_rule: base of redo and snr; _firing_times)
swr                         selective weight reinitialization: single weights instead of units (_weight_utilities,
                            _weight_selection, _element_state, _swr_report)
_process_agreement          what the engines of several processes must have in common
"""

from gnt.replacement._algorithm_1 import ALGORITHM_1, algorithm_1
from gnt.replacement._config import ENGINE_SETTINGS, EngineSettings
from gnt.replacement._element_state import ElementStateReset
from gnt.replacement._followers import Follower
from gnt.replacement._optimizer_hooks import AttachableEngine, attached_engines
from gnt.replacement._protect_setting import Protect, Protector
from gnt.replacement._renewal import describe_renewal, lifetime, replaced_per_update
from gnt.replacement._soft_settings import SoftReplacement
from gnt.replacement._top_units import TopUnits
from gnt.replacement.eligibility import UnitState
from gnt.replacement.engine import GnT
from gnt.replacement.layers import CBPConv, CBPLayer, CBPLinear
from gnt.replacement.optimizer_state import (
    OptimizerStateReset,
    find_state_resets,
    known_optimizers,
    register_state_reset,
    unwrap_optimizer,
    works_elementwise,
)
from gnt.replacement.redo import ReDo
from gnt.replacement.report import GroupReport, Report, describe_inits, first_due
from gnt.replacement.snr import SNR
from gnt.replacement.swr import SWR

__all__ = [
    "ALGORITHM_1",
    "ENGINE_SETTINGS",
    "SNR",
    "SWR",
    "AttachableEngine",
    "CBPConv",
    "CBPLayer",
    "CBPLinear",
    "ElementStateReset",
    "EngineSettings",
    "Follower",
    "GnT",
    "GroupReport",
    "OptimizerStateReset",
    "Protect",
    "Protector",
    "ReDo",
    "Report",
    "SoftReplacement",
    "TopUnits",
    "UnitState",
    "algorithm_1",
    "attached_engines",
    "describe_inits",
    "describe_renewal",
    "find_state_resets",
    "first_due",
    "known_optimizers",
    "lifetime",
    "register_state_reset",
    "replaced_per_update",
    "unwrap_optimizer",
    "works_elementwise",
]
