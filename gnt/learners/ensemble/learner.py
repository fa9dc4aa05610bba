"""Ensemble: a learner of many seeds, trained together by one call of ``learn``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import Unpack

from gnt._utils.state_dicts import Kind, check_entries, equal_to, random_state, sequence
from gnt._utils.validation import check_flags
from gnt.initialization import Init
from gnt.learners._engine_keywords import ENSEMBLE_SETTINGS
from gnt.learners._loss_and_optimizer import Loss
from gnt.learners._optimizer_options import OptimizerOptions
from gnt.learners._step_result import Step
from gnt.learners.backprop import Backprop
from gnt.learners.continual_backprop import ContinualBackprop
from gnt.learners.ensemble.engine import EnsembleGnT
from gnt.learners.ensemble.members import make_members
from gnt.learners.ensemble.optimizers import build_optimizer
from gnt.learners.ensemble.report import EnsembleReport
from gnt.learners.ensemble.stacked_net import StackedNet
from gnt.learners.ensemble.training_step import EnsembleTrainingStep
from gnt.learners.ensemble.validation import (
    check_batches,
    check_same_function,
    checked_engine_settings,
    engine_generators,
    refuse_protect,
)
from gnt.names import Accumulate, ActivationName, BiasInit, LossName, OptimizerName, Utility
from gnt.replacement import EngineSettings, SoftReplacement


class Ensemble(ContinualBackprop):
    """S independent networks of one shape that learn together, in about the time of one.

    Each member learns as a single run does that starts with these two lines: it has the same initial weights, draws the
    same random numbers and replaces the same units. Results are the same up to the rounding of batched matrix
    products::

        torch.manual_seed(seeds[s]); net = make_net()
        learner = gnt.ContinualBackprop(net, ...)       # generator=None: seeded from torch's generator at this point

    Each member has its own data, gradients, random draws and replaced units. The number of units that are due depends
    only on the number of updates, so it is the same for all members.

    Args:
        make_net: builds a network with its initial weights: a Sequential or a module with ``.layers`` that computes
            exactly what it lists. Supported are Linear, Conv1d/2d/3d, BatchNorm, InstanceNorm, GroupNorm, LayerNorm,
            RMSNorm, `gnt.nn.InputNorm`, Dropout, Flatten, poolings (not FractionalMaxPool, which is random) and
            paddings, and activations without parameters.
        seeds: an integer for each member.
        loss: "mse", "cross_entropy" (on logits; "nll" is the same), or a callable (output, target) -> scalar, which is
            called for each member.
        opt: a name, as for `Backprop`, or a function (parameters) -> optimizer, which must work element by element.
        step_size: learning rate of an optimizer given by name; 1e-3 by default.
        compile: as for `Backprop`: the whole step of all members as one compiled graph.
        generators: a generator for the draws of each member's engine; None: seeded as in a single run.
        replacement_rate, maturity_threshold, decay_rate, utility, init, accumulate, bias_transfer, activation,
        bias_init, measure_every, soft: as for `GnT`. With ``replacement_rate=0`` there is no engine: members learn as
            with `Backprop`. ``accumulate`` must not be False, because drawn counts would differ between members. A
            registered measure gets the units of all members and must rate each unit by itself, or by means over the
            units of its member's layer (``signals.layer_mean``).
        options: further options of an optimizer given by name, as for `Backprop`.

    Attributes:
        seeds: the members' seeds.
        net: all members as one network, (S, batch, ...) -> (S, batch, ...); its parameters hold those of the members
            one after the other along dimension 0.
        loss: the loss function.
        opt: the optimizer of all members.
        gnt: the engine of all members; None if nothing is replaced. Its groups hold S * n units, member by member.

    Raises:
        ValueError: networks of different shapes, a layer that cannot be stacked, or a setting out of range.
        TypeError: an optimizer that does not work element by element, an unused setting, or a method that takes the
            first dimension of batches for samples (replay, DER, A-GEM, GEM, generative replay, LwF).

    >>> import torch, gnt
    >>> def make_net():
    ...     return torch.nn.Sequential(torch.nn.Linear(20, 5), torch.nn.ReLU(), torch.nn.Linear(5, 1))
    >>> ensemble = gnt.Ensemble(make_net, range(30), opt="sgd", step_size=0.01, replacement_rate=0.01)
    >>> for _ in range(130):
    ...     loss, output, replaced = ensemble.learn(torch.randn(30, 1, 20), torch.randn(30, 1, 1))
    >>> loss.shape, output.shape, len(ensemble), ensemble.gnt.report().groups[0].replaced
    (torch.Size([30]), torch.Size([30, 1, 1]), 30, 1)
    >>> ensemble.member(29)
    Sequential(
      (0): Linear(in_features=20, out_features=5, bias=True)
      (1): ReLU()
      (2): Linear(in_features=5, out_features=1, bias=True)
    )
    """

    gnt: EnsembleGnT | None  # type: ignore[assignment]
    net: StackedNet

    _engine_settings = ENSEMBLE_SETTINGS

    def __init__(
        self,
        make_net: Callable[[], nn.Module],
        seeds: Iterable[int],
        *,
        loss: LossName | Loss = "mse",
        opt: OptimizerName | Callable[[Any], Optimizer] = "sgd",
        step_size: float | None = None,
        compile: bool = False,
        generators: Sequence[torch.Generator] | None = None,
        replacement_rate: float = EngineSettings.replacement_rate,
        maturity_threshold: int = EngineSettings.maturity_threshold,
        decay_rate: float = EngineSettings.decay_rate,
        utility: Utility = EngineSettings.utility,
        init: Init = EngineSettings.init,
        accumulate: Accumulate = EngineSettings.accumulate,
        bias_transfer: bool = EngineSettings.bias_transfer,
        activation: ActivationName | None = None,
        bias_init: BiasInit = EngineSettings.bias_init,
        measure_every: int = EngineSettings.measure_every,
        soft: SoftReplacement | bool | None = EngineSettings.soft,
        **options: Unpack[OptimizerOptions],
    ) -> None:
        refuse_protect(options.pop("protect", None))  # type: ignore[typeddict-item]
        settings: dict[str, Any] = {
            "replacement_rate": replacement_rate,
            "maturity_threshold": maturity_threshold,
            "decay_rate": decay_rate,
            "utility": utility,
            "init": init,
            "accumulate": accumulate,
            "bias_transfer": bias_transfer,
            "bias_init": bias_init,
            "measure_every": measure_every,
            "soft": soft,
        }
        checked = checked_engine_settings(EngineSettings(activation=activation, **settings))
        check_flags(compile=compile)
        replaces = checked.replacement_rate > 0.0
        members = make_members(make_net, seeds, with_engine=replaces)
        self.seeds = [member.seed for member in members]
        net = StackedNet(members)
        if not replaces:
            self._optimizers, self._engine_settings = Backprop._optimizers, ()
        groups = net.groups(checked.activation) if replaces else ()
        optimizer = opt if isinstance(opt, str) else build_optimizer(opt, net)
        Backprop.__init__(self, net, loss=loss, opt=optimizer, step_size=step_size, compile=compile, **options)
        engine = None
        own = engine_generators(generators, [member.generator for member in members])
        if groups:
            engine = EnsembleGnT(groups, self.opt, seeds=self.seeds, generators=own, **settings)
            net.keeps_gradients = engine.measure.reads_feature_gradients
        methods = self._step.methods
        self._step = EnsembleTrainingStep(net, self.loss, self.opt, engine, self.seeds)
        self._step.set_methods(methods)
        self._layers_checked = False

    def learn(self, x: Tensor, y: Tensor) -> Step:
        """One step of learning of every member on its own batch.

        Args:
            x: inputs, (S, batch, ...).
            y: targets, members first: of the output's shape for mse, (S, batch) class indices (or probabilities) for
                cross_entropy.

        Returns:
            `Step`: losses (S,) and outputs (S, batch, ...) from before the update, detached, and the units replaced
            after it: for each group int64 (S, k), a row for each member, with indices within that member's layer; then
            those that methods replaced (`SNR`), int64 (k,), with indices among the units of all members.

        Raises:
            ValueError: shapes that do not fit.
            FloatingPointError: the loss of some members is not finite; the message names their seeds. Nothing was
                changed. If weights are not finite after the optimizer's step, the message says what has changed.
        """
        check_batches(x, y, len(self))
        if not self._layers_checked:
            self._check_layers(x)
        step = super().learn(x, y)
        if self.gnt is None:
            return step
        count = len(self.gnt.groups)
        by_member = self.gnt.by_member(step.replaced[:count])
        return step._replace(replaced=[*by_member, *step.replaced[count:]])

    def _check_layers(self, x: Tensor) -> None:
        """Compare the first and the last member, alone, with the stacked network: a wrong order of members shows."""
        self._layers_checked = all(
            check_same_function(self.member(i), self.seeds[i], x[i], self._output_of(i, x)) for i in {0, len(self) - 1}
        )

    def _output_of(self, number: int, x: Tensor) -> Callable[[], Tensor]:
        return lambda: self.predict(x)[number]

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Outputs in evaluation mode: (S, batch, ...) -> (S, batch, ...).

        Raises:
            ValueError: ``x`` does not hold a batch for each member.
        """
        if not isinstance(x, Tensor) or x.ndim < 2 or len(x) != len(self):
            got = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"x must be a tensor ({len(self)} members, batch, ...), got {got}")
        modes = [(module, module.training) for module in self.net.modules()]
        self.net.eval()
        try:
            return self.net(x)  # type: ignore[no-any-return]
        finally:
            for module, training in modes:
                module.training = training

    def __len__(self) -> int:
        return len(self.seeds)

    def member(self, number: int) -> nn.Module:
        """A copy of one member's network in its current state, of the class that ``make_net`` returns.

        Raises:
            IndexError: there is no such member.
        """
        if not 0 <= number < len(self.seeds):
            raise IndexError(f"member must lie in 0..{len(self.seeds) - 1}, got {number}")
        return self.net.member(number)

    def report(self) -> EnsembleReport:
        """For each group: units, eligible units, replaced units and updates until the next replacement of each member,
        and dead units of all members.

        Raises:
            ValueError: there is no engine (``replacement_rate=0``).
        """
        if self.gnt is None:
            raise ValueError("there is nothing to report: with replacement_rate=0 there is no engine")
        return self.gnt.report()

    def state_dict(self) -> dict[str, Any]:
        """State of all networks, optimizer, engine and generators, loadable with ``torch.load(weights_only=True)``."""
        state = ContinualBackprop.state_dict(self) if self.gnt is not None else Backprop.state_dict(self)
        return {**state, "seeds": list(self.seeds), "dropout": [each.get_state() for each in self.net.dropout]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, to continue bit for bit; the ensemble must have been built with the same settings and seeds.

        Raises:
            ValueError: as for `ContinualBackprop`, or the state of an ensemble of other seeds, or only one of the two
                with an engine. Nothing is changed.
        """
        if not isinstance(state_dict, dict) or not {"seeds", "dropout"} <= set(state_dict):
            raise ValueError("state_dict must be the result of state_dict() of an Ensemble, with 'seeds' and 'dropout'")
        dropout = sequence([random_state(each) for each in self.net.dropout], f"{len(self)} states of 'dropout'")
        kinds: dict[str, Kind] = {
            "seeds": equal_to(
                self.seeds, lambda saved: f"state_dict is of seeds {saved}, this ensemble's are {self.seeds}"
            ),
            "dropout": dropout,
        }
        checked = check_entries(state_dict, kinds)
        if (self.gnt is None) is ("gnt" in state_dict):
            saved, own = (">", "=") if self.gnt is None else ("=", ">")
            raise ValueError(
                f"state_dict was saved with replacement_rate{saved}0, this ensemble has replacement_rate{own}0"
            )
        if self.gnt is None:
            Backprop.load_state_dict(self, state_dict)
        else:
            ContinualBackprop.load_state_dict(self, state_dict)
        for generator, state in zip(self.net.dropout, checked["dropout"], strict=True):
            generator.set_state(state)
