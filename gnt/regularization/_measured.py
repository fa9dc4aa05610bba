"""Base class of the penalties whose importance is measured from data at the end of a task: `EWC` and `MAS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gnt._utils.parameters import ModuleOrParameters
from gnt._utils.validation import check_positive
from gnt.distributed.process_group import check_process_group, resolve_process_group
from gnt.regularization._members import EnsembleNet, by_member, is_ensemble, member_with_names
from gnt.regularization._memory import MemoryPenalty
from gnt.regularization._per_sample import Directions, SampleGradients
from gnt.regularization._samples import batches
from gnt.units import isolated, unwrap


class MeasuredPenalty(MemoryPenalty):
    """A penalty with importance from gradients of single samples."""

    def __init__(
        self, params: ModuleOrParameters, strength: float, samples: int | None, chunk: int, process_group: Any
    ) -> None:
        check_process_group(process_group)
        check_positive(chunk=chunk, **({} if samples is None else {"samples": samples}))
        super().__init__(params, strength)
        self._samples, self._chunk, self.process_group = samples, chunk, process_group

    @torch.inference_mode(False)
    def consolidate(self, net: nn.Module, data: Any, *, output: Callable[..., Any] | None = None) -> None:
        """Measure the importance of each weight for a task, add it to A, and take the weights as anchors.

        The network is run in evaluation mode; modes, buffers, gradients, random generators and what engines have
        recorded are as before. With several processes the importance is the mean over the samples of all of them; each
        calls this method with its own data.

        Args:
            net: the network with the parameters of this object.
            data: samples of the task: x, (x, y), or an iterable of such batches. x may be a tuple or a mapping of
                tensors, for networks with several inputs. For the network of a `gnt.Ensemble` all tensors have the
                members first, (members, samples, ...): each member has the importance of its own network and data.
            output: function of the inputs that calls the network and returns the outputs that the task uses, such as
                ``lambda x: net(x)[:, 2:4]``. None: all outputs.

        Raises:
            TypeError, ValueError: no samples, labels or outputs that do not fit, or a network without or with
                other parameters than this object.
            FloatingPointError: an importance that is not finite. Nothing is changed by any of these.
        """
        self._take(self._measure(net, data, output))

    def end_task(self, net: nn.Module, data: Any, output: Callable[..., Any] | None = None) -> None:
        """Hook of learners: `consolidate`."""
        self.consolidate(net, data, output=output)

    def _directions(self) -> Directions:
        raise NotImplementedError

    def _take(self, importance: list[Tensor]) -> None:
        raise NotImplementedError

    def _scaled(self, importance: list[Tensor]) -> list[Tensor]:
        """The importance of one network, before it is added."""
        return importance

    def _measure(self, net: nn.Module, data: Any, output: Callable[..., Any] | None) -> list[Tensor]:
        group = resolve_process_group(self.process_group)
        error: Exception | None = None
        measured: list[SampleGradients] = []
        try:
            self._refresh()
            names, net = self._names_in(net), unwrap(net)
            if is_ensemble(net):
                if output is not None:
                    raise ValueError(
                        "output must be None for an ensemble: each member is run by itself, on its own data"
                    )
                parts = by_member(data, cast("EnsembleNet", net).members)
                for number, part in enumerate(parts):
                    member, own = member_with_names(net, number, self.parameters)
                    measured.append(self._measure_one(member, own, part, None))
            else:
                measured.append(self._measure_one(net, names, data, output))
        except Exception as raised:
            error = raised
        if group is not None:
            self._sum_over_processes(measured, error, group)
        if error is not None:
            raise error
        found = [self._scaled(list(each.means().values())) for each in measured]
        importance = found[0] if not is_ensemble(net) else [torch.cat(parts) for parts in zip(*found, strict=True)]
        for name, each in zip(self.names, importance, strict=True):
            if not torch.isfinite(each).all():
                raise FloatingPointError(f"the importance of parameter {name} is not finite; nothing was changed")
        return importance

    def _measure_one(
        self, net: nn.Module, names: list[str], data: Any, output: Callable[..., Any] | None
    ) -> SampleGradients:
        device = self.parameters[0].device
        own = dict(net.named_parameters())
        with isolated(net, device):
            gradients = SampleGradients(
                net, {name: own[name] for name in names}, output, self._directions(), self._chunk
            )
            for batch in batches(data, self._samples, device):
                gradients.add(batch)
        return gradients

    def _sum_over_processes(self, measured: list[SampleGradients], error: Exception | None, group: Any) -> None:
        counts = torch.tensor([float(error is not None), *(float(each.count) for each in measured)], device="cpu")
        counts = counts.to(self.parameters[0].device, torch.float64)
        failed = counts[:1].clone()
        dist.all_reduce(failed, group=group)
        if error is None and failed:
            raise RuntimeError("consolidate failed in another process; nothing was changed")
        if error is not None:
            return
        dist.all_reduce(counts, group=group)
        for number, gradients in enumerate(measured, 1):
            for each in gradients.sums.values():
                dist.all_reduce(each, group=group)
            gradients.count = int(counts[number])

    def _names_in(self, net: nn.Module) -> list[str]:
        """The names of this object's parameters in a network."""
        method = type(self).__name__
        if not isinstance(net, nn.Module):
            raise TypeError(f"net must be a module, got {type(net).__name__}")
        found = {id(each): name for name, each in unwrap(net).named_parameters()}
        for name, each in zip(self.names, self.parameters, strict=True):
            if id(each) not in found:
                raise ValueError(f"net does not have parameter {name} of this {method}: it must be the same network")
        own = {id(each) for each in self.parameters}
        if self._of_module:
            for name, each in unwrap(net).named_parameters():
                if each.requires_grad and id(each) not in own:
                    raise ValueError(
                        f"parameter {name} of net is not one of this {method}, which was built before it was added: "
                        f"call extend(net), or build {method} from a list of those it is to keep"
                    )
        return [found[id(each)] for each in self.parameters]
