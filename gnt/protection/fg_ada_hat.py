"""FG-AdaHAT: fine-grained adaptive hard attention to the task."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gnt._utils.other_names import explains_unknown_settings
from gnt._utils.renamed_argument import refused_arguments, renamed_argument
from gnt._utils.settings import checked_settings, flag, non_negative, positive
from gnt._utils.validation import check_flags, check_kernels, check_positive, finite_number
from gnt.importance import GRADIENT_SIGNALS
from gnt.names import (
    Aggregation,
    AttributionName,
    AttributionOf,
    Compensation,
    Form,
    Norms,
    Schedule,
    SparsityMode,
    SummingName,
    Uncovered,
    Utility,
)
from gnt.protection._attribution_source import AttributionSource
from gnt.protection._fine_grained import FineGrained
from gnt.protection._hat_optimizer import Closure
from gnt.protection._hat_settings import EmbeddingInit, check_quantile
from gnt.protection._importance_source import source_maker
from gnt.protection._saved_importances import SavedImportances
from gnt.protection._strategies import RangeScaling, Summing
from gnt.units import ModelInputs, UnitGroup

_EVERY_ATTRIBUTION = 20


@checked_settings(
    base_importance=non_negative,
    filter_unused=flag,
    weigh_by_gate=flag,
    every=positive,
    fixed=("importance", "summing"),
)
class FGAdaHAT(SavedImportances):
    """`AdaHAT` whose rates depend on how important units were in earlier tasks, not only on how many used them.

        rate = alpha / (C I_ij + alpha),   C = (R_l + base_sparsity) * (t + base_linear)

    I_ij is the smaller of the importances of the weight's two units, R_l the sparsity term of its layer in this step
    and t the number of the task. In each measured step the measure v of a unit is scaled to [0, 1] within its group,
    (v - min) / (max - min), and multiplied by the unit's gate. The mean over the task's measured steps, plus
    base_importance, is the unit's importance in the task, and a weighted sum over tasks what protects it later.

    Measures read what the training step has computed (`gnt.importance.measures`). Attributions
    (`gnt.importance.attribute`) need inputs and targets: in a loop of your own call ``observe(x, y)`` before the
    optimizer's step, learners call ``before_batch(x, y)``. They run with the gates of the step, without dropout.

    Args:
        net: the network.
        groups: its units, of `gnt.trace` or `gnt.walk`.
        alpha: > 0. On permuted digits 8 was best of 0.5 to 32 (docs/memory.md), with ``apply="update"``.
        importance: name of a measure or an attribution.
        summing: weights of earlier tasks: "add_all" (T - t + 1 for task t of T), "add_latest", "add_average",
            "linear_decrease" (takes ``step``), "quadratic_decrease", "cubic_decrease", "exponential_decrease"
            (``rate``), "log_decrease" (``base``) or "factorial_decrease"; docs/measures.md has the formulas.
        schedule: the last factor of C: "linear_sparsity", as above; "sparsity": 1; "summative_mask_sparsity":
            min(M_i, M_j) + base_linear, with M the number of earlier tasks that use a unit.
        aggregation: how the importances of two units are joined: "min", "max" or "mean".
        base_importance: >= 0.
        base_sparsity: > 0.
        base_linear: >= 0.
        filter_cumulative: multiply I_ij by min(c_i, c_j), which is 0 unless earlier tasks use both units.
        filter_unused: the importance of units that a task does not use is 0.
        weigh_by_gate: multiply by the gate of the step.
        every: measure each ``every``-th step of a task, from the first one on; None: 1 for measures, 20 for
            attributions.
        of: for attributions, "target": the output of the sample's class; "loss": its cross-entropy.
            ``importance="gradient_activation", of="loss"`` is the measure, which needs no pass of its own.
        baselines, n_steps, chunk: of an attribution; see `gnt.importance.attribute`.
        step, rate, base: of a summing strategy.
        protect_quantile: `protected` keeps the units whose importance in earlier tasks is above this quantile of their
            group's, in [0, 1). Used units below it may be replaced, which changes the outputs of their tasks. None: as
            for `HAT`, units that more than ``protect_above`` tasks use.
        kernels: for measures, as for `GnT`: use C kernels on the CPU. None: if there are kernels on this machine.
        sparsity: factor of the sparsity term in the loss, >= 0.
        s_max, sparsity_mode, embedding, embedding_clamp, compensation, gradient_clip, apply, uncovered, norms,
        min_free, idle, protect_above, generator, process_group: as for `HAT`.

    Attributes:
        importances: the importance of each unit in each task that has ended, (tasks, units).

    Raises:
        TypeError, ValueError: as `HAT`; an unknown name; a setting that is out of range, or missing or superfluous for
            the importance or the summing strategy.

    Source: Wang et al., FG-AdaHAT, Eqs. 1 to 6.

    >>> import torch, gnt
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    >>> hat = gnt.FGAdaHAT(net, gnt.walk(net), alpha=0.1, importance="deeplift", every=5)
    >>> optimizer = torch.optim.Adam(net.parameters())
    >>> for task in range(2):
    ...     with hat.learning(task, optimizer, steps_per_epoch=10):
    ...         for _ in range(10):
    ...             x, y = torch.randn(8, 4), torch.randint(3, (8,))
    ...             hat.observe(x, y)
    ...             optimizer.zero_grad()
    ...             (torch.nn.functional.cross_entropy(net(x), y) + hat.penalty()).backward()
    ...             optimizer.step()
    >>> hat.importances.shape
    torch.Size([2, 16])
    """

    importances: Tensor
    importance_sum: Tensor

    @refused_arguments(["protection"], "FGAdaHAT takes alpha, importance, schedule and others in place of protection")
    @renamed_argument("model", "net")
    @explains_unknown_settings
    def __init__(
        self,
        net: nn.Module,
        groups: Sequence[UnitGroup],
        *,
        alpha: float,
        importance: Utility | AttributionName = "contribution",
        summing: SummingName = "add_all",
        schedule: Schedule = "linear_sparsity",
        aggregation: Aggregation = "min",
        base_importance: float = 1e-8,
        base_sparsity: float = 0.1,
        base_linear: float = 5.0,
        filter_cumulative: bool = False,
        filter_unused: bool = False,
        weigh_by_gate: bool = True,
        every: int | None = None,
        of: AttributionOf = "target",
        baselines: ModelInputs | None = None,
        n_steps: int | None = None,
        chunk: int | None = None,
        step: float | None = None,
        rate: float | None = None,
        base: float | None = None,
        protect_quantile: float | None = None,
        kernels: bool | None = None,
        s_max: float = 400.0,
        sparsity: float = 0.1,
        sparsity_mode: SparsityMode = "original",
        embedding: EmbeddingInit = "normal",
        embedding_clamp: float = 6.0,
        compensation: Compensation = "published",
        gradient_clip: float = 50.0,
        apply: Form = "update",
        uncovered: Uncovered = "freeze",
        norms: Norms = "per_task",
        min_free: int = 0,
        idle: bool = False,
        protect_above: int = 0,
        generator: torch.Generator | None = None,
        process_group: Any = None,
    ) -> None:
        rates = FineGrained(
            alpha, schedule=schedule, aggregation=aggregation, base_sparsity=base_sparsity, base_linear=base_linear,
            filter_cumulative=filter_cumulative,
        )  # fmt: skip
        check_kernels(kernels)
        strategy = Summing(summing, step=step, rate=rate, base=base)
        make_source = source_maker(
            importance, of, {"baselines": baselines, "n_steps": n_steps, "chunk": chunk}, kernels=kernels
        )
        check_flags(filter_unused=filter_unused, weigh_by_gate=weigh_by_gate)
        if every is not None:
            check_positive(every=every)
        finite_number("base_importance", base_importance)
        check_quantile(protect_quantile, protect_above)
        super().__init__(
            net,
            groups,
            s_max=s_max,
            sparsity=sparsity,
            sparsity_mode=sparsity_mode,
            embedding=embedding,
            embedding_clamp=embedding_clamp,
            compensation=compensation,
            gradient_clip=gradient_clip,
            protection=rates,
            apply=apply,
            uncovered=uncovered,
            norms=norms,
            min_free=min_free,
            idle=idle,
            protect_above=protect_above,
            generator=generator,
            process_group=process_group,
        )
        self.importance, self.summing, self.base_importance = importance, strategy, base_importance
        self._protect_quantile = protect_quantile
        self.filter_unused, self.weigh_by_gate = filter_unused, weigh_by_gate
        self._make_source = make_source
        try:
            self._hang_source()
        except BaseException:
            self.close()
            raise
        attributed = isinstance(self._source, AttributionSource)
        self.every = every if every is not None else _EVERY_ATTRIBUTION if attributed else 1
        zeros = torch.zeros_like(self.embedding.detach())
        self.register_buffer("importances", zeros.new_zeros(0, self.layout.total), persistent=False)
        self.register_buffer("importance_sum", zeros, persistent=False)
        self._measured = [0] * len(self.groups)
        self._scaling = RangeScaling(self.layout.sizes)
        self._important: tuple[Tensor, Tensor] | None = None  # the importances that it was found for, and the units

    @property
    def protect_quantile(self) -> float | None:
        """The quantile above which units are kept; a new value is checked and in force at once."""
        return self._protect_quantile

    @protect_quantile.setter
    def protect_quantile(self, quantile: float | None) -> None:
        check_quantile(quantile, self.settings.protect_above)
        self._protect_quantile, self._important = quantile, None

    def change_setting(self, name: str, value: Any) -> None:
        """As for `HAT`; ``protect_above`` is 0 with a ``protect_quantile``."""
        if name == "protect_above":
            check_quantile(self.protect_quantile, value)
        super().change_setting(name, value)

    def observe(self, x: ModelInputs, y: Tensor) -> None:
        """Give inputs and targets of a batch of the coming step, before the step or in its closure.

        Only attributions need it. The tensors are kept until the step. Of several batches as many are measured, the
        last ones, as there were backward passes since the gradients were cleared: the others are of skipped steps.

        Args:
            x: what the network takes: a tensor, a tuple of arguments or a mapping of keyword arguments.
            y: the targets, (N,).
        """
        if self._is_due():
            self._source.observe(x, y)

    def before_batch(self, x: ModelInputs, y: Tensor) -> None:
        """Hook of learners: `observe`."""
        self.observe(x, y)

    def discard(self) -> None:
        """Hook of learners: drop what is known of a step that failed."""
        self._source.skip()

    @torch.no_grad()
    def reset_units(self, param: Tensor, dim: int, index: Tensor, groups: int = 1) -> None:
        """As for `HAT`; the importance of replaced units in the open task is 0 again.

        Args:
            param, dim, index, groups: as for `gnt.replacement.Follower`.
        """
        super().reset_units(param, dim, index, groups)
        if self._open:
            for number, units in self._protection.replaced_units(param, dim, index):
                self.layout.part(self.importance_sum, number)[units.to(self.importance_sum.device)] = 0.0
                self._source.restart_units(number, units)

    def close(self) -> None:
        """Remove all hooks."""
        super().close()
        if "_source" in self.__dict__:  # not if it could not be made
            self._source.close()

    def protected(self, group: UnitGroup) -> Tensor | None:
        """As for `HAT`; with ``protect_quantile``: True for units whose importance is above the quantile."""
        if self.protect_quantile is None:
            return super().protected(group)
        if self._important is None or self._important[0] is not self.importances:
            above = [part > torch.quantile(part, self.protect_quantile) for part in self.importance_by_group().values()]
            self._important = self.importances, torch.cat(above)
        return self._protection.protected(group, self._important[1], 0)

    def importance_by_group(self) -> dict[str, Tensor]:
        """What protects the units of each group in the next, or the open, task: (num_units,), by name."""
        return self.layout.by_group(self._unit_importance())

    def _is_due(self) -> bool:
        return self._open and self._progress.step % self.every == 0

    def _unit_importance(self) -> Tensor:
        if not len(self.importances):
            return torch.zeros_like(self.embedding.detach())
        return self.summing.total(self.importances)

    def _begin_task(self) -> None:
        self._source.begin_task()
        self.importance_sum.zero_()
        self._measured = [0] * len(self.groups)

    def _before_optimizer_step(self, closure: Closure) -> Closure:
        if closure is None and self._is_due():
            self._source.check_ready()
        return super()._before_optimizer_step(closure)

    @torch.no_grad()
    def _after_step(self, has_closure: bool) -> None:
        if not self._is_due():
            self._source.skip()
            return
        if has_closure:  # which may observe batches
            self._source.check_ready()
        assert self._conditioning is not None
        reads_gradients = bool(self._source.reads & GRADIENT_SIGNALS)
        with self._conditioning.unconditioned_gradients() if reads_gradients else contextlib.nullcontext():
            found = self._source.measure(self._gates_of_the_step)
        if found is None:
            return
        scaled = self._scaling(found.values.to(self.importance_sum))
        for number in found.absent:
            self.layout.part(scaled, number).zero_()
        if self.weigh_by_gate:
            self.importance_sum.addcmul_(scaled, self._gates.values)
        else:
            self.importance_sum += scaled
        self._measured = [count + (number not in found.absent) for number, count in enumerate(self._measured)]

    def _end_task(self, mask: Tensor) -> None:
        if not any(self._measured):
            raise RuntimeError(f"no step of task {self.task!r} was measured: its units have no importance")
        self._source.check_finite()
        found = self.importance_sum.clone()
        for number, count in enumerate(self._measured):
            self.layout.part(found, number).div_(max(count, 1))
        found += self.base_importance
        if self.filter_unused:
            found *= mask
        self.importances = torch.cat([self.importances, found[None]])

    @contextlib.contextmanager
    def _gates_of_the_step(self) -> Iterator[None]:
        """Gates as in training, without gradient, whatever the mode of the network."""
        self._training_gates = [piece.detach() for piece in self._gates.parts]
        try:
            yield
        finally:
            self._training_gates = None

    def _gates_in_force(self) -> Sequence[Tensor] | None:
        return super()._gates_in_force() if self._training_gates is None else self._training_gates
