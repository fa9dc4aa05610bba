"""Numbers in sentences."""

from __future__ import annotations


def plain(value: float) -> str:
    """A number >= 0 for a sentence: digits with commas, or a few of them.

    >>> plain(12345.6), plain(0.0512), plain(3.14), plain(1e12)
    ('12,346', '0.051', '3.1', '1e+12')
    """
    if value >= 1e10:
        return f"{value:.3g}"
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.2g}"
