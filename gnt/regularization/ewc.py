"""Elastic weight consolidation."""

from __future__ import annotations

from typing import Any, get_args

import torch
from torch import Tensor

from gnt._utils.generators import new_generator
from gnt._utils.parameters import ModuleOrParameters
from gnt._utils.settings import checked_settings, flag, share
from gnt._utils.state_dicts import Kind, random_state
from gnt.names import AnchorMode, FisherName, LikelihoodName
from gnt.regularization._likelihoods import FISHERS, LIKELIHOODS, FisherDirections
from gnt.regularization._measured import MeasuredPenalty

MODES = get_args(AnchorMode)


@checked_settings(normalize=flag, fixed=("mode", "fisher", "likelihood"))
class EWC(MeasuredPenalty):
    """Elastic weight consolidation: strength/2 * sum of A (theta - mu)^2, with A the diagonal Fisher information.

    At the end of a task with weights theta_t, `consolidate` measures the Fisher information F_t of the task:

        F_t = mean over x of sum_c p(c|x) (d log p(c|x) / d theta)^2      gradients of single samples, at theta_t
        "separate"  mu <- (A mu + F_t theta_t) / (A + F_t),  A <- A + F_t
        "online"    mu <- theta_t,                           A <- decay * A + F_t

    "separate" has the gradient of one penalty strength/2 * F_t (theta - theta_t)^2 for each task, as in Kirkpatrick et
    al., with two numbers per weight for any number of tasks. "online" is that of Schwarz et al.

    Args:
        params: a module, whose parameters that require a gradient are used, or a list of parameters.
        strength: factor of the penalty, >= 0. Its useful size depends on the Fisher information and on the optimizer;
            see `report`.
        mode: "separate" or "online".
        decay: factor of the earlier importance in mode "online", in [0, 1].
        fisher: "exact": sum over all labels c, by one backward pass for each. "sample": one label, drawn from p(c|x).
            "empirical": the label y of the data, which `consolidate` then needs.
        likelihood: "categorical": outputs are logits, (samples, classes). "bernoulli": each output is a logit of its
            own. "gaussian": outputs are means with variance 1, for squared losses;
            F = mean over x of sum_k (d f_k / d theta)^2.
        samples: use at most so many samples of the data, the first ones; None: all.
        normalize: divide F_t by its mean over all elements of all parameters, so that tasks count alike.
        chunk: the largest number of samples at once, which bounds memory.
        generator: generator of drawn labels; None makes one for "sample", seeded from torch's global generator.
        process_group: the processes over whose samples importances are means, as for `GnT`. None: all; False: this one
            alone.

    Raises:
        TypeError: ``params`` is neither a module nor a list of parameters, or has a sharded one.
        ValueError: a setting out of range; no parameters; one that is frozen, lazy, repeated or not real.

    Sources: Kirkpatrick et al., PNAS 2017 (arXiv 1612.00796), Eq. 3; Schwarz et al., ICML 2018 (arXiv 1805.06370),
    section 4; van de Ven, arXiv 2502.11756, on ways to compute the Fisher information.

    >>> import torch, gnt
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> ewc = gnt.EWC(net, strength=100.0)
    >>> x, y = torch.randn(16, 4), torch.randint(3, (16,))
    >>> loss = torch.nn.functional.cross_entropy(net(x), y) + ewc()
    >>> loss.backward()
    >>> ewc.consolidate(net, x)                 # at the end of a task
    >>> ewc().item(), ewc.tasks
    (0.0, 1)
    """

    _half = 0.5

    def __init__(
        self,
        params: ModuleOrParameters,
        strength: float,
        *,
        mode: AnchorMode = "separate",
        decay: float = 1.0,
        fisher: FisherName = "exact",
        likelihood: LikelihoodName = "categorical",
        samples: int | None = None,
        normalize: bool = False,
        chunk: int = 256,
        generator: torch.Generator | None = None,
        process_group: Any = None,
    ) -> None:
        for name, value, allowed in (
            ("mode", mode, MODES),
            ("fisher", fisher, FISHERS),
            ("likelihood", likelihood, LIKELIHOODS),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
        self.mode, self.decay, self.normalize = mode, decay, normalize
        if generator is not None and not isinstance(generator, torch.Generator):
            raise TypeError(f"generator must be a torch.Generator or None, got {type(generator).__name__}")
        super().__init__(params, strength, samples, chunk, process_group)
        self.fisher, self.likelihood = fisher, likelihood
        if generator is None and fisher == "sample":
            generator = new_generator(self.parameters[0].device)
        self.generator = generator

    @property
    def expects_classes(self) -> str | None:
        """For learners: what to pass if outputs are no logits; None if they need not be."""
        return "give EWC likelihood='gaussian'" if self.likelihood == "categorical" else None

    @property
    def decay(self) -> float:
        """Factor of the importance of earlier tasks with ``mode="online"``; a new value holds from the next task on."""
        return self._decay

    @decay.setter
    def decay(self, decay: float) -> None:
        decay = share("decay", decay)
        if self.mode == "separate" and decay != 1:
            raise ValueError(f"decay needs mode='online', got decay={decay:g} with mode='separate'")
        self._decay = decay

    def _directions(self) -> FisherDirections:
        return FisherDirections(self.fisher, self.likelihood, self.generator)

    def _measure(self, *args: Any) -> list[Tensor]:
        state = None if self.generator is None else self.generator.get_state()
        try:
            return super()._measure(*args)
        except Exception:
            if self.generator is not None and state is not None:
                self.generator.set_state(state)
            raise

    def _scaled(self, importance: list[Tensor]) -> list[Tensor]:
        if not self.normalize:
            return importance
        mean = float(sum(each.sum(dtype=torch.float64) for each in importance))
        mean /= sum(each.numel() for each in importance)
        return [each / mean if mean else each for each in importance]

    @torch.no_grad()
    def _take(self, importance: list[Tensor]) -> None:
        anchors = [parameter.detach().clone() for parameter in self.parameters]
        if self.mode == "online":
            total = [self.decay * old + new for old, new in zip(self._importance, importance, strict=True)]
        else:
            total = [old + new for old, new in zip(self._importance, importance, strict=True)]
            for i, (new, whole) in enumerate(zip(importance, total, strict=True)):
                share = torch.where(whole > 0, new / whole, 1.0)
                old = self._anchors[i].to(share.dtype)
                anchors[i] = torch.lerp(old, anchors[i].to(share.dtype), share).to(anchors[i].dtype)
        self._set(total, anchors, self.tasks + 1)

    def _kinds(self) -> dict[str, Kind]:
        own = {} if self.generator is None else {"generator": random_state(self.generator)}
        return {**super()._kinds(), **own}

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of importance and anchors, the number of tasks, and the generator. Settings are not saved."""
        own = {} if self.generator is None else {"generator": self.generator.get_state()}
        return {**super().state_dict(), **own}

    def load_checked_state(self, state: Any) -> None:
        """Load the result of `checked_state`."""
        super().load_checked_state(state)
        if self.generator is not None:
            self.generator.set_state(state["generator"])
