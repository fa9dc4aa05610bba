"""Tables of the per-element state of optimizers of other packages, by package and class name.

No package is imported. A row holds for the class and its subclasses. The initial value of each key is the one that the
optimizer gives to a new parameter whose first gradient is 0:

- moments, and gradients kept for the next step: 0;
- copies and averages of the parameter (``z``, ``x0``, ``p0``, slow weights): the new weights (`PARAMETER`);
- a few numbers for the whole parameter (norms, weights of averages): not changed (`SHARED`).

State that mixes elements of several units (factored moments, preconditioners, low-rank projections, blocks of quantised
values) cannot be reset for one unit; `REASONS_NOT_RESETTABLE` says why. ``python scripts/optimizer_resets.py`` builds
every optimizer of the packages that are installed, proves each row with it, and prints the tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

from gnt.replacement._optimizer_reset_table import PARAMETER, SHARED, InitialValue

_MOMENTS: Mapping[str, InitialValue] = {
    **dict.fromkeys(
        (
            *("acc_delta", "approx_hessian", "d_buffer", "exp_avg", "exp_avg_diff", "exp_avg_grad"),
            *("exp_avg_lr", "exp_avg_slow", "exp_avg_sq", "exp_avg_var", "exp_hessian_diag_sq", "exp_inf"),
            *("exp_mean_avg_beta2", "fim", "grad_avg", "grad_buffer", "grad_queue", "grok_exp_avg", "hessian"),
            *("hessian_moment", "i_buffer", "kahan_comp", "last_grad", "max_exp_avg_sq", "max_exp_avg_var"),
            *("moments", "momentum", "momentum_buffer", "neg_exp_avg", "neg_momentum", "neg_pre_grad"),
            *("pos_momentum", "previous_grad", "square_avg", "update"),
        ),
        0.0,
    ),
    **dict.fromkeys(("beta1_weight", "beta2_weight", "exp_avg2", "exp_grad_adanorm", "exp_grad_norm"), SHARED),
}
_NO_STATE: Mapping[str, InitialValue] = {}
_SCHEDULE_FREE: Mapping[str, InitialValue] = {"z": PARAMETER, "exp_avg_sq": 0.0, "max_exp_avg_sq": 0.0}
_SLOW_WEIGHTS = {**_MOMENTS, "slow_buffer": PARAMETER}
_MADGRAD = {"grad_sum_sq": 0.0, "s": 0.0, "x0": PARAMETER}
_A2GRAD = {"avg_grad": 0.0, "x_k": PARAMETER, "v_k": SHARED, "v_kk": SHARED}
_D_ADAPTATION = {**_MOMENTS, "s": 0.0}
_D_ADAPTATION_SGD = {"s": 0.0, "z": PARAMETER, "x0": PARAMETER}
_D_ADAPTATION_ADAGRAD = {"sk": 0.0, "x0": PARAMETER, "weighted_sk": 0.0}
_PRODIGY = {**_MOMENTS, "s": 0.0, "p0": PARAMETER}
_YOGI = {"exp_avg": "initial_accumulator", "exp_avg_sq": "initial_accumulator"}
_LOOKAHEAD = {"slow_params": PARAMETER, "slow_momentum": 0.0, "backup_params": PARAMETER}
_BITSANDBYTES = {"state1": 0.0, "state2": 0.0, "unorm_vec": SHARED, "gnorm_vec": SHARED}

_Value = TypeVar("_Value")
_Rows = Mapping[str, Mapping[str, InitialValue]]  # names of classes, separated by spaces -> their state

_PYTORCH_OPTIMIZER: _Rows = {
    "ADOPT AdEMAMix SimplifiedAdEMAMix AdaBelief AdaBound AdaDelta AdaGC AdaHessian AdaMax AdaMod AdaNorm": _MOMENTS,
    "AdaPNM AdaShift AdamC AdamP AdamS AdamWSN Adan AggMo Aida AliG Amos Ano ApolloDQN AvaGrad DiffGrad": _MOMENTS,
    "DualAdam EXAdam FAdam Grams GrokFastAdamW LARS LaProp Lamb Lion MARS MSVAG NovoGrad PAdam PID PNM": _MOMENTS,
    "QHAdam QHM RAdam SGDP SGDSaI SGDW SWATS SignSGD SophiaH StableAdamW StableSPAM Tiger": _MOMENTS,
    "AdaGO Muon MuonClip DistributedMuon": _MOMENTS,
    "AdaMuon": {**_MOMENTS, "m": 0.0, "v": 0.0},
    "Adai": {**_MOMENTS, "beta1_prod": 1.0},
    "AdaTAM TAM": {**_MOMENTS, "s": 0.0},
    "AdamG": {"m": 0.0, "v": 0.0, "r": 0.0},
    "AdaSmooth": {"prev_param": PARAMETER, "s": 0.0, "n": 0.0, "exp_avg_sq": 0.0},
    "A2Grad": _A2GRAD,
    "AccSGD": {"momentum_buffer": PARAMETER},
    "ASGD Fromage ROSE SCIONLight": _NO_STATE,
    "BCOS": {"m": 0.0, "v": 0.0},
    "BSAM": {"s": 1.0, "noisy_gradient": 0.0, "momentum": 0.0},
    "DAdaptAdam DAdaptAdan DAdaptLion": _D_ADAPTATION,
    "DAdaptAdaGrad": {**_D_ADAPTATION_ADAGRAD, "alpha_k": 1e-6},
    "DAdaptSGD": _D_ADAPTATION_SGD,
    "EmoLynx EmoNavi": {**_MOMENTS, "shadow": PARAMETER},
    "Kate": {"m": 0.0, "b": 0.0},
    "Lookahead": _LOOKAHEAD,
    "MADGRAD": _MADGRAD,
    "Magma OrthoGrad": _NO_STATE,
    "Prodigy": _PRODIGY,
    "Ranger": _SLOW_WEIGHTS,
    "Ranger21": {
        **dict.fromkeys(("grad_ma", "variance_ma", "neg_grad_ma", "max_variance_ma"), 0.0),
        "lookahead_params": PARAMETER,
    },
    "FriendlySAM SAM": {"old_p": PARAMETER, "momentum": 0.0},
    "LookSAM": {"old_p": PARAMETER, "old_grad_p": 0.0, "gv": 0.0},
    "WSAM": {"e_w": 0.0, "grad": 0.0, "sharpness": 0.0},
    "SpectralSphere": {"momentum_buffer": 0.0},
    "SCION": {"d": 0.0},
    "ScheduleFreeAdamW ScheduleFreeRAdam ScheduleFreeSGD": _SCHEDULE_FREE,
    "VSGD": {"mug": 0.0, "bg": "pbg2", "bhg": "pbhg2"},
    "Yogi": _YOGI,
}

_TIMM: _Rows = {
    "AdaBelief AdamP AdamWLegacy Adahessian Adan Adopt LaProp Lamb Lars Lion Mars Muon NAdamLegacy NAdamW": _MOMENTS,
    "NvNovoGrad RAdamLegacy SGDP SGDW": _MOMENTS,
    "Lookahead": {"lookahead_slow_buff": PARAMETER},
    "MADGRAD": _MADGRAD,
    "RMSpropTF": {"square_avg": 1.0, "momentum_buffer": 0.0, "grad_avg": 0.0},
}

_TORCH_OPTIMIZER: _Rows = {
    "AdaBelief AdaBound AdaMod Adahessian AdamP AggMo Apollo DiffGrad LARS Lamb NovoGrad PID QHAdam": _MOMENTS,
    "QHM RAdam SGDP SGDW SWATS": _MOMENTS,
    "A2GradExp A2GradInc A2GradUni": _A2GRAD,
    "AccSGD": {"momentum_buffer": PARAMETER},
    "Lookahead": {"slow_param": PARAMETER},
    "MADGRAD": _MADGRAD,
    "Yogi": _YOGI,
}

_BITS = tuple(
    f"{paged}{name}{{bits}}"
    for names, paging in (
        (("Adagrad", "LAMB", "LARS", "RMSprop", "SGD"), ("",)),
        (("Adam", "AdamW", "Lion"), ("", "Paged")),
    )
    for name in names
    for paged in paging
)


def _with_bits(*bits: str) -> str:
    return " ".join(name.format(bits=each) for name in _BITS for each in bits)


_PACKAGES: Mapping[str, _Rows] = {
    "adabelief_pytorch": {"AdaBelief": _MOMENTS},
    "adan_pytorch": {"Adan": {"m": 0.0, "v": 0.0, "n": 0.0, "prev_grad": 0.0}},
    "bitsandbytes": {
        _with_bits("", "32bit"): _BITSANDBYTES,
        "AdEMAMix PagedAdEMAMix": _BITSANDBYTES,
        "PytorchLARS": _MOMENTS,
    },
    "dadaptation": {
        "DAdaptAdam DAdaptAdan DAdaptLion": {**_D_ADAPTATION, "pre_grad": 0.0},
        "DAdaptAdaGrad": {**_D_ADAPTATION_ADAGRAD, "alphak": 1e-6},
        "DAdaptSGD": _D_ADAPTATION_SGD,
    },
    "lion_pytorch": {"Lion": {"exp_avg": 0.0}},
    "muon": {"Muon MuonWithAuxAdam SingleDeviceMuon SingleDeviceMuonWithAuxAdam": _MOMENTS},
    "prodigyopt": {"Prodigy": _PRODIGY},
    "pytorch_optimizer": _PYTORCH_OPTIMIZER,
    "pytorch_ranger": {"Ranger RangerQH RangerVA": _SLOW_WEIGHTS},
    "schedulefree": {
        "SGDScheduleFree AdamWScheduleFree AdamWScheduleFreePaper RAdamScheduleFree": _SCHEDULE_FREE,
        "SGDScheduleFreeClosure AdamWScheduleFreeClosure RAdamScheduleFreeClosure": _SCHEDULE_FREE,
    },
    "timm": _TIMM,
    "torch_optimizer": _TORCH_OPTIMIZER,
}

_FACTORED = "its second moment is factored: it is shared by whole rows and columns"
_PRECONDITIONED = "its preconditioner mixes all rows or columns of a weight"
_LOW_RANK = "its moments are those of a low-rank projection of the gradient, which mixes the units"
_QUANTISED = "its moments are quantised in blocks, whose scale several units share"
_ONE_PER_BLOCK = "a number of its second moment is shared by many weights"
_WEIGHTS_FROM_STATE = "it computes the weights from its state, which would undo the new weights of a unit"
_FUSED = "it changes the weights during the backward pass"

# by package and class names; "*" holds for all packages
_REASONS: Mapping[str, Mapping[str, str]] = {
    "*": {
        "LBFGS": "its history mixes all parameters into flat vectors",
        "Adafactor AdaFactor AdafactorBigVision": _FACTORED,
        "SparseAdam": "it takes sparse gradients only",
        "CAME": _FACTORED,
        "Shampoo ScalableShampoo SOAP Kron": _PRECONDITIONED,
    },
    "pytorch_optimizer": {
        "Adalite EmoFact SM3": _FACTORED,
        "DASH SPlus LoRARite RACS": _PRECONDITIONED,
        "APOLLO Alice Conda Fira GaLore": _LOW_RANK,
        "FlashAdamW": _QUANTISED,
        "AdamMini Nero NorMuon": _ONE_PER_BLOCK,
        "FTRL": _WEIGHTS_FROM_STATE,
        "LOMO AdaLOMO": _FUSED,
        "DeMo": "it keeps what a transform of the gradient, which mixes the units, leaves out",
        "SPAM SaRA": "it keeps moments for a changing selection of the weights",
        "TRAC ScheduleFreeWrapper": "it keeps copies of the weights beside the state of each parameter",
        "Gravity": "its velocity starts at random numbers",
        "FOCUS SRMM": "its average of the weights begins at 0 and is corrected by the age of the whole parameter",
    },
    "bitsandbytes": {
        _with_bits("8bit") + " AdEMAMix8bit PagedAdEMAMix8bit": _QUANTISED,
        "AdEMAMix32bit PagedAdEMAMix32bit": "it allocates one moment where it uses two (take AdEMAMix)",
    },
}


def _single(rows: Mapping[str, _Value]) -> Iterator[tuple[str, _Value]]:
    for names, value in rows.items():
        yield from ((name, value) for name in names.split())


THIRD_PARTY_STATE_RESETS: dict[tuple[str, str], Mapping[str, InitialValue]] = {
    (package, name): row for package, rows in _PACKAGES.items() for name, row in _single(rows)
}
REASONS_NOT_RESETTABLE: dict[tuple[str, str], str] = {
    (package, name): reason for package, reasons in _REASONS.items() for name, reason in _single(reasons)
}

# Take eps = 0: they divide by nothing that is 0 after a reset.
WITHOUT_EPS = {
    *(("bitsandbytes", f"{name}{bits}") for name in ("LARS", "Lion", "PagedLion", "SGD") for bits in ("", "32bit")),
    ("pytorch_optimizer", "DAdaptAdaGrad"),
}

# Work element by element (Lion and AdaBelief without the options adanorm and cautious): an ensemble, whose members
# share each parameter, can use them.
ELEMENTWISE = {
    *(("schedulefree", name) for name in ("SGDScheduleFree", "AdamWScheduleFree", "RAdamScheduleFree")),
    *(("lion_pytorch", "Lion"), ("pytorch_optimizer", "Lion"), ("pytorch_optimizer", "AdaBelief")),
}

# wrappers without state of their own: package -> the attribute with the optimizer
WRAPPERS = {"accelerate": "optimizer", "lightning": "optimizer", "pytorch_lightning": "optimizer"}
