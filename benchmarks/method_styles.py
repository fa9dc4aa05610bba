"""Names and colours of the methods, the same in progress bars, tables and pictures.

Most colours are from Okabe and Ito's colour-blind safe palette.
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
    "ccbp": "CCBP",
    "snr": "SNR",
    "swr": "SWR",
    "upgd": "UPGD",
    "spectral": "spectral regularization",
    "parseval": "Parseval regularization",
    "fire": "FIRE",
    "input_norm": "input normalization",
    "cold": "cold start",
    "joint": "all tasks at once",
    "ewc": "EWC",
    "si": "SI",
    "mas": "MAS",
    "agem": "A-GEM",
    "gem": "GEM",
    "er": "experience replay",
    "der": "DER",
    "der_plus_plus": "DER++",
    "generative_replay": "generative replay",
    "lwf": "LwF",
    "packnet": "PackNet",
    "progressive": "progressive network",
    "ewc_cbp": "EWC + CBP",
    "ewc_cbp_protected": "EWC + CBP protected",
    "l2_init_ewc": "L2 Init + EWC",
    "er_cbp": "replay + CBP",
    "cbp_top": "CBP + held units",
    "backprop_heads": "backprop + own heads",
    "hat": "HAT",
    "hat_cbp": "HAT + CBP",
    "ada_hat": "AdaHAT",
    "fg_ada_hat": "FG-AdaHAT",
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
    "ccbp": "#882255",
    "snr": "#44AA99",
    "swr": "#999933",
    "upgd": "#E3127E",
    "spectral": "#8A4FBF",
    "parseval": "#661100",
    "fire": "#222222",
    "input_norm": "#6699CC",
    "cold": "#7F7F7F",
    "joint": "#7F7F7F",
    "ewc": "#56B4E9",
    "si": "#332288",
    "mas": "#8C6D31",
    "agem": "#882255",
    "gem": "#222222",
    "er": "#009E73",
    "der": "#E69F00",
    "der_plus_plus": "#CC79A7",
    "generative_replay": "#44AA99",
    "lwf": "#E3127E",
    "packnet": "#999933",
    "progressive": "#8A4FBF",
    "ewc_cbp": "#332288",
    "ewc_cbp_protected": "#CC79A7",
    "l2_init_ewc": "#E69F00",
    "er_cbp": "#117733",
    "cbp_top": "#6699CC",
    "backprop_heads": "#7F7F7F",
    "hat": "#222222",
    "hat_cbp": "#8C6D31",
    "ada_hat": "#8A4FBF",
    "fg_ada_hat": "#882255",
    "head_reset": "#882255",
    "proper_adam": "#009E73",
    "cbp_sgd": "#0072B2",
    "cbp_adam": "#009E73",
}


def shade(colour: str, number: int, count: int) -> str:
    """The colour of one of several variants of a method: the first unchanged, later ones lighter.

    >>> shade("#0072B2", 0, 1), shade("#0072B2", 1, 2)
    ('#0072B2', '#73b1d5')
    """
    share = 0.0 if count == 1 else min(0.55, 0.45 * (count - 1)) * number / (count - 1)
    if not share:
        return colour
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(part + share * (255 - part)):02x}" for part in parts)
