"""`attribute`: the attributions of all units of some groups, by a method given by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gnt._utils.renamed_argument import renamed_argument
from gnt._utils.validation import check_positive
from gnt.importance.attribution import _ablation, _deeplift, _gradients, _paths
from gnt.importance.attribution._baselines import Baselines
from gnt.importance.attribution._evaluation import Evaluation, Target
from gnt.importance.attribution._reads import unit_means
from gnt.names import AttributionName
from gnt.units import ModelInputs, UnitGroup


class Attribution(NamedTuple):
    """What a method needs.

    Attributes:
        passes: forwards with backwards for all groups together, as a text with n for n_steps.
        n_steps: the default number of steps or draws; None: the method has none.
        baselines: "none", "one" (for each sample) or "several".
    """

    passes: str
    n_steps: int | None = None
    baselines: str = "none"


ATTRIBUTIONS: Mapping[str, Attribution] = {
    "gradient_activation": Attribution("1"),
    "gradcam": Attribution("1"),
    "lrp": Attribution("1"),
    "deeplift": Attribution("1, and a forward", baselines="one"),
    "deeplift_shap": Attribution("1 and a forward for each baseline", baselines="several"),
    "internal_influence": Attribution("n", 5, "one"),
    "gradient_shap": Attribution("n", 5, "one or several"),
    "conductance": Attribution("n + 1", 50, "one"),
    "integrated_gradients": Attribution("n for each group", 50, "one"),
    "ablation": Attribution("a forward for each unit"),
}


def find_attribution(method: str, argument: str = "method") -> Attribution:
    """The entry of `ATTRIBUTIONS` with that name.

    Raises:
        ValueError: there is none; the message lists all names.
    """
    if not isinstance(method, str) or method not in ATTRIBUTIONS:
        near = difflib.get_close_matches(str(method), ATTRIBUTIONS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{argument} must be one of {', '.join(ATTRIBUTIONS)}, got {method!r}{hint}")
    return ATTRIBUTIONS[method]


@renamed_argument("model", "net")
def attribute(
    net: nn.Module,
    groups: Iterable[UnitGroup],
    x: ModelInputs,
    target: Target = None,
    *,
    method: AttributionName = "gradient_activation",
    n_steps: int | None = None,
    baselines: ModelInputs | None = None,
    chunk: int = 1024,
    generator: torch.Generator | None = None,
) -> list[Tensor]:
    """Attribute the network's output to the units of some groups, at what their consumers read.

    With F the output of a sample's target class, h the feature as consumers read it, x0 the baseline input, h0 = h(x0)
    and mean the mean over samples and places, the value of a unit is

        gradient_activation   mean |h dF/dh|
        gradcam               mean |h (mean of dF/dh over the places of the channel)|, also of flattened channels
        lrp                   mean |relevance|, which is h dF/dh for relu and its leaky relatives; others are refused
        deeplift              mean |m (h - h0)|, m the multipliers of the rescale rule
        deeplift_shap         the same, with the mean of m (h - h0) over several baselines inside
        conductance           mean |sum_k dF/dh(x_k) (h(x_k+1) - h(x_k))|, x_k = x0 + a_k (x - x0)
        internal_influence    mean |sum_k w_k dF/dh(x_k)|
        gradient_shap         mean |mean over draws of dF/dh(x0 + u (x - x0)) (h - h0)|, u uniform in (0, 1)
        integrated_gradients  mean |(h - h0) sum_k w_k dF/dh at h0 + a_k (h - h0)|
        ablation              mean |F - F without the unit|

    a_k and w_k are nodes and weights of the Gauss-Legendre rule on [0, 1] with n_steps points (n_steps + 1 for
    conductance). The forwards are in evaluation mode; modes, buffers, ``.grad``, random generators and what engines
    record are afterwards as before.

    Args:
        net: the network.
        groups: its unit groups, from `walk` or `trace`.
        x: what the network takes: a tensor, a tuple of arguments or a mapping of keyword arguments; samples first.
            Methods with a baseline move the floating point tensors among them and pass others, and those without
            dimensions, as they are.
        target: class of each sample, (N,); or a function of the output that returns one value per sample, (N,); None
            for outputs of one value per sample.
        method: one of the names above.
        n_steps: number of steps or draws; by default 50 for conductance and integrated_gradients, 5 for
            internal_influence and gradient_shap. Other methods have none.
        baselines: x0, in the structure of ``x``, one for each sample or (1, ...) for all; None: zeros. For
            deeplift_shap and gradient_shap a set of any number of baselines, all of which, or random ones, are compared
            with each sample; deeplift_shap needs one.
        chunk: for ablation, the number of samples in one forward, at most. Give 1 if the outputs of one sample depend
            on the others in evaluation mode (where a batch norm without running statistics is the cause, this is done).
        generator: for gradient_shap. None: torch's global generator, which does not advance.

    Returns:
        One tensor (num_units,) for each group. Units that the output does not depend on have 0.

    Raises:
        ValueError: an unknown method; groups that are not the network's; a target that does not fit; an argument that
            the method does not take; an operation that deeplift or lrp cannot pass (the message names it).
        TypeError: an argument of another type.

    Sources: DeepLIFT arXiv 1704.02685; conductance 1805.12233; internal influence 1802.03788; integrated gradients
    1703.01365; SHAP 1705.07874; Grad-CAM 1610.02391; LRP, PLOS ONE 10(7), 2015.

    >>> import torch, gnt
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> x, y = torch.randn(16, 4), torch.randint(3, (16,))
    >>> (value,) = gnt.importance.attribute(net, gnt.walk(net), x, y, method="ablation")
    >>> h = net[:2](x)
    >>> torch.allclose(value, (h * net[2].weight[y]).abs().mean(0))
    True
    """
    entry = find_attribution(method)
    check_attribution(method, n_steps, baselines)
    check_positive(chunk=chunk)
    groups = _checked_groups(groups)
    _check(net, groups, target, generator)
    steps = _steps(method, entry, n_steps)
    with torch.inference_mode(mode=False):  # inside of it there are no gradients, and all would be 0
        given = Baselines(x, baselines, method, entry.baselines)
        of = Evaluation(net, groups, x, target)
        with of.isolated():
            return _values(of, method, steps, given, chunk, generator)


def check_attribution(method: str, n_steps: Any = None, baselines: Any = None, chunk: Any = None) -> None:
    """Check a method and its settings without inputs; arguments and errors are those of `attribute`."""
    entry = find_attribution(method)
    _steps(method, entry, n_steps)
    if entry.baselines == "none" and baselines is not None:
        raise ValueError(f"baselines must be None for {method!r}, which compares with none")
    if entry.baselines == "several" and baselines is None:
        raise ValueError(
            f"{method!r} needs baselines: a set of inputs in the structure of x, such as some samples of the task"
        )
    if chunk is not None:
        check_positive(chunk=chunk)


def _values(
    of: Evaluation, method: str, n: int, given: Baselines, chunk: int, generator: torch.Generator | None
) -> list[Tensor]:
    groups = of.groups
    if method == "ablation":
        return _ablation.ablation(of, chunk)
    if method == "integrated_gradients":
        return [
            unit_means(groups, *_paths.integrated_gradients(of, given.for_each_sample(), n, number))[number]
            for number in range(len(groups))
        ]
    if method == "deeplift":
        return unit_means(groups, *_deeplift.deeplift(of, given.for_each_sample(), method))
    if method == "deeplift_shap":
        several = [_deeplift.deeplift(of, baseline, method) for baseline in given.each_for_all_samples()]
        means = [torch.stack(terms).mean(0) for terms in zip(*(terms for _, terms in several), strict=True)]
        return unit_means(groups, several[0][0], means)
    if method == "gradient_shap":
        draws = given.draws(n, generator)
        return unit_means(groups, *_paths.gradient_shap(of, *draws, given.between))
    along = {"conductance": _paths.conductance, "internal_influence": _paths.internal_influence}
    if method in along:
        return unit_means(groups, *along[method](of, given.for_each_sample(), n, given.between))
    by_gradient = {
        "gradient_activation": _gradients.gradient_activation,
        "gradcam": _gradients.gradcam,
        "lrp": _gradients.lrp,
    }
    return unit_means(groups, *by_gradient[method](of))


def _checked_groups(groups: Any) -> tuple[UnitGroup, ...]:
    if isinstance(groups, UnitGroup):
        raise TypeError(f"groups must be a list of unit groups, got one: pass [group] for group {groups.name!r}")
    found = tuple(groups) if isinstance(groups, Iterable) else (groups,)
    if not found or not all(isinstance(group, UnitGroup) for group in found):
        got = ", ".join(dict.fromkeys(type(group).__name__ for group in found)) or "none"
        raise TypeError(f"groups must be unit groups, from gnt.walk or gnt.trace, got {got}")
    return found


def _check(net: Any, groups: tuple[UnitGroup, ...], target: Any, generator: Any) -> None:
    if not isinstance(net, nn.Module):
        raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
    modules = set(net.modules())
    for slot in (slot for group in groups for slot in group.outgoing):
        if slot.module not in modules:
            raise ValueError(f"groups must be those of the model: it does not contain the module of {slot.name!r}")
    if isinstance(target, Tensor):
        if target.ndim != 1 or target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
            raise ValueError(f"target must be class indices (N,), got {target.dtype} {tuple(target.shape)}")
    elif target is not None and not callable(target):
        raise TypeError(f"target must be class indices (N,), a function or None, got {type(target).__name__}")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {type(generator).__name__}")


def _steps(method: str, entry: Attribution, n_steps: Any) -> int:
    if entry.n_steps is None:
        if n_steps is not None:
            raise ValueError(f"n_steps must be None for {method!r}, which has no steps, got {n_steps!r}")
        return 0
    if n_steps is None:
        return entry.n_steps
    if isinstance(n_steps, bool) or not isinstance(n_steps, int) or n_steps < 1:
        raise ValueError(f"n_steps must be an integer of at least 1 or None, got {n_steps!r}")
    return n_steps
