"""Record runs of other implementations of methods against forgetting, which tests/golden/test_memory_parity.py replays.

    pip install torch==2.13.0
    pip install qpsolvers==4.13.0 quadprog==0.1.14
    pip install --no-deps nngeometry==0.4 torchvision==0.28.0 avalanche-lib==0.6.0
    pip install dill gdown gputil matplotlib psutil pytorchcv scikit-learn tensorboard torchmetrics tqdm wandb
    python scripts/parity/record.py [fisher] [ewc] [si] [agem] [gem]

Run in an environment of its own: none of these packages is needed by gnt or its tests. Each name writes
tests/golden/memory/NAME.npz, all of them if none is given. Data and networks are float64 and made from fixed seeds.

Where the other implementation deviates from the published method, it is run at the setting where it does not, or with
the deviating function overridden. This is said at each place below:

- EWC squares the gradient of the mean loss of a batch: run with batches of one sample. It has no factor 1/2.
- SI copies weights by ``cpu().flatten()``, which on the CPU is a view, so that all moves are 0 and it does nothing:
  overridden. It bounds importance from above by 0.001, and not from below by 0: both overridden. It takes the gradient
  of loss and penalty: overridden by that of the loss.
- GEM adds 0.001 to the diagonal of the Gram matrix, whatever the size of gradients: run with a loss multiplied by
  10^4, where this is below rounding. It returns float32.
- A-GEM and GEM compute the gradients on stored items in training mode: run without norms and dropout.
"""

from __future__ import annotations

import json
import random
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

FOLDER = Path(__file__).resolve().parents[2] / "tests" / "golden" / "memory"
CLASSES = 3


def mlp() -> nn.Sequential:
    """Two hidden layers."""
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, CLASSES)).double()


def conv() -> nn.Sequential:
    """Two convolutions and a linear layer."""
    return nn.Sequential(
        *(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(12, CLASSES))
    ).double()


def tasks(number: int, size: int) -> list[tuple[Tensor, Tensor]]:
    """Tasks with shifted inputs and labels that depend on them."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for task in range(number):
        x = torch.randn(size, 5, dtype=torch.float64, generator=generator) + task
        rule = torch.randn(5, CLASSES, dtype=torch.float64, generator=generator)
        found.append((x, (x @ rule).argmax(1)))
    return found


def arrays(net: nn.Module, prefix: str) -> dict[str, Any]:
    """Copies of the parameters, named with a prefix."""
    return {f"{prefix}/{name}": p.detach().numpy().copy() for name, p in net.named_parameters()}


def data_arrays(data: list[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """The data of all tasks."""
    return {"x": torch.stack([x for x, _ in data]).numpy(), "y": torch.stack([y for _, y in data]).numpy()}


def save(name: str, packages: list[str], meta: dict[str, Any], **values: Any) -> None:
    """Write a file; ``packages`` are those whose versions are named in it."""
    meta = {**meta, "versions": {each: version(each) for each in ("torch", *packages)}}
    FOLDER.mkdir(exist_ok=True)
    np.savez_compressed(FOLDER / f"{name}.npz", meta=json.dumps(meta), **values)
    print(name, {key: np.shape(value) for key, value in values.items() if key.count("/") < 2})


def record_fisher() -> None:
    """The exact diagonal of the Fisher information of two networks, by nngeometry."""
    from nngeometry.metrics import FIM
    from nngeometry.object import PMatDiag

    values: dict[str, Any] = {}
    for name, build, shape in (("mlp", mlp, (5,)), ("conv", conv, (2, 5, 5))):
        torch.manual_seed(1)
        net = build()
        x = torch.randn(11, *shape, dtype=torch.float64)
        loader = DataLoader(TensorDataset(x, torch.zeros(len(x))), batch_size=4)
        found = FIM(net, loader, PMatDiag, variant="classif_logits", device="cpu")
        values |= {f"{name}/x": x.numpy(), **arrays(net, f"{name}/net"), f"{name}/fisher": found.get_diag().numpy()}
    save("fisher", ["nngeometry"], {}, **values)


def strategy_with(plugin: Any, net: nn.Module, optimizer: torch.optim.Optimizer, batch_size: int) -> Any:
    """Avalanche's plain training with one plugin."""
    from avalanche.training.supervised import Naive

    return Naive(
        model=net,
        optimizer=optimizer,
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=batch_size,
        train_epochs=1,
        plugins=[plugin],
        evaluator=None,
        device="cpu",
    )


def experiences(data: list[tuple[Tensor, Tensor]]) -> Any:
    """Avalanche's stream of tasks."""
    from avalanche.benchmarks import benchmark_from_datasets
    from avalanche.benchmarks.utils import as_classification_dataset

    sets = []
    for x, y in data:
        labelled = TensorDataset(x, y)
        labelled.targets = y.tolist()
        sets.append(as_classification_dataset(labelled))
    return benchmark_from_datasets(train=sets).train_stream


def trained(plugin: Any, data: Any, batch_size: int, after_task: Any) -> dict[str, Any]:
    """Train on all tasks in turn, without shuffling, and record the weights after each step."""
    torch.manual_seed(2)
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    values, history = arrays(net, "init"), []
    optimizer.register_step_post_hook(
        lambda *_: history.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    )
    strategy = strategy_with(plugin, net, optimizer, batch_size)
    for experience in experiences(data):
        strategy.train(experience, shuffle=False, num_workers=0)
        after_task(net)
    return {**values, "weights": torch.stack(history).numpy()}


def record_ewc() -> None:
    """EWC of Avalanche, separate and online, in batches of one sample."""
    from avalanche.training.plugins import EWCPlugin

    data, values = tasks(3, 9), {}
    for mode, decay in (("separate", None), ("online", 0.9)):
        plugin, importance = EWCPlugin(1.5, mode=mode, decay_factor=decay, keep_importance_data=True), []
        found = trained(plugin, data, 1, lambda net: None)
        for each in plugin.importances.values():
            importance.append(torch.cat([value.data.flatten() for value in each.values()]))
        values |= {f"{mode}/{key}": value for key, value in found.items()}
        values[f"{mode}/importance"] = torch.stack(importance).detach().numpy()
    save("ewc", ["avalanche-lib"], {"ewc_lambda": 1.5, "decay": 0.9}, **values, **data_arrays(data))


def record_si() -> None:
    """SI of Avalanche, with the four deviations above overridden."""
    from avalanche.training.plugins import SynapticIntelligencePlugin

    def copied_weights(model: Any, target: Any, excluded: Any) -> None:
        for name, param in SynapticIntelligencePlugin.allowed_parameters(model, excluded):
            target[name].data = param.detach().clone().flatten()

    class Corrected(SynapticIntelligencePlugin):
        def before_backward(self, strategy: Any, **kwargs: Any) -> None:
            parameters = list(strategy.model.parameters())
            self.of_task = torch.autograd.grad(strategy.loss, parameters, retain_graph=True)
            super().before_backward(strategy, **kwargs)

        def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
            for param, gradient in zip(strategy.model.parameters(), self.of_task, strict=True):
                param.grad = gradient
            super().after_training_iteration(strategy, **kwargs)

        def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
            self.update_ewc_data(
                strategy.model, self.ewc_data, self.syn_data, float("inf"), self.excluded_parameters, 1, eps=self.eps
            )
            for name, each in self.syn_data["cum_trajectory"].items():
                each.data = each.data.clamp(max=0.0)
                self.ewc_data[1][name].data = -each.data

    data, importance = tasks(3, 24), []
    uncorrected = SynapticIntelligencePlugin(0.8, eps=0.1)
    trained(uncorrected, data[:2], 4, lambda net: None)
    largest = max(float(each.data.abs().max()) for each in uncorrected.ewc_data[1].values())
    print("largest importance of the plugin as published, on the CPU:", largest)
    SynapticIntelligencePlugin.extract_weights = staticmethod(torch.no_grad()(copied_weights))
    plugin = Corrected(0.8, eps=0.1)

    def keep(net: nn.Module) -> None:
        importance.append(torch.cat([plugin.ewc_data[1][name].data for name, _ in net.named_parameters()]))

    values = trained(plugin, data, 4, keep)
    values["importance"] = torch.stack(importance).numpy()
    meta = {"si_lambda": 0.8, "eps": 0.1, "batch_size": 4, "published": largest}
    save("si", ["avalanche-lib"], meta, **values, **data_arrays(data))


def record_agem() -> None:
    """A-GEM of Avalanche, with the stored items drawn in each step."""
    from avalanche.training.plugins import AGEMPlugin

    x, y, projected = [], [], []

    class Recorded(AGEMPlugin):
        def sample_from_memory(self) -> Any:
            batch = super().sample_from_memory()
            x.append(batch[0])
            y.append(batch[1])
            return batch

        def after_backward(self, strategy: Any, **kwargs: Any) -> None:
            before = [p.grad.clone() for p in strategy.model.parameters()]
            super().after_backward(strategy, **kwargs)
            changed = [not p.grad.equal(b) for p, b in zip(strategy.model.parameters(), before, strict=True)]
            projected.append(any(changed))

    data = tasks(3, 24)
    random.seed(0)  # of the choice of stored items
    values = trained(Recorded(patterns_per_experience=8, sample_size=8), data, 4, lambda net: None)
    values |= {"drawn_x": torch.stack(x).numpy(), "drawn_y": torch.stack(y).numpy(), "projected": projected}
    save("agem", ["avalanche-lib"], {"batch_size": 4}, **values, **data_arrays(data))


def record_gem() -> None:
    """GEM of Avalanche, with the items stored of each task; the loss is multiplied by 10^4."""
    from avalanche.training.plugins import GEMPlugin

    data, values = tasks(4, 24), {}
    for margin in (0.0, 0.5):
        number = []

        class Recorded(GEMPlugin):
            def after_backward(self, strategy: Any, number: Any = number, **kwargs: Any) -> None:
                before = [p.grad.clone() for p in strategy.model.parameters()]
                super().after_backward(strategy, **kwargs)
                changed = [not p.grad.equal(b) for p, b in zip(strategy.model.parameters(), before, strict=True)]
                number.append(any(changed))

        torch.manual_seed(2)
        net = mlp()
        optimizer = torch.optim.SGD(net.parameters(), lr=5e-6)
        found, history = arrays(net, "init"), []
        plugin = Recorded(patterns_per_experience=10, memory_strength=margin)
        strategy = SimpleNamespace(
            model=net,
            optimizer=optimizer,
            device="cpu",
            train_mb_size=4,
            clock=SimpleNamespace(train_exp_counter=0),
            _criterion=lambda out, target: 1e4 * nn.functional.cross_entropy(out, target),
        )
        for x, y in data:
            for part, labels in zip(x.split(4), y.split(4), strict=True):
                plugin.before_training_iteration(strategy)
                optimizer.zero_grad()
                strategy._criterion(net(part), labels).backward()
                plugin.after_backward(strategy)
                optimizer.step()
                history.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
            stored = TensorDataset(x, y, torch.zeros(len(x), dtype=torch.int64))
            plugin.update_memory(stored, strategy.clock.train_exp_counter, 4)
            strategy.clock.train_exp_counter += 1
        found["weights"] = torch.stack(history).numpy()
        found["stored_x"] = torch.stack(list(plugin.memory_x.values())).numpy()
        found["stored_y"] = torch.stack(list(plugin.memory_y.values())).numpy()
        found["projected"] = number
        values |= {f"{margin}/{key}": value for key, value in found.items()}
    meta = {"batch_size": 4, "factor": 1e4, "lr": 5e-6}
    save("gem", ["avalanche-lib", "qpsolvers", "quadprog"], meta, **values, **data_arrays(data))


RECORDS = {
    "fisher": record_fisher,
    "ewc": record_ewc,
    "si": record_si,
    "agem": record_agem,
    "gem": record_gem,
}

if __name__ == "__main__":
    unknown = set(sys.argv[1:]) - set(RECORDS)
    if unknown:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; known are {', '.join(RECORDS)}")
    # torchvision, which avalanche imports, is built with other kernels than torch for the CPU: it needs these names
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    torch.set_default_dtype(torch.float64)  # some of them keep numbers in the default dtype
    torch.set_num_threads(1)
    for chosen in sys.argv[1:] or RECORDS:
        RECORDS[chosen]()
