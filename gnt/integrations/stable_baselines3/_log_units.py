"""LogUnits: a callback for Stable-Baselines3 that logs replaced and dead units."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from gnt._utils.validation import check_positive
from gnt.replacement import GnT

_FILES_ONLY = ("stdout", "log")  # where names are cut to 36 characters, and must differ then


class LogUnits(BaseCallback):
    """Records figures of the units with the logger of Stable-Baselines3: ``model.learn(steps, callback=LogUnits())``.

    At the end of a rollout, and of training, it records "gnt/replaced" and "gnt/dead", the sums over all layers, and
    for each layer `GnT.figures` as "gnt/<layer>/<figure>": replaced, dead, eligible, protected, utility, age. The
    logger writes them with its own values, to TensorBoard (``tensorboard_log="folder"``), CSV or JSON; the sums also to
    the terminal. It does not write after training: the values from its end are in `figures`. Training is not changed. A
    unit counts as dead after its output was 0 on whole batches for longer than the maturity threshold, so units of
    tanh, the default of PPO and A2C, hardly ever do.

    Args:
        engines: engines that were attached to an optimizer. Engines of the policy's optimizers (`CBPAdam`) are found.
        every: interval in steps of the environment; figures are read at the first end of a rollout after it.

    Attributes:
        figures: the latest figures.

    Raises:
        TypeError: an engine that is not a `GnT`.
        ValueError: ``every`` is not a positive integer; when training starts, no engine.

    >>> from stable_baselines3 import PPO
    >>> from gnt.integrations.stable_baselines3 import CBPAdam, LogUnits
    >>> cbp = dict(optimizer_class=CBPAdam, optimizer_kwargs=dict(replacement_rate=0.1, maturity_threshold=2))
    >>> model = PPO("MlpPolicy", "CartPole-v1", n_steps=64, policy_kwargs=cbp, device="cpu")
    >>> log = LogUnits()
    >>> _ = model.learn(256, callback=log)
    >>> log.figures["gnt/mlp_extractor.policy_net.0/age"] > 0
    True
    """

    def __init__(self, *engines: GnT, every: int = 1000) -> None:
        super().__init__()
        check_positive(every=every)
        for engine in engines:
            if not isinstance(engine, GnT):
                raise TypeError(f"LogUnits takes engines (gnt.GnT), got {type(engine).__name__}")
        self._given, self._every = engines, every
        self._engines: dict[str, GnT] = {}
        self._recorded: int | None = None
        self.figures: dict[str, float] = {}

    def _init_callback(self) -> None:
        self._engines = _engines(self.model, self._given)
        self._recorded = None

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if self._recorded is None or self.num_timesteps - self._recorded >= self._every:
            self._recorded = self.num_timesteps
            self._record()

    def _on_training_end(self) -> None:
        self._record()

    def _record(self) -> None:
        layers = {
            f"{prefix}{name}": value
            for prefix, engine in self._engines.items()
            for name, value in engine.figures().items()
        }
        sums = {
            name: sum(value for key, value in layers.items() if key.endswith(f"/{name}"))
            for name in ("replaced", "dead")
        }
        for name, value in sums.items():
            self.logger.record(f"gnt/{name}", value)
        for name, value in layers.items():
            self.logger.record(f"gnt/{name}", value, exclude=_FILES_ONLY)
        self.figures = {f"gnt/{name}": value for name, value in {**sums, **layers}.items()}


def _engines(model: BaseAlgorithm, given: tuple[GnT, ...]) -> dict[str, GnT]:
    """The engines by the prefix of their layers: the path of the network in the policy, if there are several."""
    found: dict[int, tuple[str, GnT]] = {}
    for name, module in model.policy.named_modules():
        engine: Any = getattr(module.__dict__.get("optimizer"), "gnt", None)
        if isinstance(engine, GnT):
            found.setdefault(id(engine), (f"{name}." if name else "", engine))
    further = list({id(engine): engine for engine in given if id(engine) not in found}.values())
    for number, engine in enumerate(further):
        found[id(engine)] = f"{number}." if found or len(further) > 1 else "", engine
    if not found:
        raise ValueError(
            "LogUnits found no engine: construct the model with policy_kwargs=dict(optimizer_class=CBPAdam), with "
            "CBPAdam of gnt.integrations.stable_baselines3, or pass an engine, LogUnits(engine)"
        )
    engines = list(found.values())
    return {prefix if len(engines) > 1 else "": engine for prefix, engine in engines}
