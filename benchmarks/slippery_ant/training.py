"""The training of slippery ant, a rollout and its updates at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import benchmarks.training
from benchmarks.errors import CannotRun
from benchmarks.seeds import stream
from benchmarks.slippery_ant import requirements
from benchmarks.slippery_ant.friction import ORDINARY, frictions
from benchmarks.slippery_ant.settings import FRICTIONS, Settings
from benchmarks.training import Row

if TYPE_CHECKING:
    from benchmarks.slippery_ant.environment import SlipperyAnt


class Training(benchmarks.training.Training):
    """One method on one seed's ant. Frictions, initial weights and beginnings of episodes are the same for all methods.

    Rows: ``step`` (of the environment, counted from 1), of the episodes that ended since the last row ``mean_return``,
    ``mean_length`` and how many ``episodes``, the ``friction`` now, for continual backprop the units ``replaced`` so
    far, and what `gnt.metrics.Probe` finds of the policy's and the value's hidden layers, on what a random policy saw
    before the training. Where no episode ended (rollouts shorter than episodes), the means are those of the last row;
    before the first end, those of the episode that is under way.
    """

    def __init__(self, settings: Settings, method: str, seeds: list[int]) -> None:
        requirements.check_installed()
        from benchmarks.slippery_ant.ppo import Agent  # here, as it needs the packages just looked for
        from benchmarks.slippery_ant.probe_observations import make_probe

        (self._seed,) = seeds
        self._settings = settings
        self.total, self.done, self.latest = settings.rollouts, 0, ""
        self._means: Row | None = None  # of the last row
        self._ant = _ant(settings, self._seed, "episodes")
        self._agent = Agent(method, settings, self._seed, self._ant)
        self._probe = make_probe(self._agent, _ant(settings, self._seed, "probe"), self._seed, settings.probe)

    def advance(self) -> list[Row]:
        """One rollout, and the learning from it."""
        self._agent.learn()
        self.done += 1
        if self.done % self._settings.rollouts_per_row and self.done < self.total:
            return []
        episodes = self._ant.finished or [self._ant.current_episode]
        if self._ant.finished or self._means is None:
            count = len(episodes)
            self._means = {
                "mean_return": sum(total for total, _ in episodes) / count,
                "mean_length": sum(length for _, length in episodes) / count,
            }
        row: Row = {"seed": self._seed, "step": self._ant.steps, **self._means}
        row |= {"episodes": len(self._ant.finished), "friction": self._ant.friction}
        self._ant.finished.clear()
        self.latest = f"step {row['step']:,}  return {row['mean_return']:.0f}  friction {row['friction']:.2f}"
        replaced = self._agent.replaced
        return [row | ({} if replaced is None else {"replaced": replaced}) | self._probe.measure()]

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on bit for bit."""
        return {
            "versions": requirements.versions(),
            "done": self.done,
            "latest": self.latest,
            "means": self._means,
            "ant": self._ant.state_dict(),
            "agent": self._agent.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state.

        Raises:
            CannotRun: it was made with other versions of the packages, whose physics may differ.
        """
        begun, now = state["versions"], requirements.versions()
        if begun != now:
            differing = [name for name in now if begun.get(name) != now[name]]
            then = ", ".join(f"{name} {begun.get(name)}" for name in differing)
            here = ", ".join(f"{name} {now[name]}" for name in differing)
            raise CannotRun(f"The run was begun with {then}; this is {here}. Use --fresh to start over.")
        self.done, self.latest, self._means = state["done"], state["latest"], state["means"]
        self._ant.load_state_dict(state["ant"])
        self._agent.load_state_dict(state["agent"])


def _ant(settings: Settings, seed: int, purpose: str) -> SlipperyAnt:
    from benchmarks.slippery_ant.environment import SlipperyAnt

    changing = frictions(seed, FRICTIONS) if settings.friction == "changing" and purpose != "probe" else [ORDINARY]
    beginnings = stream(seed, purpose).initial_seed()
    return SlipperyAnt(changing, settings.change_every, beginnings, contact_forces=settings.contact_forces == "yes")
