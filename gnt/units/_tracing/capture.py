"""`capture`: the forward of a model as a graph, recorded, or exported by torch.export where that is not possible."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from gnt.units._tracing.exported import export_forward
from gnt.units._tracing.graph import Graph
from gnt.units._tracing.isolation import Restore
from gnt.units._tracing.outputs import OutputCollector
from gnt.units._tracing.quiet import quiet
from gnt.units._tracing.recorded import Recorder


class Captures:
    """Captures forwards of one model inside `preserve_model`, whose ``restore`` puts the model back in between."""

    def __init__(self, model: nn.Module, restore: Restore) -> None:
        self._model, self._restore = model, restore
        try:
            self._recorder: Recorder | None = Recorder(model)
        except Exception:  # a tensor subclass, or a device without fake tensors
            self._recorder = None

    def capture(self, args: Sequence[Any], kwargs: Mapping[str, Any], *, training: bool) -> Graph:
        """Capture one forward in training or evaluation mode; raises the exceptions of torch.export."""
        if self._recorder is not None:
            try:
                with self._forward(training) as collector:
                    return self._recorder.record(args, kwargs, collector)
            except Exception:  # torch.export may follow it, and its error is the one to show if not
                pass
            finally:
                self._restore()
        try:
            with self._forward(training) as collector:
                return export_forward(self._model, args, kwargs, collector)
        finally:
            self._restore()

    @contextlib.contextmanager
    def _forward(self, training: bool) -> Iterator[OutputCollector]:
        """Context manager for one forward in a mode, whose output is a list of tensors."""
        self._model.train(training)
        collector = OutputCollector(self._model)
        hooks = [
            self._model.register_forward_pre_hook(collector.start),
            self._model.register_forward_hook(collector),
        ]
        try:
            with torch.enable_grad(), quiet():
                yield collector
        finally:
            for hook in hooks:
                hook.remove()
