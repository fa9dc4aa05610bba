"""L2 regularization: a penalty that pulls parameters towards 0."""

from __future__ import annotations

from gnt.regularization._quadratic import QuadraticPenalty


class L2(QuadraticPenalty):
    """L2 regularization: strength * sum of theta^2, a differentiable scalar to add to the loss.

    Its gradient is 2 * strength * theta. For optimizers that add weight decay to the gradient (SGD, Adam, RMSprop, ...;
    not AdamW, whose decay is decoupled) ``weight_decay=2 * strength`` is equivalent and faster. Use the penalty if you
    want to see its value, leave parameters out, or use another optimizer.

    Args:
        params: a module, whose parameters that require a gradient are used, or a list of parameters.
        strength: factor of the penalty, >= 0; may be changed later (``reg.strength = 1e-3``).

    Raises:
        TypeError: ``params`` is neither a module nor a list of parameters.
        ValueError: a strength that is negative or not finite; no parameters; a parameter that is frozen, lazy, repeated
            or not real.

    >>> import torch, gnt
    >>> net = torch.nn.Linear(4, 1)
    >>> reg = gnt.L2(net, strength=1e-3)
    >>> loss = net(torch.randn(8, 4)).square().mean() + reg()
    >>> loss.backward()
    """

    def _targets(self) -> None:
        return None
