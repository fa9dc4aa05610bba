"""Processes that have imported torch and gnt already, which takes longer than most tests."""

from __future__ import annotations

import multiprocessing
from functools import cache
from multiprocessing.context import ForkServerContext

PRELOADED = ["gnt", "torch.distributed.fsdp", "torch.distributed.tensor.parallel", "torch.nn.parallel", "torch._dynamo"]


@cache
def fork_server() -> ForkServerContext:
    """The context that starts such processes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context
