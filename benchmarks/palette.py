"""How the methods are named and coloured, the same in bars, tables and pictures (Okabe and Ito's colour-blind
safe palette).
"""

from __future__ import annotations

LABELS = {
    "backprop": "backprop",
    "continual_backprop": "continual backprop",
    "speed": "speed",
    "cbp_sgd": "CBPSGD",
    "cbp_adam": "CBPAdam",
}
COLOURS = {
    "backprop": "#D55E00",
    "continual_backprop": "#0072B2",
    "speed": "#0072B2",
    "cbp_sgd": "#0072B2",
    "cbp_adam": "#009E73",
}
