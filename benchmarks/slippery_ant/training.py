"""The training loop of slippery ant: one rollout and its updates per piece."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import START_OVER_HINT, CannotRun
from ..saved_values import anything, fields, integer, mapping, number, optional, text
from ..seeds import stream
from ..training import Row
from ..training import Training as BaseTraining
from . import requirements
from .friction import ORDINARY, frictions
from .settings import FRICTIONS, Settings

if TYPE_CHECKING:
    from .environment import SlipperyAnt


class Training(BaseTraining):
    """Trains one method on the ant of one seed. Frictions, initial weights and initial states of episodes are the same
    for all methods.

    Keys of a row: ``step`` (environment steps so far); ``mean_return``, ``mean_length`` and number ``episodes`` of the
    episodes that ended since the last row; the current ``friction``; for ReDo and continual backprop the number
    of units ``replaced`` so far; and the metrics of `gnt.metrics.Probe` for the hidden layers of policy and value, on
    observations of a random policy from before the training. If no episode ended (rollouts shorter than episodes), the
    means are those of the last row; before the first end, those of the current episode.
    """

    def __init__(self, settings: Settings, method: str, seeds: list[int]) -> None:
        requirements.check_installed()
        from .ppo import Agent  # imported here because it needs the optional packages
        from .probe_observations import make_probe

        (self._seed,) = seeds
        self._settings = settings
        self.total, self.done, self.latest = settings.rollouts, 0, ""
        self._means: Row | None = None  # of the last row
        self._ant = _ant(settings, self._seed, "episodes")
        self._agent = Agent(method, settings, self._seed, self._ant)
        self._probe = make_probe(self._agent, _ant(settings, self._seed, "probe"), self._seed, settings.probe)

    def advance(self) -> list[Row]:
        """Collect one rollout and learn from it."""
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
        """The complete state, from which training continues bit for bit."""
        return {
            "versions": requirements.versions(),
            "done": self.done,
            "latest": self.latest,
            "means": self._means,
            "ant": self._ant.state_dict(),
            "agent": self._agent.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state.

        Raises:
            CannotRun: it was saved with other versions of the packages, whose physics may differ.
            ValueError: a value is missing or is not of its kind.
        """
        fields(
            versions=mapping(text),
            done=integer(0, self.total),
            latest=text,
            means=optional(fields(mean_return=number(), mean_length=number())),
            ant=mapping(anything),
            agent=mapping(anything),
        )("job", state)
        saved, now = state["versions"], requirements.versions()
        if saved != now:
            differing = [name for name in now if saved.get(name) != now[name]]
            then = ", ".join(f"{name} {saved.get(name)}" for name in differing)
            here = ", ".join(f"{name} {now[name]}" for name in differing)
            raise CannotRun(f"The run was started with {then}; this is {here}. {START_OVER_HINT}")
        self.done, self.latest, self._means = state["done"], state["latest"], state["means"]
        self._ant.load_state_dict(state["ant"])
        self._agent.load_state_dict(state["agent"])


def _ant(settings: Settings, seed: int, purpose: str) -> SlipperyAnt:
    from .environment import SlipperyAnt

    changing = frictions(seed, FRICTIONS) if settings.friction == "changing" and purpose != "probe" else [ORDINARY]
    episode_seed = stream(seed, purpose).initial_seed()
    return SlipperyAnt(changing, settings.change_every, episode_seed, contact_forces=settings.contact_forces == "yes")
