"""Probe: the metrics of all of a model's groups, on one fixed batch, as a flat dict at an interval."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gnt._utils.dynamo import not_compiled
from gnt._utils.validation import check_flags, check_positive
from gnt.distributed import _dtensor as shards
from gnt.learners import Loss
from gnt.metrics import _validation as checks
from gnt.metrics import spectral as ranks
from gnt.metrics import unit_activity as units
from gnt.metrics._isolated_forward import Inputs, call, undisturbed
from gnt.metrics._listen import Taps
from gnt.metrics._probe_batch import Batch
from gnt.metrics._probe_groups import Groups, groups_of, model_of
from gnt.metrics.parameters import UpdateSize, weight_magnitude
from gnt.units._group import UnitGroup

STATE_VERSION = 1


class Probe:
    """Measures a model's units and weights on one fixed batch, so that a change of the figures is one of the model.

    For each group, named as it is in the engine, of what its consumers read::

        dead_units/<group>          share of units that are 0 for every sample
        dormant_units/<group>       share of units with s_i <= tau
        effective_rank/<group>      exp of the entropy of the singular values
        approximate_rank/<group>    how many singular values hold 99% of their squares
        nature_rank/<group>         how many hold 99% of their sum: the Nature paper's "stable rank"
        weight_magnitude/<group>    mean |w| of the units' incoming weights, without biases

    and of the model ``weight_magnitude`` (all parameters); with ``y`` also ``loss`` and, where y holds classes,
    ``accuracy``; with ``gradient`` also ``gradient_norm``, of that loss; with ``update`` also ``update_size``, since
    the last measurement. The functions of these names in `gnt.metrics` have the definitions.

    The model runs in evaluation mode under no_grad (and under the autocast that stands where it is called); its modes,
    running statistics, attributes, gradients, the random generators and the engine's records stay as they were.

    A channel is one unit, over all places. Of a linear consumer's (batch, ..., inputs) every row is a sample. Where a
    group's consumers read several values of its units (before and after a pooling, say), a unit is dead if all of them
    are, its magnitude is the mean over them, and the ranks are those of what the first consumer reads.

    Args:
        model: the module; torch.compile and DistributedDataParallel around it are opened.
        groups: an engine, the groups of `walk` or `trace`, what `GnT` takes as layers, or CBP layers (or a model with
            such layers, whose groups then bear the names of their producers).
        x: the batch: the model's input, a tuple of its inputs, or a dict of those with names. It is copied, and goes
            where the model's first parameter is.
        y: targets, for loss and accuracy.
        loss: "cross_entropy", "mse", or a callable (output, y) -> scalar; None: by the dtype of y, the first for
            integers, the second for real numbers.
        every: of how many calls of `step` one measures.
        tau: of `dormant_units`.
        ranks: whether to measure the ranks, which take a singular value decomposition for each group.
        gradient: whether to measure the gradient's norm.
        update: whether to measure the size of updates; a copy of the parameters is kept.
        prefix: goes before all names.

    Attributes:
        steps: calls of `step` so far.

    Raises:
        TypeError: a model that is none, groups or inputs of the wrong kind.
        ValueError: groups of another model, no samples, a setting out of range or that would be ignored.

    >>> import torch, gnt
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    >>> probe = gnt.metrics.Probe(net, net, torch.randn(200, 4), every=100)
    >>> for _ in range(100):
    ...     figures = probe.step()      # after each update of the network
    >>> print(*figures, sep=", ")
    dead_units/0, dormant_units/0, effective_rank/0, approximate_rank/0, nature_rank/0, weight_magnitude/0,
    weight_magnitude
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Groups,
        x: Inputs,
        *,
        y: Tensor | None = None,
        loss: str | Loss | None = None,
        every: int = 1,
        tau: float = units.DORMANT_TAU,
        ranks: bool = True,
        gradient: bool = False,
        update: bool = False,
        prefix: str = "",
    ) -> None:
        check_positive(every=every)
        check_flags(ranks=ranks, gradient=gradient, update=update)
        self._tau = checks.number("tau", tau, above=0.0, least=True)
        if not isinstance(prefix, str):
            raise TypeError(f"prefix must be a string, got {prefix!r}")
        self._batch = Batch.of(x, y, loss, gradient=gradient)
        self._model = model_of(model)
        if gradient and any(shards.is_sharded(parameter) for parameter in self._model.parameters()):
            raise TypeError("gradient must be False for a model whose parameters lie in shards, got True")
        self._groups = groups_of(self._model, groups)
        self._taps = Taps(self._groups)
        self.every, self.steps = int(every), 0
        self._ranks, self._gradient, self._prefix = ranks, gradient, prefix
        self._change = UpdateSize(self._model) if update else None

    def step(self) -> dict[str, float]:
        """Count one step; `measure` where it is due, at every ``every``-th call, else an empty dict."""
        self.steps += 1
        return self.measure() if self.steps % self.every == 0 else {}

    @not_compiled
    @torch.inference_mode(mode=False)  # a validation loop may run in it, and the gradient needs autograd
    def measure(self) -> dict[str, float]:
        """Measure now.

        Returns:
            Names and numbers, as ``SummaryWriter.add_scalar`` (each) and ``wandb.log`` (all) take them; the same names
            in the same order each time.

        Raises:
            RuntimeError: the forward does not come by a group's consumer.
            ValueError: features or outputs of a shape that does not fit.
            FloatingPointError: features, weights, outputs or gradients that are not finite.
        """
        device = next(self._model.parameters()).device
        batch = self._batch.on(device)
        figures: dict[str, float] = {}
        with undisturbed(self._model, device), torch.no_grad():
            try:
                with self._taps.listening():
                    output = call(self._model, batch.x)
                for name, group in self._groups.items():
                    figures.update(self._of_group(name, group))
            finally:
                self._taps.forget()
            figures["weight_magnitude"] = weight_magnitude(self._model)
            figures.update(batch.quality(output))
            if self._gradient:
                figures["gradient_norm"] = batch.gradient_norm(self._model)
        if self._change is not None:
            figures["update_size"] = self._change.measure()
        return {f"{self._prefix}{name}": float(value) for name, value in figures.items()}

    def _of_group(self, name: str, group: UnitGroup) -> dict[str, float]:
        read = self._taps.take(name)
        active = torch.stack([units.activity(reading) for reading in read]).any(0)
        figures: dict[str, float] = {
            "dead_units": units.share_dead(active),
            "dormant_units": units.share_dormant(units.mean_magnitude(read), self._tau),
        }
        if self._ranks:
            spectrum = ranks.spectrum(read[0])
            figures["effective_rank"] = ranks.effective_rank_of(spectrum)
            figures["approximate_rank"] = ranks.approximate_rank_of(spectrum)
            figures["nature_rank"] = ranks.nature_rank_of(spectrum)
        rows = [slot.of_units(checks.whole(slot.weight.detach()).movedim(slot.dim, 0), 0) for slot in group.incoming]
        try:
            figures["weight_magnitude"] = weight_magnitude(rows)
        except FloatingPointError as error:
            raise FloatingPointError(f"incoming weights of group {name!r}: {error}") from None
        return {f"{figure}/{name}": value for figure, value in figures.items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on: the count of steps and, with ``update``, the parameters as last measured. The
        batch is not in it.
        """
        change = self._change.state_dict() if self._change is not None else None
        return {"version": STATE_VERSION, "steps": self.steps, "change": change}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state.

        Raises:
            ValueError: not a probe's, of another version, or with and without ``update``. Nothing is changed.
        """
        if not isinstance(state_dict, dict) or not {"version", "steps", "change"} <= set(state_dict):
            raise ValueError("state_dict is not one of Probe.state_dict(): it has no 'version', 'steps' and 'change'")
        if state_dict["version"] != STATE_VERSION:
            raise ValueError(
                f"state_dict has version {state_dict['version']!r}; this gnt reads version {STATE_VERSION}"
            )
        steps: Any = state_dict["steps"]
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
            raise ValueError(f"steps of state_dict must be an integer >= 0, got {steps!r}")
        if (state_dict["change"] is None) != (self._change is None):
            saved = "without" if state_dict["change"] is None else "with"
            raise ValueError(f"state_dict was saved {saved} update=True: build the probe with the same settings")
        if self._change is not None:
            self._change.load_state_dict(state_dict["change"])
        self.steps = steps
