"""The graph of a forward that is recorded while it runs on fake tensors, in a fraction of the time of torch.export.

The operators are noted as they are called. Whatever this cannot follow is left to torch.export, by `CannotRecord` or
the error that the forward raises: values that are computed on the host, control flow operators, tensor subclasses,
tensors that are read after a part of them was overwritten.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from gnt.units._tracing.examples import leaf_names
from gnt.units._tracing.graph import IN_BUFFER, IN_INPUT, Graph, Node, operation, substitute
from gnt.units._tracing.outputs import OutputCollector

_aten = torch.ops.aten
_LIFTS = (_aten.lift_fresh.default, _aten.lift_fresh_copy.default, _aten.lift.default)
# operators that overwrite their argument, with those that compute the same, where the names differ by more than "_"
_FUNCTIONAL = {
    _aten.bernoulli_.float: _aten.bernoulli.p,
    _aten.normal_.default: _aten.normal_functional.default,
}
# operators by which torch.nn runs a whole attention layer, only where no gradients are needed
_FUSED = ("_native_multi_head_attention", "_transformer_encoder_layer_fwd")
_PLAIN_INPUTS = (int, float, bool, str, type(None), torch.dtype, torch.device)


class CannotRecord(Exception):
    """The forward does something that only torch.export can follow."""


class _Known(NamedTuple):
    """A tensor of the forward, the node that computes it, and how often its memory had been written then."""

    fake: Tensor
    node: Node
    storage: int
    version: int


class Recorder:
    """Records forwards of one model. Its parameters and buffers are replaced by fake tensors, which are made once.

    Raises:
        CannotRecord: a parameter or buffer is a tensor subclass, or not strided.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.fake_mode = FakeTensorMode(allow_non_fake_inputs=False)
        self.paths = [(module, path) for path, module in model.named_modules()]
        named = (("parameter", model.named_parameters()), ("buffer", model.named_buffers()))
        self.own = [(kind, name, tensor, self.fake(tensor)) for kind, items in named for name, tensor in items]
        self.attributes = {
            id(value): f"{path}.{key}".lstrip(".")
            for module, path in self.paths
            for key, value in vars(module).items()
            if isinstance(value, Tensor)
        }

    def fake(self, tensor: Tensor) -> Tensor:
        """A fake tensor like a real one."""
        if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout != torch.strided:
            raise CannotRecord
        return self.fake_mode.from_tensor(tensor)

    def record(self, args: Sequence[Any], kwargs: Mapping[str, Any], collector: OutputCollector) -> Graph:
        """Record one forward; raises `CannotRecord`, or any exception of the forward."""
        if not all(isinstance(leaf, (Tensor, *_PLAIN_INPUTS)) for leaf in tree_leaves((args, kwargs))):
            raise CannotRecord
        tensors = [module._parameters | module._buffers for module, _ in self.paths]
        names = leaf_names(self.model, args, kwargs)
        recording = _Recording(self)
        own = {_memory(tensor) for _, _, tensor, _ in self.own}
        fakes: dict[int, Tensor] = {}

        def enter(value: Any) -> Any:
            if isinstance(value, Tensor) and id(value) not in fakes:
                if _memory(value) in own:
                    raise CannotRecord
                fakes[id(value)] = recording.enter("input", names[id(value)], value, self.fake(value))
            return fakes.get(id(value), value)

        args, kwargs = tree_map(enter, (tuple(args), dict(kwargs)))
        as_written = torch.compiler.set_stance("force_eager")  # no compiler sees fake tensors
        whole = torch._C._AutoDispatchBelowAutograd()  # operators arrive in parts otherwise: linear as t and addmm
        with as_written, whole, recording.module_paths(), recording.gradients, self.fake_mode, recording:
            returned = self.model(*args, **kwargs)
        for (module, _), before in zip(self.paths, tensors, strict=True):
            now = module._parameters | module._buffers
            if any(now.get(key) is not value for key, value in before.items()) or len(now) != len(before):
                raise CannotRecord
        return recording.graph(returned, collector)


class _Gradients(TorchFunctionMode):
    """Whether gradients are enabled by the code of the forward; inside an autograd function they are disabled, too."""

    are_enabled = True

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch; note whether it turns gradients on or off."""
        if func is torch._C._set_grad_enabled:
            self.are_enabled = args[0]
        return func(*args, **(kwargs or {}))


class _Recording(TorchDispatchMode):
    """Notes the operators that are called, as nodes; they run on fake tensors."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.gradients = _Gradients()
        self._recorder = recorder
        self._nodes: list[Node] = []
        self._running: list[str] = []  # paths of the modules that run now
        self._fakes: dict[int, tuple[Tensor, Tensor]] = {}  # by the id of a real tensor: it and its fake
        self._known: dict[int, _Known] = {}  # by the id of a fake tensor
        self._writes: dict[int, list[Node]] = {}  # for each storage, the operations that wrote to it
        self._entered: list[tuple[Node, _Known]] = []  # parameters, buffers, constants and inputs
        self._storages: set[int] = set()  # addresses of the real memory that belongs to these
        for kind, name, real, fake in recorder.own:
            self.enter(kind, name, real, fake)

    def enter(self, kind: str, name: str, real: Tensor, fake: Tensor) -> Tensor:
        """Add a value that enters the graph; returns its fake tensor."""
        node = Node(name, kind, value=real if kind == "constant" else fake)
        node.from_input, node.from_parameter = kind == "input", kind == "parameter"
        self._nodes.append(node)
        self._fakes[id(real)] = (real, fake)
        self._storages.add(_memory(real))
        self._entered.append((node, self._know(fake, node)))
        return fake

    @contextlib.contextmanager
    def module_paths(self) -> Iterator[None]:
        """Context manager that keeps track of the modules that run, by hooks."""
        paths = {id(module): path for module, path in self._recorder.paths}
        hooks: list[Any] = []
        try:
            for module, _ in self._recorder.paths:
                hooks.append(
                    module.register_forward_pre_hook(lambda m, _: self._running.append(paths[id(m)]), prepend=True)
                )
                hooks.append(module.register_forward_hook(lambda *_: self._leave(), always_call=True))
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _leave(self) -> None:
        self._running.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator on fake tensors and note it."""
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload) or func.__name__.startswith(_FUSED):
            raise CannotRecord
        if torch.is_inference_mode_enabled():
            raise CannotRecord
        if func.namespace == "prim":  # such as prim.device: it computes no tensor
            return func(*args, **kwargs)
        if func is _aten.detach_.default:  # of a tensor that has no gradient
            return self._fake(args[0])
        nodes, node_kwargs = substitute((args, kwargs), self._node, Tensor)
        fakes, fake_kwargs = substitute((args, kwargs), self._fake, Tensor)
        if func in _LIFTS:  # of a real tensor, whose numbers the fake one then knows
            fakes, fake_kwargs = args, kwargs
        if func is _aten.batch_norm.default and _is_usual_batch_norm(*fakes[:6]):
            result = torch.empty_like(fakes[0])
        else:
            result = func(*fakes, **fake_kwargs)
        if func._schema.is_mutable:
            return self._write(func, nodes, node_kwargs, fakes)
        return self._note(func, nodes, node_kwargs, result)

    def _fake(self, tensor: Tensor) -> Tensor:
        if isinstance(tensor, FakeTensor):
            return tensor
        if id(tensor) not in self._fakes:
            if _memory(tensor) in self._storages:  # another view of a parameter, buffer or input
                raise CannotRecord
            name = self._recorder.attributes.get(id(tensor), f"constant_{len(self._fakes)}")
            self.enter("constant", name, tensor, self._recorder.fake(tensor))
        return self._fakes[id(tensor)][1]

    def _node(self, tensor: Tensor) -> Node:
        """The node that computes the present value of a tensor."""
        known = self._known.get(id(self._fake(tensor)))
        if known is None:
            raise CannotRecord
        writes = self._writes.get(known.storage, [])
        if known.version == len(writes):
            return known.node
        parts = (known.node, *writes[known.version :])
        if any(part.from_input or part.from_parameter for part in parts):
            raise CannotRecord
        node = Node(f"overwritten_{len(self._nodes)}", "op", "overwritten", args=parts, value=known.fake)
        self._nodes.append(node)
        self._know(known.fake, node)
        return node

    def _know(self, fake: Tensor, node: Node) -> _Known:
        storage = fake.untyped_storage()._cdata
        known = _Known(fake, node, storage, len(self._writes.get(storage, ())))
        self._known[id(fake)] = known
        return known

    def _append(self, func: Any, args: Any, kwargs: Any, value: Any) -> Node:
        """Add an operation. One without gradients has no module: features are not recorded there."""
        name = f"{getattr(func, '__name__', 'op').partition('.')[0]}_{len(self._nodes)}"
        module = self._running[-1] if self._running and self.gradients.are_enabled else ""
        self._nodes.append(operation(name, func, args, kwargs, value, module))
        return self._nodes[-1]

    def _note(self, func: Any, args: Any, kwargs: Any, result: Any) -> Any:
        """Add the operation of a result, which is returned; one without a tensor is not needed."""
        if isinstance(result, Tensor):
            self._know(result, self._append(func, args, kwargs, result))
        elif isinstance(result, (tuple, list)) and any(isinstance(part, Tensor) for part in result):
            node = self._append(func, args, kwargs, tuple(result))
            for index, part in enumerate(result):
                if isinstance(part, Tensor):
                    self._know(part, self._append(operator.getitem, (node, index), {}, part))
        elif isinstance(result, (tuple, list)) and len(result):
            raise CannotRecord
        return result

    def _write(self, func: Any, args: Any, kwargs: Any, fakes: Any) -> Tensor:
        """Add an operation that overwrites its first argument, as the operation that computes the new value."""
        schema = func._schema
        written = [argument for argument in schema.arguments if argument.alias_info is not None and argument.is_write]
        name = schema.name.rpartition("::")[2]
        packet = getattr(getattr(torch.ops, func.namespace), name[:-1], None) if name.endswith("_") else None
        functional = _FUNCTIONAL.get(func, getattr(packet, func._overloadname, None))
        if len(written) != 1 or functional is None or torch.Tag.inplace_view in func.tags:
            raise CannotRecord
        target: Tensor = fakes[0]
        if func is _aten.copy_.default:
            node = self._copied(args[1], fakes[1], target)
        else:
            node = self._append(functional, args, kwargs, target)
        self._writes.setdefault(self._known[id(target)].storage, []).append(node)
        self._know(target, node)
        return target

    def _copied(self, node: Node, source: Tensor, target: Tensor) -> Node:
        """The node of a value that is copied into a tensor: that of the source, unless it is cast or expanded."""
        if source.dtype != target.dtype:
            value = source.to(target.dtype)
            node = self._append(_aten._to_copy.default, (node,), {"dtype": target.dtype}, value)
        if source.shape != target.shape:
            node = self._append(_aten.expand.default, (node, list(target.shape)), {}, target)
        return node

    def graph(self, returned: Any, collector: OutputCollector) -> Graph:
        """The graph of what was noted."""
        outputs = []
        for node, known in self._entered:
            if known.storage in self._writes:
                if node.kind not in ("buffer", "input"):
                    raise CannotRecord
                phrase = IN_BUFFER.format(node.name) if node.kind == "buffer" else IN_INPUT
                outputs.append((self._node(known.fake), phrase))
        for position, tensor in enumerate(returned):
            outputs.append((self._node(tensor), collector.phrase(position)))
        return Graph.of(_needed(self._nodes, outputs), outputs)


def _needed(nodes: list[Node], outputs: list[tuple[Node, str]]) -> list[Node]:
    """The nodes without operations whose results are not read; layers are kept, since they run."""
    needed = {node for node, _ in outputs}
    for node in reversed(nodes):
        if node in needed or node.kind != "op" or node.name in node.sources:
            needed.add(node)
            needed.update(node.inputs())
    return [node for node in nodes if node in needed]


def _is_usual_batch_norm(x: Tensor, *others: Any) -> bool:
    """True if the arguments of a batch norm fit, so that its result is like ``x``: fake ones are computed slowly."""
    *tensors, training = others
    shapes = [tensor.shape for tensor in tensors if tensor is not None]
    return (training or None not in tensors[2:]) and x.ndim > 1 and all(shape == x.shape[1:2] for shape in shapes)


def _memory(real: Tensor) -> int:
    """A number that tensors in one memory have in common."""
    storage = real.untyped_storage()
    return storage.data_ptr() or storage._cdata
