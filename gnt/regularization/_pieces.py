"""Element-wise work over the parameters of a whole network, in pieces that fit into a processor's cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

PIECE = 1 << 18  # elements; on two cores 3 to 5 times as fast as whole tensors of 4 million elements


def in_pieces(*lists: Sequence[Tensor]) -> Iterator[list[list[Tensor]]]:
    """Split lists of tensors, of equal shapes between the lists, into parts of about `PIECE` elements.

    Each part holds one list of tensors for each of ``lists``, for the functions ``torch._foreach_...``: small tensors
    come together, and large ones of the CPU as flat views of their elements. Temporary results of one part then stay
    in the cache. Tensors on other devices come in one part.
    """
    part: list[list[Tensor]] = [[] for _ in lists]
    size = 0
    for tensors in zip(*lists, strict=True):
        on_cpu = tensors[0].device.type == "cpu"
        if on_cpu and tensors[0].numel() > PIECE and all(each.is_contiguous() for each in tensors):
            for views in zip(*(each.detach().view(-1).split(PIECE) for each in tensors), strict=True):
                yield [[view] for view in views]
            continue
        for own, each in zip(part, tensors, strict=True):
            own.append(each.detach())
        size += tensors[0].numel() if on_cpu else 0
        if size >= PIECE:
            yield part
            part, size = [[] for _ in lists], 0
    if part and part[0]:
        yield part
