"""How the methods are named and coloured, the same in bars, tables and pictures (Okabe and Ito's colour-blind
safe palette).
"""

from __future__ import annotations

LABELS = {"backprop": "backprop", "continual_backprop": "continual backprop"}
COLOURS = {"backprop": "#D55E00", "continual_backprop": "#0072B2"}
