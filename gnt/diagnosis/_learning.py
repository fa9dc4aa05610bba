"""One copy learns, and what it shows meanwhile: loss and error of each batch before it is learned."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gnt.diagnosis._batches import TARGET, Batch
from gnt.learners import IGNORED_TARGET, check_mse_shapes
from gnt.units import ModelInputs, call_model

LossFunction = Callable[[Any, Any], Tensor]


class Curve(NamedTuple):
    """Values of each step: the loss, and the share of wrong classes if the targets are classes; float64, on the CPU.

    The error of a step whose loss is not finite, or whose outputs have a NaN, is NaN: the largest of NaNs is no answer.
    (Scores of classes that a model masks may be infinite.)
    """

    loss: Tensor
    error: Tensor | None


def copied_loss(loss: LossFunction | None, model: nn.Module) -> LossFunction | None:
    """A copy of a loss that is a module, whose state a forward may change; any other is returned as it is.

    Parameters of ``model`` are not copied, so that their gradients show whether the loss depends on them. Results of
    earlier forwards that the module keeps are copied without their graph.

    Raises:
        TypeError: a module that cannot be copied.
    """
    if not isinstance(loss, nn.Module):
        return loss
    kept: dict[int, Any] = {id(each): each for each in model.parameters()}
    for module in loss.modules():
        for value in (*vars(module).values(), *module.buffers(recurse=False)):
            if isinstance(value, Tensor) and not value.is_leaf:
                kept[id(value)] = value.detach().clone()
    try:
        own: LossFunction = copy.deepcopy(loss, kept)
    except Exception as error:
        raise TypeError(
            "loss must be a module that copy.deepcopy copies, or a function such as lambda output, y: loss(output, y), "
            f"whose state the check may change; got an error: {error}"
        ) from error
    return own


def inputs_of(batch: Batch, loss: LossFunction | None) -> ModelInputs:
    """What the network is given: the inputs, and without a loss function the targets, too (Hugging Face models)."""
    return {**batch.x, TARGET: batch.y} if loss is None and isinstance(batch.x, dict) else batch.x


def loss_of(net: nn.Module, batch: Batch, loss: LossFunction | None) -> tuple[Tensor, Any]:
    """The loss of a batch and the network's output.

    Without a loss function the loss is that of the network's output: its attribute or its entry ``loss``.

    Raises:
        TypeError, ValueError: no loss of one number.
    """
    if loss is None:
        output = call_model(net, inputs_of(batch, loss)) if isinstance(batch.x, dict) else None
        value = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if not isinstance(value, Tensor):
            raise TypeError("loss must be a function (output, y): batches and outputs have none of their own")
    else:
        output = call_model(net, batch.x)
        check_mse_shapes(loss, output, batch.y)
        value = loss(output, batch.y)
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"loss must return one number for the batch, as a tensor, got {got}")
    return value.reshape(()), output


@torch.inference_mode(mode=False)
@torch.enable_grad()
def learn(
    net: nn.Module,
    optimizer: Optimizer,
    batches: Iterable[Batch],
    loss: LossFunction | None,
    device: torch.device,
    on_step: Callable[[], None],
) -> Curve:
    """Train ``net`` on the batches, one step each; ``on_step`` is called after each."""
    losses, errors, counted = [], [], []
    for each in batches:
        batch = each.to(device)
        optimizer.zero_grad(set_to_none=True)
        value, output = loss_of(net, batch, loss)
        value.backward()
        optimizer.step()
        losses.append(value.detach())
        wrong = share_wrong(output, batch.y)
        if wrong is not None:
            errors.append(torch.where(value.detach().isfinite(), wrong, torch.nan))
            counted.append((batch.y.long() != IGNORED_TARGET).any())
        on_step()
    on_cpu = torch.stack(losses).double().cpu()
    if len(errors) < len(losses):
        return Curve(on_cpu, None)
    return Curve(on_cpu, _without_gaps(torch.stack(errors).double().cpu(), torch.stack(counted).cpu()))


def _without_gaps(values: Tensor, known: Tensor) -> Tensor:
    """The values, where those that are not known are the last known ones before them, at the start the first one."""
    if not known.any():
        return values
    numbers = torch.arange(len(values), device=values.device)
    latest = torch.where(known, numbers, -1).cummax(0).values
    return values[latest.where(latest >= 0, int(known.int().argmax()))]


def share_wrong(output: Any, y: Tensor) -> Tensor | None:
    """Share of samples whose largest output is not their class; None if the targets are not classes.

    Samples of class -100, which cross entropy ignores by default, are left out; NaN if that is all of them.
    """
    scores = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", output)
    if not isinstance(scores, Tensor) or y.is_floating_point() or y.dtype == torch.bool:
        return None
    if scores.ndim != 2 or y.shape != scores.shape[:1] or scores.shape[1] < 2:
        return None
    scores, counted = scores.detach(), y.long() != IGNORED_TARGET
    wrong = ((scores.argmax(1) != y) & counted).sum().double() / counted.sum()
    return torch.where(scores.isnan().any(), torch.nan, wrong)
