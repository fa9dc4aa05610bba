"""How the methods are named and coloured, the same in bars, tables and pictures (Okabe and Ito's colour-blind
safe palette).
"""

from __future__ import annotations

LABELS = {
    "backprop": "backprop",
    "continual_backprop": "continual backprop",
    "l2": "L2",
    "l2_init": "L2 Init",
    "shrink_and_perturb": "Shrink and Perturb",
    "redo": "ReDo",
    "layer_norm": "layer norm",
    "crelu": "CReLU",
    "algorithm_1": "Algorithm 1 as printed",
    "head_reset": "head reset",
    "proper_adam": "proper Adam",
    "cbp_sgd": "CBPSGD",
    "cbp_adam": "CBPAdam",
}
COLOURS = {
    "backprop": "#D55E00",
    "continual_backprop": "#0072B2",
    "l2": "#E69F00",
    "l2_init": "#009E73",
    "shrink_and_perturb": "#CC79A7",
    "redo": "#56B4E9",
    "layer_norm": "#8C6D31",
    "crelu": "#7F7F7F",
    "algorithm_1": "#332288",
    "head_reset": "#882255",
    "proper_adam": "#E69F00",
    "cbp_sgd": "#0072B2",
    "cbp_adam": "#009E73",
}
