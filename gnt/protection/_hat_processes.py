"""HAT in several processes: one embedding, and the mean of its gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from torch import Tensor

from gnt.distributed.process_group import resolve_process_group


def copy_from_first_process(embedding: Tensor, process_group: Any) -> None:
    """Give all processes the embedding of the first one."""
    group = resolve_process_group(process_group)
    if group is not None:
        dist.broadcast(embedding, dist.get_global_rank(group, 0), group=group)


def average_gradient(embedding: Tensor, process_group: Any) -> None:
    """Average the gradient of the embedding over the processes; one that DDP has averaged stays as it is."""
    group = resolve_process_group(process_group)
    if group is not None and embedding.grad is not None:
        dist.all_reduce(embedding.grad, group=group)
        embedding.grad.div_(dist.get_world_size(group))


def averaging_closure(closure: Callable[[], Any], embedding: Tensor, process_group: Any) -> Callable[[], Any]:
    """The closure of a step, after which the gradient of the embedding is averaged; in one process the same one."""
    if resolve_process_group(process_group) is None:
        return closure

    def averaged() -> Any:
        loss = closure()
        average_gradient(embedding, process_group)
        return loss

    return averaged
