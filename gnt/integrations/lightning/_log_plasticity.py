"""LogPlasticity: a callback that checks the plasticity of a network at an interval."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from gnt._utils.validation import check_counts
from gnt.integrations._plasticity_log import PlasticityLog, PlasticityLogResults
from gnt.integrations.lightning._trainer import check_network_function, in_precision, optimizer_of


class LogPlasticity(PlasticityLogResults, Callback):
    """Runs `gnt.plasticity_check` every so many optimizer steps, and logs its figures: ``Trainer(callbacks=[...])``.

    The training is not changed: it goes on bit for bit as without the callback. With several processes, the first one
    checks and the others wait. Values on labels in a random order, the default, are to be compared between steps:
    ``lost`` rises as plasticity is lost.

    Args:
        every: the interval, in optimizer steps.
        loss: a function (output, y) -> scalar, "cross_entropy" or "mse".
        net: function of the LightningModule that returns the network; None: the module itself.
        data: batches for the check, as for `gnt.plasticity_check`. None: the training loader of the fit. Batches are
            in the trainer's precision; hooks of the module (``on_after_batch_transfer``) do not see them. If the loader
            reads an iterable data set that goes on where it stopped, pass other data: training would miss what a check
            has read.
        optimizer: the number of the optimizer, if ``configure_optimizers`` returns several; new ones like it are used.
        settings: further arguments of `gnt.plasticity_check`; by default ``fresh="labels"``, ``steps=100``,
            ``seeds=3``, ``progress=False``.

    Attributes:
        latest: the result of the latest check; None before the first.
        history: the figures of each check by step, counted over all fits.

    Raises:
        TypeError, ValueError: settings that are not allowed; what the check raises.

    >>> import lightning
    >>> from gnt.integrations.lightning import LogPlasticity
    >>> log = LogPlasticity(every=1000, loss="cross_entropy")
    >>> log.latest is None
    True
    """

    def __init__(
        self,
        *,
        every: int,
        loss: Any,
        net: Callable[[LightningModule], nn.Module] | None = None,
        data: Any = None,
        optimizer: int = 0,
        **settings: Any,
    ) -> None:
        check_counts(optimizer=optimizer)
        check_network_function(net)
        self._log = PlasticityLog(every, settings, loss, data)
        self._loss, self._net, self._data, self._optimizer = loss, net, data, optimizer

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from the first step, or from that of the checkpoint."""
        self._log.interval.begin(trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check and log at the interval."""
        step = trainer.global_step
        if not self._log.is_due(step) or not trainer.is_global_zero:
            return
        net = pl_module if self._net is None else self._net(pl_module)
        data = in_precision(trainer, trainer.train_dataloader if self._data is None else self._data)
        optimizer = optimizer_of(trainer, self._optimizer, "LogPlasticity")
        figures = self._log.check(net, optimizer, data, self._loss)
        for logger in trainer.loggers:
            logger.log_metrics(figures, step=step)
