"""`Probe`: metrics of all unit groups of a model, on one fixed batch, as a flat dict at an interval."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gnt._utils.dynamo import not_compiled
from gnt._utils.settings import checked_settings, positive
from gnt._utils.state_dicts import check_entries, check_version, counter
from gnt._utils.validation import check_flags, check_positive
from gnt.distributed import dtensor
from gnt.learners import Loss
from gnt.metrics._feature_recorder import FeatureRecorder
from gnt.metrics._numerics import full_tensor
from gnt.metrics._probe_batch import ProbeBatch
from gnt.metrics._probe_groups import ProbeTarget, checked_model, named_groups
from gnt.metrics._validation import checked_number
from gnt.metrics.dormancy import DORMANT_TAU, active_units, dead_share, dormant_share, relative_magnitudes
from gnt.metrics.parameters import UpdateSize, weight_magnitude
from gnt.metrics.spectral import approximate_rank_from, effective_rank_from, nature_rank_from, singular_values
from gnt.names import LossName
from gnt.units import ModelInputs, UnitGroup, call_model, isolated

STATE_VERSION = 1


@checked_settings(every=positive)
class Probe:
    """Measures a model's units and weights on one fixed batch, so that values change only if the model changes.

    For each group, named as in the engine, it measures what the group's consumers read::

        dead_units/<group>          share of units that are 0 for every sample
        dormant_units/<group>       share of units with s_i <= tau
        effective_rank/<group>      exp of the entropy of the singular values
        approximate_rank/<group>    number of singular values that hold 99% of the sum of squares
        nature_rank/<group>         number that hold 99% of the sum: the "stable rank" of Dohare et al. (2024)
        weight_magnitude/<group>    mean |w| of the units' incoming weights, without biases

    For the model it measures ``weight_magnitude`` (all parameters); with ``y`` also ``loss`` and, if y holds classes,
    ``accuracy``; with ``gradient`` also ``gradient_norm``, of that loss; with ``update`` also ``update_size``, since
    the last measurement. The functions of these names in `gnt.metrics` give the definitions.

    The model runs in evaluation mode under no_grad, and under the autocast context of the caller. Its modes, running
    statistics, attributes, gradients, the random generators and the features recorded by engines are left unchanged.

    A channel is one unit, measured over all positions. Each row of a linear consumer's (batch, ..., inputs) is a
    sample. If consumers of a group read different tensors of its units (before and after pooling, for example), a unit
    is dead if it is dead in all of them, its magnitude is the mean over them, and the ranks are those of the first.
    Consumers that the forward pass does not run, such as the heads of other tasks, are left out.

    Args:
        model: the module; it may be wrapped by torch.compile or DistributedDataParallel.
        groups: an engine, the groups of `walk` or `trace`, layers as `GnT` takes them, or CBP layers (or a model that
            contains them; their groups are then named after their producers).
        x: the batch: the model's input, a tuple of positional or a dict of keyword arguments. It is copied, and moved
            to the device of the model's first parameter, with the tensors in tuples, lists and dicts in it.
        y: targets, for loss and accuracy, which leaves out samples of class -100, as torch's cross entropy does.
        loss: "cross_entropy", "mse", or a callable (output, y) -> scalar. None selects by the dtype of y: cross entropy
            for integers, mean squared error for floating point.
        every: interval of measurements, in calls of `step`.
        tau: threshold of `dormant_units`.
        ranks: measure the ranks, which need a singular value decomposition for each group.
        gradient: measure the norm of the gradient.
        update: measure the size of updates; a copy of the parameters is kept.
        prefix: prefix of all names.

    Attributes:
        steps: number of calls of `step`.

    Raises:
        TypeError: a model that is not a module; groups or inputs of the wrong type.
        ValueError: groups of another model, no samples, a setting that is out of range or would be ignored.

    >>> import torch, gnt
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    >>> probe = gnt.metrics.Probe(net, net, torch.randn(200, 4), every=100)
    >>> for _ in range(100):
    ...     values = probe.step()      # after each update of the network
    >>> print(*values, sep=", ")
    dead_units/0, dormant_units/0, effective_rank/0, approximate_rank/0, nature_rank/0, weight_magnitude/0,
    weight_magnitude
    """

    def __init__(
        self,
        model: nn.Module,
        groups: ProbeTarget,
        x: ModelInputs,
        *,
        y: Tensor | None = None,
        loss: LossName | Loss | None = None,
        every: int = 1,
        tau: float = DORMANT_TAU,
        ranks: bool = True,
        gradient: bool = False,
        update: bool = False,
        prefix: str = "",
    ) -> None:
        check_positive(every=every)
        check_flags(ranks=ranks, gradient=gradient, update=update)
        self._tau = checked_number("tau", tau)
        if not isinstance(prefix, str):
            raise TypeError(f"prefix must be a string, got {prefix!r}")
        self._batch = ProbeBatch.from_arguments(x, y, loss, gradient=gradient)
        self._model = checked_model(model)
        if gradient and any(dtensor.is_dtensor(parameter) for parameter in self._model.parameters()):
            raise TypeError("gradient must be False for a model with sharded parameters, got True")
        self._groups = named_groups(self._model, groups)
        self._recorder = FeatureRecorder(self._groups)
        self.every, self.steps = int(every), 0
        self._ranks, self._gradient, self._prefix = ranks, gradient, prefix
        self._update_size = UpdateSize(self._model) if update else None

    def step(self) -> dict[str, float]:
        """Count one step and return `measure()` at every ``every``-th call, else an empty dict."""
        self.steps += 1
        return self.measure() if self.steps % self.every == 0 else {}

    @not_compiled
    @torch.inference_mode(mode=False)  # the caller may be in inference mode, but gradients need autograd
    def measure(self) -> dict[str, float]:
        """Measure now, without counting a step.

        Returns:
            Values by name, the same names in the same order each time. ``SummaryWriter.add_scalar`` takes each,
            ``wandb.log`` the whole dict.

        Raises:
            RuntimeError: the forward pass calls no consumer of a group.
            ValueError: features or outputs of a shape that does not match.
            FloatingPointError: NaN or infinite features, weights, outputs or gradients.
        """
        device = next(self._model.parameters()).device
        batch = self._batch.to(device)
        values: dict[str, float] = {}
        with isolated(self._model, device), torch.no_grad():
            try:
                with self._recorder.record():
                    output = call_model(self._model, batch.inputs)
                for name, group in self._groups.items():
                    values.update(self._group_metrics(name, group))
            finally:
                self._recorder.clear()
            values["weight_magnitude"] = weight_magnitude(self._model)
            values.update(batch.output_metrics(output))
            if self._gradient:
                values["gradient_norm"] = batch.gradient_norm(self._model)
        if self._update_size is not None:
            values["update_size"] = self._update_size.measure()
        return {f"{self._prefix}{name}": float(value) for name, value in values.items()}

    def _group_metrics(self, name: str, group: UnitGroup) -> dict[str, float]:
        features = self._recorder.features(name)
        active = torch.stack([active_units(each) for each in features]).any(0)
        values: dict[str, float] = {
            "dead_units": dead_share(active),
            "dormant_units": dormant_share(relative_magnitudes(features), self._tau),
        }
        if self._ranks:
            spectrum = singular_values(features[0])  # one decomposition for all ranks
            values["effective_rank"] = effective_rank_from(spectrum)
            values["approximate_rank"] = approximate_rank_from(spectrum)
            values["nature_rank"] = nature_rank_from(spectrum)
        weights = [slot.of_units(full_tensor(slot.weight.detach()).movedim(slot.dim, 0), 0) for slot in group.incoming]
        try:
            values["weight_magnitude"] = weight_magnitude(weights)
        except FloatingPointError as error:
            raise FloatingPointError(f"incoming weights of group {name!r}: {error}") from None
        return {f"{metric}/{name}": value for metric, value in values.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps and, with ``update``, the parameters at the last measurement; not the batch."""
        change = self._update_size.state_dict() if self._update_size is not None else None
        return {"version": STATE_VERSION, "steps": self.steps, "change": change}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a saved state.

        Raises:
            ValueError: not the result of `state_dict`, another version, or a different ``update``. Nothing is changed.
        """
        if not isinstance(state_dict, dict) or not {"version", "steps", "change"} <= set(state_dict):
            raise ValueError("state_dict is not one of Probe.state_dict(): it has no 'version', 'steps' and 'change'")
        check_version(state_dict["version"], STATE_VERSION)
        if (state_dict["change"] is None) != (self._update_size is None):
            saved = "without" if state_dict["change"] is None else "with"
            raise ValueError(f"state_dict was saved {saved} update=True: build the probe with the same settings")
        steps = check_entries(state_dict, {"steps": counter()})["steps"]
        if self._update_size is not None:
            self._update_size.load_state_dict(state_dict["change"])
        self.steps = steps
