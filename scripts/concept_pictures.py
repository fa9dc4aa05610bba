#!/usr/bin/env python3
"""Draw the pictures of docs/concepts.md: what happens to a unit that is replaced, and how long units live.

    python scripts/concept_pictures.py

Needs matplotlib (the demo extra). Colours are legible on a light and on a dark page. The lives are those of a network
that is trained here, with a fixed seed.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

import gnt

DOCS = Path(__file__).parents[1] / "docs"
GREY, BLUE, ORANGE, GREEN = "#808590", "#4c8fd0", "#e07b1a", "#3f9e54"
STYLE = {
    "svg.fonttype": "none",  # text stays text: small files, and searchable
    "svg.hashsalt": "gnt",
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica", "Arial", "DejaVu Sans"],
    "font.size": 11,
    "text.color": GREY,
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def save(name: str) -> None:
    """Write the current figure, without a date, so that equal pictures are equal files."""
    plt.savefig(DOCS / f"{name}.svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    plt.close()


def draw_network(ax: Axes, title: str, new: bool, chosen: int | None) -> None:
    """A network of 3, 4 and 2 units; ``chosen`` is marked, and is drawn as a new unit if ``new``."""
    places = {
        "in": [(0.0, y) for y in (1.0, 2.0, 3.0)],
        "hidden": [(1.5, y) for y in (0.5, 1.5, 2.5, 3.5)],
        "out": [(3.0, y) for y in (1.5, 2.5)],
    }
    for index, (x, y) in enumerate(places["hidden"]):
        special = index == chosen
        for x0, y0 in places["in"]:
            ax.plot([x0, x], [y0, y], color=GREEN if special and new else GREY, lw=2 if special else 0.9, zorder=1)
        for x1, y1 in places["out"]:
            off = special and new
            color = ORANGE if special and not new else GREY
            ax.plot(
                [x, x1],
                [y, y1],
                color=color,
                lw=1 if off else (2 if special else 0.9),
                ls=":" if off else "-",
                zorder=1,
            )
        color = (GREEN if new else ORANGE) if special else BLUE
        ax.scatter([x], [y], s=330, color=color, zorder=2)
    for x, y in places["in"]:
        ax.scatter([x], [y], s=120, color=GREY, zorder=2)
    for x, y in places["out"]:
        ax.scatter([x], [y], s=330, color=BLUE, zorder=2)
        if new:
            ax.annotate("+ b", (x + 0.22, y), color=ORANGE, va="center", weight="bold")
    ax.set_title(title, fontsize=12, weight="bold", color=GREY)
    ax.set_xlim(-0.4, 3.7)
    ax.set_ylim(-0.1, 4.0)
    ax.axis("off")


def draw_replacement() -> None:
    """Measure, select, replace: three networks side by side."""
    _, axes = plt.subplots(1, 3, figsize=(10, 3.4))
    draw_network(axes[0], "1  measure", new=False, chosen=None)
    for utility, y in zip((0.9, 0.1, 0.6, 1.3), (0.5, 1.5, 2.5, 3.5), strict=True):
        axes[0].annotate(
            f"{utility}", (1.5, y), color="white", ha="center", va="center", fontsize=9, weight="bold", zorder=3
        )
    draw_network(axes[1], "2  select", new=False, chosen=1)
    draw_network(axes[2], "3  replace", new=True, chosen=1)
    captions = (
        "utility of each unit:\nmean |feature| x mean |outgoing weight|",
        "the least useful unit\nthat is old enough",
        "new incoming weights, outgoing 0;\nits mean contribution b moves to the next biases",
    )
    for ax, caption in zip(axes, captions, strict=True):
        ax.text(1.5, -0.3, caption, ha="center", va="top", fontsize=10)
    save("concepts_replacement")


def ages(updates: int, units: int, change: int, **settings: float) -> torch.Tensor:
    """Ages of the units of a small network after each update; the target is another one every ``change`` updates."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(8, units), torch.nn.ReLU(), torch.nn.Linear(units, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.03)
    engine = gnt.GnT(net, optimizer, **settings)  # type: ignore[arg-type]
    found, direction = [], torch.zeros(8)
    for step in range(updates):
        if step % change == 0:
            direction = torch.randn(8)
        x = torch.randn(32, 8)
        optimizer.zero_grad()
        (net(x) - (x @ direction).abs().unsqueeze(1)).square().mean().backward()
        optimizer.step()
        engine.step()
        found.append(engine.groups[0].state.age.clone())
    return torch.stack(found)


def draw_lives() -> None:
    """The lives of 16 units in 6,000 updates: young up to the maturity threshold, then eligible, then replaced."""
    units, updates, change, maturity, rate = 16, 6000, 1500, 300, 1 / 2000
    history = ages(updates, units, change, maturity_threshold=maturity, replacement_rate=rate)
    plt.figure(figsize=(10, 3.6))
    for unit in range(units):
        age = history[:, unit]
        starts = [0, *((age == 0).nonzero().view(-1) + 1).tolist()]
        for start, end in zip(starts, [*starts[1:], updates], strict=True):
            old = min(start + maturity, end)
            plt.plot([start, old], [unit, unit], color=GREEN, lw=5, solid_capstyle="butt")
            plt.plot([old, end], [unit, unit], color=BLUE, lw=5, solid_capstyle="butt")
            if end < updates:
                plt.plot([end], [unit], marker="o", color=ORANGE, ms=8)
    for at in range(change, updates, change):
        plt.axvline(at, color=GREY, lw=1, ls=":")
    plt.plot([], [], color=GREEN, lw=5, label=f"too young: its first {maturity} updates (maturity threshold)")
    plt.plot([], [], color=BLUE, lw=5, label=f"eligible: {1 / rate:,.0f} updates on average (1 / replacement rate)")
    plt.plot([], [], color=ORANGE, marker="o", ms=8, ls="", label="replaced: the least useful of the eligible units")
    plt.plot([], [], color=GREY, lw=1, ls=":", label="the target changes")
    plt.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), frameon=False, ncols=2)
    plt.yticks([])
    plt.ylabel(f"{units} units")
    plt.xlabel("updates")
    plt.xlim(0, updates)
    save("concepts_lives")


def draw_averages() -> None:
    """What the decay rate does: the running average of a unit's utility that jumps at update 300."""
    torch.manual_seed(0)
    values = torch.where(torch.arange(800) < 300, 1.0, 0.2) * (0.5 + torch.rand(800))
    plt.figure(figsize=(10, 2.8))
    steps = range(1, 801, 4)
    plt.plot(steps, values[::4], color=GREY, lw=0.5, alpha=0.6, label="measured")
    for decay, color in ((0.9, ORANGE), (0.99, BLUE), (0.999, GREEN)):
        running, line = 0.0, []
        for age, value in enumerate(values.tolist(), 1):
            running = decay * running + (1 - decay) * value
            line.append(running / (1 - decay**age))
        plt.plot(
            steps, line[::4], color=color, lw=2, label=f"decay rate {decay:g}: over {1 / (1 - decay):,.0f} updates"
        )
    plt.legend(loc="upper right", frameon=False)
    plt.xlabel("age of the unit, in updates")
    plt.ylabel("utility")
    plt.xlim(0, 800)
    plt.ylim(0, 1.6)
    save("concepts_averages")


def main() -> None:
    """Draw all pictures."""
    mpl.use("svg")
    with mpl.rc_context(STYLE):
        draw_replacement()
        draw_lives()
        draw_averages()


if __name__ == "__main__":
    main()
