"""LogPlasticity: a callback for the Trainer of transformers that checks plasticity at an interval."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gnt.integrations._plasticity_log import PlasticityLog, PlasticityLogResults
from gnt.integrations.huggingface._log_besides import log_besides


class LogPlasticity(PlasticityLogResults, TrainerCallback):  # type: ignore[misc,unused-ignore]
    """Runs `gnt.plasticity_check` every so many optimizer steps, and logs its figures with the trainer's reporters.

    ``trainer.add_callback(LogPlasticity(trainer, every=1000))``. The training is not changed: it goes on bit for bit as
    without the callback. With several processes, the first one checks and the others wait. Values on labels in a random
    order, the default, are to be compared between steps: ``lost`` rises as plasticity is lost.

    Args:
        trainer: the trainer, which logs the figures.
        every: the interval, in optimizer steps.
        data: batches for the check, as for `gnt.plasticity_check`. None: samples of ``trainer.train_dataset``. If that
            is an iterable data set that goes on where it stopped, pass other data: training would miss what a check has
            read.
        loss: a function (output, y) -> scalar. None: the loss that the model returns.
        settings: further arguments of `gnt.plasticity_check`; by default ``fresh="labels"``, ``steps=100``,
            ``seeds=3``, ``progress=False``.

    Attributes:
        latest: the result of the latest check; None before the first.
        history: the figures of each check by step, counted over all calls of ``train``.

    Raises:
        TypeError, ValueError: settings that are not allowed; what the check raises.
    """

    def __init__(self, trainer: Trainer, *, every: int, data: Any = None, loss: Any = None, **settings: Any) -> None:
        if not isinstance(trainer, Trainer):
            raise TypeError(f"trainer must be a transformers.Trainer, got {type(trainer).__name__}")
        self._log = PlasticityLog(every, settings, loss, data)
        self._trainer, self._data, self._loss = trainer, data, loss

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count from the first step, or from that of the checkpoint.

        Raises:
            ValueError: there is nothing to check with.
        """
        if self._data is None and self._trainer.train_dataset is None:
            raise ValueError("LogPlasticity reads train_dataset, which the trainer does not have: pass data")
        self._log.interval.begin(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Check and log at the interval."""
        trainer = self._trainer
        if self._log.is_due(state.global_step) and trainer.is_world_process_zero():
            data = self._own_data(args) if self._data is None else self._data
            model: Any = trainer.model
            figures = self._log.check(model, trainer.optimizer, data, self._loss)
            log_besides(trainer, control, dict(figures))

    def _own_data(self, args: TrainingArguments) -> DataLoader[Any]:
        """A loader of the training data, apart from the trainer's own."""
        trainer = self._trainer
        collator = trainer._get_collator_with_removed_columns(trainer.data_collator, description="training")
        order = torch.Generator().manual_seed(0)
        data: Any = trainer.train_dataset
        shuffle = not isinstance(data, IterableDataset)
        return DataLoader(data, args.per_device_train_batch_size, shuffle=shuffle, collate_fn=collator, generator=order)
