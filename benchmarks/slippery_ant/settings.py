"""Settings of slippery ant."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from .. import setting_fields, value_checks
from ..setting_fields import setting
from ..settings import BaseSettings, Values

ENV_STEPS: Final = 20_000_000
CHANGE_EVERY: Final = 2_000_000
FRICTIONS: Final = ENV_STEPS // CHANGE_EVERY
MINIBATCHES: Final = 16


def _rollout(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if value < 2 * MINIBATCHES or value % MINIBATCHES:
        raise argparse.ArgumentTypeError(
            f"must be a multiple of {MINIBATCHES}, the number of minibatches, and at least {2 * MINIBATCHES}, "
            f"got {text!r}"
        )
    return value


@dataclass(frozen=True)
class Settings(BaseSettings):
    """Settings of slippery ant."""

    help: ClassVar[str] = "PPO on MuJoCo's Ant while the ground's friction changes"
    revision: ClassVar[int] = 1
    methods: ClassVar[tuple[str, ...]] = ("backprop", "proper_adam", "l2", "redo", "continual_backprop")
    # The quick size shows that everything works: environment, friction changes, PPO, replacement in both networks, and
    # resuming. It says nothing about loss of plasticity, which took the paper's agents millions of steps, and little
    # about learning to run: an agent has 20,000 steps per friction and needs about a million.
    sizes: ClassVar[dict[Any, Values]] = {
        "quick": {"scale": 0.01},
        "published": {"scale": 1.0, "decay": "adam"},
    }
    durations: ClassVar[dict[str, str]] = {
        "quick": "about six minutes on two cores; shows that everything works, says nothing about plasticity",
        "published": "about seven hours per method and seed on one core",
    }
    needs: ClassVar[dict[str, str]] = dict.fromkeys(("quick", "published"), "the rl extra")
    # "redo": the values of the published code for the Ant without changes of friction; it has none for slippery ant
    method_defaults: ClassVar[dict[str, Values]] = {
        "redo": {"weight_decay": 1e-4},
        "continual_backprop": {"weight_decay": 1e-4},
    }

    scale: float = setting(
        0.01,
        f"fraction of the published {ENV_STEPS:,} steps, and of the {CHANGE_EVERY:,} between changes",
        value_checks.POSITIVE,
    )
    friction: str = setting(
        "changing", "changing, or fixed at 1 as in the original Ant", value_checks.one_of("changing", "fixed")
    )
    contact_forces: str = setting(
        "yes", "whether observations include the forces on the ant's body: yes or no", value_checks.one_of("yes", "no")
    )
    rollout: int = setting(2048, "steps of the environment per rollout", _rollout)
    epochs: int = setting(10, "passes over a rollout, each in 16 minibatches", value_checks.whole(1))
    probe: int = setting(
        2000,
        "number of observations of a random policy on which the networks' units are measured",
        value_checks.whole(1),
    )
    width: int = setting(256, "units in each of the two hidden layers of policy and value", value_checks.whole(1))
    decay: str = setting(
        "adamw",
        "weight decay as in AdamW, or added to the gradient as in the published code: adamw or adam",
        value_checks.one_of("adamw", "adam"),
        ("l2", "redo", "continual_backprop"),
    )
    lr: float = setting_fields.lr(1e-4)
    weight_decay: float = setting_fields.weight_decay(1e-3, "redo", "continual_backprop")
    dormancy: float = setting_fields.dormancy(0.1)
    period: int = setting_fields.period(100)
    replacement_rate: float = setting_fields.replacement_rate(1e-4)
    maturity_threshold: int = setting_fields.maturity_threshold(10_000)
    decay_rate: float = setting_fields.decay_rate(0.99)
    utility: str = setting_fields.utility("contribution")

    @property
    def rollouts(self) -> int:
        """Number of rollouts in a run."""
        return max(1, -(-round(ENV_STEPS * self.scale) // self.rollout))

    @property
    def change_every(self) -> int:
        """Number of environment steps between changes of the friction."""
        return max(1, round(CHANGE_EVERY * self.scale))

    @property
    def rollouts_per_row(self) -> int:
        """Number of rollouts per row of the record: 20 rows per friction, or fewer if rollouts are long."""
        return max(1, round(self.change_every / (20 * self.rollout)))
