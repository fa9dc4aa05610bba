"""L2 regularisation: a pull towards 0."""

from __future__ import annotations

from gnt.regularization._quadratic import Pull


class L2(Pull):
    """L2 regularisation as a penalty: strength * sum of theta^2, a differentiable scalar to add to the loss.

    Its gradient is 2 * strength * theta. So under an optimizer whose weight decay enters the gradient (SGD, Adam,
    RMSprop, ...; not AdamW, which decays beside it) the same thing is ``weight_decay=2 * strength`` in the optimizer,
    which is faster. The penalty shows its value, can leave parameters out, and works under any optimizer.

    Args:
        params: a module, whose parameters that require a gradient are taken, or a list of parameters.
        strength: a number >= 0; may be changed later (``reg.strength = 1e-3``).

    Raises:
        TypeError: neither a module nor a list of parameters.
        ValueError: a strength below 0 or not finite; no parameters; one that is frozen, lazy, given twice or not real.

    >>> import torch, gnt
    >>> net = torch.nn.Linear(4, 1)
    >>> reg = gnt.L2(net, strength=1e-3)
    >>> loss = net(torch.randn(8, 4)).square().mean() + reg()
    >>> loss.backward()
    """

    def _targets(self) -> None:
        return None
