"""`SoftReplacement`: the settings of soft replacement."""

from __future__ import annotations

from dataclasses import dataclass

from gnt._utils.validation import check_positive, finite_number


@dataclass(frozen=True)
class SoftReplacement:
    """Settings of soft replacement, ``GnT(soft=...)``: continuous continual backpropagation (CCBP).

    Every ``period`` updates each unit i of a layer moves by the share::

        alpha_i = rate * sigmoid(-steepness * (u_i - 1)) * min(age_i / maturity_threshold, 1)

    towards a new unit, with u_i the unit's corrected utility divided by the mean of the layer: incoming weights and
    bias by w <- (1 - alpha) w + alpha * fresh, parameters of norms likewise, and outgoing weights by
    w <- (1 - alpha) w. The utility moves towards the layer's mean by the same share.

    Args:
        rate: the largest share, that of a unit of utility 0; in [0, 1].
        steepness: how sharply the share falls around the mean utility, >= 0.
        period: number of updates between two moves, >= 1.

    Raises:
        ValueError: a value outside its range.

    Source: "Continuous continual backpropagation" (OpenReview UJqXhFFzKu), with the defaults of ccbp-pytorch 0.0.3,
    whose utility is `gnt.importance`'s measure "gradient".

    >>> import torch, gnt
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    >>> optimizer = torch.optim.Adam(net.parameters())
    >>> engine = gnt.GnT(net, optimizer, utility="gradient", soft=gnt.SoftReplacement(rate=0.1, period=2)).attach()
    >>> for _ in range(4):
    ...     optimizer.zero_grad()
    ...     net(torch.randn(8, 4)).square().mean().backward()
    ...     optimizer.step()
    """

    rate: float = 0.015
    steepness: float = 16.0
    period: int = 1000

    def __post_init__(self) -> None:
        if finite_number("rate", self.rate) > 1.0:
            raise ValueError(f"rate must be a number in [0, 1], got {self.rate!r}")
        finite_number("steepness", self.steepness)
        check_positive(period=self.period)


def checked_soft(value: object) -> SoftReplacement | None:
    """The value of the setting ``soft``: True is `SoftReplacement` with its defaults, False is None.

    Raises:
        TypeError: another value.
    """
    if value is None or value is False:
        return None
    if value is True:
        return SoftReplacement()
    if not isinstance(value, SoftReplacement):
        raise TypeError(f"soft must be None, True or a gnt.SoftReplacement, got {value!r}")
    return value
