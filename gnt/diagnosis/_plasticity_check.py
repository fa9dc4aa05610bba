"""`plasticity_check`: whether a network can still learn as a fresh one does."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from gnt._utils.autocast import no_autocast_cache
from gnt._utils.dynamo import not_compiled
from gnt.diagnosis._advice import advise, worst_layers
from gnt.diagnosis._arguments import check_settings, checked_model, checked_seeds
from gnt.diagnosis._batches import Batch, read_batches
from gnt.diagnosis._fresh import fresh_task, in_passes, pool_size
from gnt.diagnosis._generators import generators_kept, seed_generators
from gnt.diagnosis._gradients import Gradients, gradients_kept
from gnt.diagnosis._head import find_head, tensors_of_head, with_head_of
from gnt.diagnosis._layer_figures import LayerFigures, LayerReader, mean_figures
from gnt.diagnosis._learning import Curve, LossFunction, copied_loss, inputs_of, learn, loss_of, share_wrong
from gnt.diagnosis._optimizers import MakeOptimizer, fresh_optimizer
from gnt.diagnosis._progress import Progress, ProgressReport
from gnt.diagnosis._reinitialize import Reinitialize, State, fresh_tensors, load, restart_engines, tensors_of
from gnt.diagnosis._result import PlasticityCheck
from gnt.diagnosis._verdict import COPIES, PRESENT, find_gaps, judge, sentence
from gnt.diagnosis._verdict import FRESH as FRESH_COPY
from gnt.diagnosis._verdict import FRESH_HEAD as HEAD_COPY
from gnt.distributed.process_group import alone
from gnt.learners import find_loss
from gnt.names import FreshTask, LossName, PlasticityMeasure


@not_compiled
@torch.inference_mode(mode=False)
@torch.enable_grad()
def plasticity_check(
    model: nn.Module,
    make_optimizer: MakeOptimizer,
    data: Any,
    loss: LossName | LossFunction | None = None,
    *,
    steps: int = 300,
    fresh: FreshTask = "data",
    seeds: int | Sequence[int] = 5,
    batches: int | None = None,
    batch_size: int = 32,
    reinitialize: Reinitialize | None = None,
    head: str | Sequence[str] | None = None,
    measure: PlasticityMeasure | None = None,
    progress: bool | Callable[[Progress], object] = True,
) -> PlasticityCheck:
    """Measure whether a network has lost plasticity: whether it learns something new as well as a fresh network does.

    Three copies learn the same for ``steps`` steps with new optimizers, once for each seed: the *present* network; a
    *fresh* one, of the same architecture with new initial values; and the present one with a *fresh head*, its output
    layer. With m the loss or, if targets are classes, the share of wrong ones, of each batch before it is learned::

        lost = (mean m of present - mean m of fresh) / (m of fresh at the start - mean m of fresh)

    is the share of the fresh network's progress that the present one misses: 0 if both learn equally well, 1 if the
    present one learns nothing (values above the start count as the start). Intervals are Student's t over the seeds, of
    paired differences. The verdict is "some" if the interval lies above 0 and the mean is at least 0.1, and "severe" if
    the mean, that of the last quarter of the steps and that with a fresh head are at least 0.5; otherwise "none", or
    "unclear" if the fresh network does not learn either, or the interval reaches from 0 to 0.5.

    The model, its modes, buffers, gradients and hooks, the optimizer, a loss that is a module, the records of engines
    and the random generators (torch, CUDA, numpy, Python, a loader's) are left unchanged, also if the check is
    interrupted. Hooks of your own on the model run in the copies, too. It costs 3 * seeds * steps training steps, which
    is said before they start.

    Args:
        model: any module. Units of layers are measured if `gnt.trace` takes it; otherwise a note says why not.
        make_optimizer: a function of the parameters that returns an optimizer (of the network if its first argument is
            named net, model, network or module); or an optimizer of the model, of which new ones with the same settings
            and the initial learning rate are made.
        data: batches (x, y): a DataLoader, a data set, tensors (x, y), or any iterable; x is what the model takes: a
            tensor, a tuple of positional or a dict of keyword arguments. A batch that is a dict has its targets in
            "labels". An iterator is advanced by the batches that are taken.
        loss: a function (output, y) -> scalar, "cross_entropy" or "mse"; None: the ``loss`` of the output, for Hugging
            Face models that are given the labels. Of a module each copy of the network has a copy, for each seed.
        steps: number of steps of each copy.
        fresh: what is learned. "data": the data as given, which should be new to the network, such as those of the next
            task: then the verdict is about the data that you train on next. "labels": the same inputs with their
            targets in a random order, another one for each seed: a hard test, for which data seen before will do. A
            network that has learned one task well is behind in it already, so compare its value between checkpoints.
            "permutation": entries of the inputs in a random order, for networks without spatial structure.
        seeds: number of seeds (0, 1, ...), or the seeds, at least two. They determine new initial values, fresh labels,
            the order of batches, dropout.
        batches: number of batches of ``data`` to learn, over and over. None: for "labels", which have no rule and must
            be learned by heart, so many that each is seen 50 times; otherwise ``steps``, each once.
        batch_size: for tensors and data sets.
        reinitialize: a function that gives a network new initial values, in place or by returning another network, or
            one without arguments that builds a new network. None: ``reset_parameters`` of the layers, or the
            ``_init_weights`` of a Hugging Face model. Pass it if your network was initialized otherwise. Frozen
            parameters keep their values.
        head: paths of the output layers, for "fresh head". None: the layer with weights that the forward runs last.
        measure: what m is: "error", the share of wrong classes, or "loss". None: "error" if targets are integers, one
            for each row of scores that the network returns; samples of class -100, which torch's cross entropy ignores
            by default, are left out. Pass "loss" if these are not scores of classes, as in metric learning, or if the
            loss says more.
        progress: print the cost and the remaining time on stderr; False: do not; a function: call it with `Progress`.

    Returns:
        `PlasticityCheck`; print it.

    Raises:
        TypeError: arguments of the wrong type; a model that cannot be copied, is sharded, or returns no loss.
        ValueError: values out of range; no data; parameters whose initial values are not known; "error" as the measure
            where targets are not classes.

    Source: warm starts against fresh networks: Ash and Adams, NeurIPS 2020 (arXiv 1910.08475). New targets as a probe:
    Lyle et al., ICML 2023 (arXiv 2303.01486).

    >>> import torch, gnt
    >>> _ = torch.manual_seed(0)
    >>> x, y = torch.randn(64, 8), torch.randint(4, (64,))
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    >>> def adam(params):
    ...     return torch.optim.Adam(params, lr=1e-2)
    >>> check = gnt.plasticity_check(net, adam, (x, y), "cross_entropy", steps=60, seeds=3, progress=False)
    >>> check.verdict
    'none'
    """
    check_settings(loss, steps, fresh, seeds, batches, batch_size, reinitialize, measure=measure, progress=progress)
    numbers, function = checked_seeds(seeds), None if loss is None else find_loss(loss)
    model = checked_model(model)
    with generators_kept(), no_autocast_cache(), alone(), gradients_kept(model) as gradients:
        pool = read_batches(data, batches or pool_size(fresh, steps), batch_size)
        run = _Run(model, make_optimizer, function, pool, steps, fresh, numbers, reinitialize, head, measure)
        return run.result(progress, gradients)


class _Run:
    """The parts of one check."""

    def __init__(
        self,
        model: nn.Module,
        make_optimizer: MakeOptimizer,
        loss: LossFunction | None,
        pool: Sequence[Batch],
        steps: int,
        fresh: str,
        seeds: tuple[int, ...],
        reinitialize: Reinitialize | None,
        head: str | Sequence[str] | None,
        measure: str | None,
    ) -> None:
        self._model, self._make, self._loss, self._pool = model, make_optimizer, loss, pool
        self._steps, self._fresh, self._seeds, self._measure = steps, fresh, seeds, measure
        self._device = next(model.parameters()).device
        self._started = time.monotonic()
        self._present = tensors_of(model)
        self._new = {seed: fresh_tensors(model, seed, reinitialize) for seed in seeds}
        seed_generators(seeds[0])
        self._head = find_head(self._copy(), inputs_of(pool[0].to(self._device), loss), head)
        self._in_head, self._shared_head = tensors_of_head(model, self._head)

    def _copy(self) -> nn.Module:
        """A copy in training mode, with the modes of the submodules if the model is in training mode."""
        net = copy.deepcopy(self._model)
        for parameter in net.parameters():
            parameter.grad = None
        return net if net.training else net.train()

    def _copied_loss(self) -> LossFunction | None:
        return copied_loss(self._loss, self._model)

    def result(self, progress: bool | Callable[[Progress], object], gradients: Gradients) -> PlasticityCheck:
        """Learn, measure and judge."""
        fresh_optimizer(self._make, self._copy(), self._model)  # errors first
        if self._measure == "error":
            self._check_classes()
        layers = self._layers()
        total = len(COPIES) * len(self._seeds) * self._steps
        what = f"{len(COPIES)} copies x {len(self._seeds)} seeds x {self._steps} steps = {total:,} training steps"
        report = ProgressReport(total, what, progress)
        report.start()
        try:
            curves = {name: self._curves(name, report) for name in COPIES}
        finally:
            report.end()
        losses = {name: torch.stack([curve.loss for curve in own]) for name, own in curves.items()}
        errors = {name: [curve.error for curve in own if curve.error is not None] for name, own in curves.items()}
        of_classes = all(len(own) == len(self._seeds) for own in errors.values())
        by_error = of_classes and self._measure != "loss"
        measured = {name: torch.stack(own) for name, own in errors.items()} if by_error else losses
        present, fresh, why = layers
        gaps, loss_gaps = find_gaps(measured), find_gaps(losses)
        verdict, worst = judge(gaps), worst_layers(present, fresh)
        notes = [f"no figures of units: {why}"] if why else []
        if by_error and gaps.progress.low <= 0.0 < loss_gaps.progress.low:
            notes.append("a fresh network's loss falls, and its error does not: measure='loss' judges by the loss")
        if self._shared_head:
            notes.append(
                f"the output layer shares {', '.join(sorted(self._shared_head))} with other layers, which are new with "
                "it in the copy with a fresh head"
            )
        if gradients.of_model():
            notes.append(
                "the loss depends on parameters of the model itself: such terms have no effect on the copies, so put "
                "weight decay into the optimizer"
            )
        if self._fresh == "data" and gaps.lost.high < 0.0:
            notes.append("data that the network has been trained on say nothing: give new ones, or fresh='labels'")
        if not all(bool(each.isfinite().all()) for each in losses.values()):
            notes.append(
                "some losses are not finite, and count as no progress: look at inputs, targets, weights and the "
                "learning rate"
            )
        return PlasticityCheck(
            verdict=verdict,
            sentence=sentence(verdict, gaps, self._steps),
            measure="error" if by_error else "loss",
            gaps=gaps,
            loss_gaps=loss_gaps,
            curves=measured,
            losses=losses,
            present=present,
            fresh=fresh,
            worst=worst,
            advice=advise(verdict, gaps, worst),
            task=self._fresh,
            steps=self._steps,
            seeds=self._seeds,
            head=self._head,
            seconds=time.monotonic() - self._started,
            notes=tuple(notes),
        )

    def _check_classes(self) -> None:
        """Raise ValueError unless targets are classes of the outputs."""
        batch = self._pool[0].to(self._device)
        with torch.no_grad():
            output = loss_of(self._copy(), batch, self._copied_loss())[1]
        if share_wrong(output, batch.y) is None:
            raise ValueError(
                "measure='error' needs integer targets of shape (batch,) and outputs of shape (batch, classes): leave "
                "measure=None, or pass 'loss'"
            )

    def _curves(self, name: str, report: ProgressReport) -> list[Curve]:
        curves = []
        for seed in self._seeds:
            net = load(self._copy(), self._state(name, seed))
            if name == FRESH_COPY:
                restart_engines(net)
            optimizer = fresh_optimizer(self._make, net, self._model)
            batches = in_passes(fresh_task(self._pool, self._fresh, seed), self._steps, seed)
            seed_generators(seed)
            curves.append(learn(net, optimizer, batches, self._copied_loss(), self._device, report.step))
        return curves

    def _state(self, name: str, seed: int) -> State:
        if name == PRESENT:
            return self._present
        if name == FRESH_COPY:
            return self._new[seed]
        assert name == HEAD_COPY
        return with_head_of(self._present, self._new[seed], self._in_head)

    def _layers(self) -> tuple[tuple[LayerFigures, ...], tuple[LayerFigures, ...], str]:
        tasks = {seed: fresh_task(self._pool, self._fresh, seed) for seed in self._seeds}
        seed_generators(self._seeds[0])
        reader = LayerReader(self._copy(), tasks[self._seeds[0]], self._copied_loss, self._device)
        present = mean_figures([reader.measure(self._present, tasks[seed][0]) for seed in self._seeds])
        fresh = mean_figures([reader.measure(self._new[seed], tasks[seed][0]) for seed in self._seeds])
        return present, fresh, reader.without_units
