"""Methods: what else acts in a learner's step, such as penalties, replay and resets, composed from hooks.

A method is an object with any of these hooks, which a learner calls in the order of its list:

    before_batch(x, y)  before the forward: None, or the batch (x, y) to learn from in its place
    penalty()           a scalar that is added to the loss; it gets x, y, output (the network's) as far as its signature
                        names them
    penalty_backward()  called after the backward pass in place of `penalty`: adds the gradient of the penalty to
                        ``.grad`` by itself, where that costs less. The penalty's value is then not computed or checked
    functional_penalty()    the same penalty as a `gnt.regularization.FunctionalPenalty`, or None for a step without
                        one: a learner with ``compile=True`` makes it a part of its graph, in place of the two above
    after_backward()    gradients are in ``.grad`` and may be changed in place
    after_step()        after the optimizer's step and the replacement of units. A true attribute ``reads_gradients``
                        says that it reads ``.grad``, which a learner with ``compile=True`` leaves only if asked
    begin_task(...), end_task(...)      called by the learner's functions of these names; a hook gets the keywords given
                        there, and ``net`` and ``optimizer``, the learner's, as far as its signature names them

It may have ``state_dict`` and ``load_state_dict``, which become part of the learner's state, and

    parameter_group(optimizer)  the group of its own parameters, as for ``optimizer.add_param_group``, that its
                        `begin_task` gives the optimizer. A learner that loads a state adds it to an optimizer that
                        lacks it, or removes it, as the saved optimizer had it or not
    keep_batch()        called where gradients accumulate, after each batch that no step follows: `after_step` is meant
                        for all batches kept, and the last one. Learners make a step of each batch and do not call it
    after_load(optimizer)       called after a state was loaded, with the learner's optimizer: the method goes on with
                        it, such as with the hooks of an open task

``discard()`` is called when a step fails before its update, and drops what was kept for it. A true attribute
``records_gradient`` says that its `penalty_backward` takes ``.grad`` for the gradient of the loss: it is called after
those of the others. A true attribute ``watches_forward`` says that it has hooks on layers, which a compiled graph would
not call; a true attribute ``keeps_samples`` that its state may be large, so that it is not copied before the hooks of
tasks. ``expects_classes`` is set if it takes outputs for logits of classes, to what its user passes for other targets;
a learner with "mse" warns. If it keeps numbers per weight (`gnt.replacement.Follower`) of units that the learner's
engine replaces, it follows that.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

from gnt._utils.stack_level import user_level
from gnt.regularization import FunctionalPenalty
from gnt.replacement import GnT

_FIT_ANY = frozenset({"net", "task", "data", "optimizer", "steps_per_epoch"})
HOOKS = ("before_batch", "penalty", "penalty_backward", "after_backward", "after_step", "begin_task", "end_task")


class Methods(tuple[Any, ...]):
    """The methods of a learner, in order."""

    _penalties: list[tuple[Any, tuple[str, ...]]]  # the methods with penalties in the loss, and what these take
    _gradients: list[Any]  # the methods that add the gradients of their penalties themselves

    @classmethod
    def checked(cls, given: Any) -> Methods:
        """The methods of a list.

        Raises:
            TypeError: not a list or tuple, an item without any hook, or one whose hook is not a function.
            ValueError: an item that is listed twice.
        """
        if isinstance(given, (str, bytes)) or not isinstance(given, (list, tuple)):
            raise TypeError(f"methods must be a list of objects with hooks, got {type(given).__name__}")
        for number, each in enumerate(given):
            name = f"methods[{number}]"
            if isinstance(each, type):
                raise TypeError(f"{name} must be an object, got the class {each.__name__}: build it first")
            own = [hook for hook in HOOKS if hasattr(each, hook)]
            if not own:
                raise TypeError(
                    f"{name} must have one of {', '.join(HOOKS)}, got {type(each).__name__}, which has none"
                )
            for hook in own:
                if not callable(getattr(each, hook)):
                    raise TypeError(f"{name}: {hook} of {type(each).__name__} must be a function")
            if hasattr(each, "functional_penalty") and not {"penalty", "penalty_backward"} & {*own}:
                raise TypeError(
                    f"{name}: {type(each).__name__} has functional_penalty and must have penalty, too: steps that are "
                    "not compiled call that"
                )
            if any(each is other for other in given[:number]):
                raise ValueError(f"{name} is listed twice: this {type(each).__name__} would act twice in each step")
        methods = cls(given)
        own = list(methods.having("penalty_backward"))
        methods._gradients = sorted(own, key=lambda each: bool(getattr(each, "records_gradient", False)))
        for each in methods.having("penalty"):
            if hasattr(each, "penalty_backward"):
                continue
            taken, missing = _accepted(each.penalty, dict.fromkeys(("x", "y", "output")))
            if missing:
                raise TypeError(
                    f"penalty of {type(each).__name__} needs {', '.join(missing)}; a learner has x, y and output"
                )
            methods._penalties.append((each, tuple(taken)))
        return methods

    def warn_of_loss(self, loss: Any) -> None:
        """Warn if a method takes outputs for logits of classes, while the loss is "mse"."""
        for each in self:
            remedy = getattr(each, "expects_classes", None)
            if remedy and loss is F.mse_loss:
                warnings.warn(
                    f"{type(each).__name__} takes outputs for logits of classes, and the loss is 'mse': {remedy}",
                    stacklevel=user_level(),
                )

    def __new__(cls, given: Iterable[Any] = ()) -> Methods:
        methods = super().__new__(cls, given)
        methods._penalties, methods._gradients = [], []
        return methods

    def having(self, hook: str) -> Iterator[Any]:
        """The methods that have a hook."""
        return (each for each in self if hasattr(each, hook))

    def before_batch(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The batch to learn from.

        Raises:
            TypeError: a method returned something else than None or a pair.
        """
        for each in self.having("before_batch"):
            batch = each.before_batch(x, y)
            if batch is None:
                continue
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                raise TypeError(
                    f"before_batch of {type(each).__name__} must return None or (x, y), got {type(batch).__name__}"
                )
            x, y = batch
        return x, y

    def penalty(self, x: Tensor, y: Tensor, output: Tensor) -> Tensor | None:
        """The sum of all penalties that are part of the loss; None if there are none.

        Raises:
            ValueError: a penalty that is not a real scalar tensor.
            FloatingPointError: one that is not finite (checked on the CPU).
        """
        total: Tensor | None = None
        at_hand = {"x": x, "y": y, "output": output}
        for each, names in self._penalties:
            value = each.penalty(**{name: at_hand[name] for name in names})
            if not isinstance(value, Tensor) or value.ndim or not value.is_floating_point():
                got = f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"{value!r:.80}"
                raise ValueError(f"penalty of {type(each).__name__} must return a real scalar tensor, got {got}")
            if value.device.type == "cpu" and not torch.isfinite(value):
                raise FloatingPointError(f"the penalty of {type(each).__name__} is {value.item()}; nothing was changed")
            total = value if total is None else total + value
        return total

    @property
    def need_gradients(self) -> bool:
        """True if a method reads or changes gradients outside the graph of a learner with ``compile=True``."""
        return any(
            hasattr(each, "after_backward")
            or getattr(each, "reads_gradients", False)
            or (hasattr(each, "penalty_backward") and not _has_functional_penalty(each))
            for each in self
        )

    def after_backward(self) -> None:
        """Add the gradients of penalties that are not part of the loss, then call the hooks of this name."""
        for each in self._gradients:
            each.penalty_backward()
        for each in self.having("after_backward"):
            each.after_backward()

    def after_step(self) -> list[Tensor]:
        """Call the hooks of this name; the units that methods replaced, for each of their groups."""
        units: list[Tensor] = []
        for each in self.having("after_step"):
            each.after_step()
            units += getattr(each, "replaced", ())
        return units

    def tell(self, hook: str, info: Mapping[str, Any]) -> None:
        """Call a hook for the begin or end of a task, with those of ``info`` that its signature names.

        Raises:
            TypeError: a hook needs an argument that is not given, or one is given that no hook takes and that is none
                of net, task, data, optimizer and steps_per_epoch, which fit any method. Nothing is called.

        If a hook fails, the methods before it have the state that they had, but for those that keep samples, which the
        hooks of tasks do not change. What they did to the network itself, as
        `PackNet` and `FIRE` do at the end of a task, stays, and `HAT` is to be resumed as after loading.
        """
        calls = [(each, *_accepted(getattr(each, hook), info)) for each in self.having(hook)]
        for each, _, missing in calls:
            if missing:
                raise TypeError(
                    f"{hook} of {type(each).__name__} needs {', '.join(missing)}: give {hook}({missing[0]}=...)"
                )
        taken = {name for _, arguments, _ in calls for name in arguments}
        unknown = [name for name in info if name not in taken | _FIT_ANY]
        if unknown and calls:
            raise TypeError(f"{hook} got {', '.join(unknown)}, which no method takes")
        before = [_small_state(each) for each, *_ in calls[:-1]]
        for number, (each, arguments, _) in enumerate(calls):
            try:
                getattr(each, hook)(**arguments)
            except Exception:
                for (earlier, *_), state in zip(calls[:number], before, strict=False):
                    if state is not None:
                        earlier.load_state_dict(state)
                raise

    def discard(self) -> None:
        """Drop what methods have recorded in a step that failed."""
        for each in reversed([*self.having("discard")]):  # the last draws are undone first
            each.discard()

    def follow(self, engine: GnT) -> None:
        """Let methods with numbers per weight of the engine's units follow it."""
        own = {id(parameter) for group in engine.groups for _, parameter, _ in group.slices()}
        for each in self.having("reset_units"):
            held = getattr(each, "followed_parameters", getattr(each, "parameters", None))
            concerned = held is None or callable(held) or not own.isdisjoint(map(id, held))
            if concerned and not engine.is_followed_by(each):
                engine.follow(each)

    def functional_penalties(self, *, whole_step: bool) -> list[FunctionalPenalty]:
        """The penalties of this step as pure functions, for a graph.

        Args:
            whole_step: the graph includes the optimizer's step. After other graphs `after_backward` is called, so those
                with ``penalty_backward`` are left to it.

        Raises:
            TypeError: a method returned something else.
        """
        taken = [each for each in self if whole_step or not hasattr(each, "penalty_backward")]
        found = [(each, each.functional_penalty()) for each in filter(_has_functional_penalty, taken)]
        for each, penalty in found:
            if not (penalty is None or isinstance(penalty, FunctionalPenalty)):
                raise TypeError(
                    f"functional_penalty of {type(each).__name__} must return a gnt.regularization.FunctionalPenalty "
                    f"or None, got {type(penalty).__name__}"
                )
        return [penalty for _, penalty in found if penalty is not None]

    def check_compilable(self) -> None:
        """Raise TypeError for methods of which a compiled graph of loss and backward would leave a part out."""
        for each in self:
            outside = "the graph cannot call its penalty"
            if getattr(each, "watches_forward", False):
                outside = "the graph would not call its hooks on layers"
            elif not hasattr(each, "penalty") or hasattr(each, "penalty_backward") or _has_functional_penalty(each):
                continue
            raise TypeError(
                f"compile=True runs loss and backward as one graph, and {type(each).__name__} would not be part of "
                f"it: {outside}. Leave compile=False"
            )

    def state_dict(self) -> list[Any]:
        """The state of each method; None for those without."""
        return [each.state_dict() if hasattr(each, "state_dict") else None for each in self]

    def check_saved(self, saved: Any) -> None:
        """Raise ValueError unless ``saved`` has as many states, of methods with and without state in the same order."""
        stateful = [hasattr(each, "state_dict") for each in self]
        if not isinstance(saved, (list, tuple)) or [each is not None for each in saved] != stateful:
            own = ", ".join(type(each).__name__ for each in self)
            got = f"{len(saved)} states" if isinstance(saved, (list, tuple)) else type(saved).__name__
            raise ValueError(f"state_dict has 'methods' that are not those of this learner ({own}): got {got}")

    def after_load(self, optimizer: Optimizer) -> None:
        """Call the hooks of this name, after the state of a learner with this optimizer was loaded."""
        for each in self.having("after_load"):
            each.after_load(optimizer)

    def load_state_dict(self, saved: list[Any]) -> None:
        """Load the result of `state_dict`; if one of them fails, all are as before."""
        self.check_saved(saved)
        before = self.state_dict()
        for number, (each, state) in enumerate(zip(self, saved, strict=True)):
            try:
                if state is not None:
                    each.load_state_dict(state)
            except Exception:
                for earlier, kept in zip(self[:number], before, strict=False):
                    if kept is not None:
                        earlier.load_state_dict(kept)
                raise


def _small_state(method: Any) -> Any:
    """A copy of a method's state; None for those without, and for those that keep samples, which may be large."""
    has_both = hasattr(method, "state_dict") and hasattr(method, "load_state_dict")
    return copy.deepcopy(method.state_dict()) if has_both and not getattr(method, "keeps_samples", False) else None


def _has_functional_penalty(method: Any) -> bool:
    """Whether a method has a functional penalty that no subclass or object has made outdated by another penalty."""
    owners = [getattr(method, "__dict__", {}), *map(vars, type(method).__mro__)]
    first = {
        hook: next((place for place, names in enumerate(owners) if hook in names), len(owners))
        for hook in ("functional_penalty", "penalty", "penalty_backward")
    }
    return first["functional_penalty"] < len(owners) and first["functional_penalty"] == min(first.values())


def _accepted(function: Callable[..., Any], info: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The entries of ``info`` that a function takes by name, and the required ones that are missing."""
    parameters = inspect.signature(function).parameters.values()
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return dict(info), []
    named = [each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    missing = [each.name for each in named if each.default is each.empty and each.name not in info]
    return {each.name: info[each.name] for each in named if each.name in info}, missing
