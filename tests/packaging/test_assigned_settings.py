"""Settings that are assigned after construction are checked as at construction, and nothing has changed if refused."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import gnt
from gnt.importance import Importance
from tests.helpers.small_runs import mlp

NAN = float("nan")


def buffer() -> gnt.ReplayBuffer:
    return gnt.ReplayBuffer(5)


def fg(**settings: Any) -> gnt.FGAdaHAT:
    net = mlp()
    return gnt.FGAdaHAT(net, gnt.walk(net), alpha=0.1, **settings)


def hat() -> gnt.HAT:
    net = mlp()
    return gnt.HAT(net, gnt.walk(net))


MAKE: dict[str, Callable[[], Any]] = {
    "ShrinkAndPerturb": lambda: gnt.ShrinkAndPerturb(mlp(), shrink=0.5, noise=0.1),
    "FIRE": lambda: gnt.FIRE(mlp()),
    "L2": lambda: gnt.L2(mlp(), 0.1),
    "Spectral": lambda: gnt.Spectral(mlp(), 0.1),
    "Parseval": lambda: gnt.Parseval(mlp(), 0.1),
    "EWC": lambda: gnt.EWC(mlp(), 0.1),
    "SI": lambda: gnt.SI(mlp(), 0.1),
    "ReDo": lambda: gnt.ReDo(mlp()),
    "SNR": lambda: gnt.SNR(mlp()),
    "SWR": lambda: gnt.SWR(mlp(), select="proportional"),
    "DER": lambda: gnt.DER(mlp(), buffer()),
    "ExperienceReplay": lambda: gnt.ExperienceReplay(buffer()),
    "AGEM": lambda: gnt.AGEM(mlp(), buffer(), nn.functional.mse_loss),
    "GEM": lambda: gnt.GEM(mlp(), nn.functional.mse_loss, per_task=3),
    "LwF": lambda: gnt.LwF(mlp()),
    "GenerativeReplay": lambda: gnt.GenerativeReplay(mlp(), gnt.VAE(4, hidden=[3], latent=2)),
    "ReplayBuffer": buffer,
    "LaMAML": lambda: gnt.LaMAML(mlp(), buffer()),
    "PackNet": lambda: gnt.PackNet(mlp()),
    "Importance": lambda: Importance(gnt.walk(mlp())),
    "HAT": hat,
    "FGAdaHAT": fg,
    "Backprop": lambda: gnt.Backprop(mlp()),
    "ContinualBackprop": lambda: gnt.ContinualBackprop(mlp()),
}
CASES: list[tuple[str, str, Any, Any, str]] = [  # an allowed value, and one that is refused with this text
    ("ShrinkAndPerturb", "shrink", 0.25, 1.5, r"shrink must be in \[0, 1\], got 1.5"),
    ("ShrinkAndPerturb", "noise", 0.0, NAN, "noise must be a finite number >= 0, got nan"),
    ("ShrinkAndPerturb", "every", 0, True, "every must be an integer >= 0, got True"),
    ("ShrinkAndPerturb", "distribution", "init", "normal", "distribution of ShrinkAndPerturb cannot be changed"),
    ("FIRE", "iterations", 3, 0, "iterations must be an integer >= 1, got 0"),
    ("FIRE", "every", 2, 1.5, "every must be an integer >= 0, got 1.5"),
    ("L2", "strength", 0.0, -1.0, "strength must be a finite number >= 0, got -1.0"),
    ("Spectral", "exponent", 1.0, 0.5, "exponent must be a finite number >= 1, got 0.5"),
    ("Parseval", "scale", 2.0, 0.0, "scale must be a finite number > 0, got 0.0"),
    ("EWC", "strength", 2.0, "2", "strength must be a finite number >= 0, got '2'"),
    ("EWC", "decay", 1.0, 0.5, "decay needs mode='online', got decay=0.5"),
    ("EWC", "normalize", True, 1, "normalize must be True or False, got 1"),
    ("EWC", "mode", "separate", "online", "mode of EWC cannot be changed from 'separate' to 'online'"),
    ("SI", "damping", 0.5, 0.0, "damping must be a finite number > 0, got 0.0"),
    ("ReDo", "tau", 0.5, -0.1, "tau must be a finite number >= 0, got -0.1"),
    ("ReDo", "period", 5, 0, "period must be an integer >= 1, got 0"),
    ("SNR", "eta", 0.5, 1.0, "eta must be"),
    ("SWR", "factor", 0.5, 1.5, r"factor must be in \[0, 1\] for select='proportional', got 1.5"),
    ("SWR", "period", 3, 0, "period must be an integer >= 1, got 0"),
    ("SWR", "value", "mean", "median", "value must be one of 'resample', 'mean', got 'median'"),
    ("SWR", "select", "proportional", "threshold", "select of SWR cannot be changed"),
    ("DER", "alpha", 0.0, NAN, "alpha must be a finite number >= 0, got nan"),
    ("DER", "batch_size", None, 0, "batch_size must be an integer >= 1, got 0"),
    ("ExperienceReplay", "batch_size", 3, -1, "batch_size must be an integer >= 1, got -1"),
    ("AGEM", "batch_size", 3, None, "batch_size must be an integer >= 1, got None"),
    ("GEM", "margin", 0.0, -1, "margin must be a finite number >= 0, got -1"),
    ("GEM", "per_task", 3, 4, "per_task of GEM cannot be changed from 3 to 4"),
    ("LwF", "temperature", 1.0, 0, "temperature must be a finite number > 0, got 0"),
    ("GenerativeReplay", "weight", None, 2.0, r"weight must be in \[0, 1\] or None, got 2.0"),
    ("GenerativeReplay", "targets", "soft", "medium", "targets must be 'hard', 'soft' or a function"),
    ("ReplayBuffer", "size", 5, 6, "size of ReplayBuffer cannot be changed from 5 to 6"),
    ("LaMAML", "inner_steps", 2, 0, "inner_steps must be an integer >= 1 or None, got 0"),
    ("LaMAML", "first_order", True, "yes", "first_order must be True or False, got 'yes'"),
    ("PackNet", "share", 0.25, 1.5, r"share must be in \[0, 1\], got 1.5"),
    ("Importance", "decay_rate", 0.99, 0.5, "decay_rate of Importance cannot be changed from 0.99 to 0.5"),
    ("HAT", "sparsity", 0.5, -1.0, "sparsity must be a finite number >= 0, got -1.0"),
    ("HAT", "sparsity_mode", "cross", "crossed", "sparsity_mode must be one of .*; did you mean 'cross'"),
    ("HAT", "idle", True, "yes", "idle must be True or False, got 'yes'"),
    ("HAT", "protect_above", 0, 1, "protect_above must be 0 where weights of earlier tasks are fixed"),
    ("HAT", "s_max", None, 100.0, "s_max of HAT cannot be changed, got 100.0: the masks"),
    ("FGAdaHAT", "protect_quantile", 0.5, 1.0, r"protect_quantile must be a number in \[0, 1\) or None, got 1.0"),
    ("FGAdaHAT", "base_importance", 0.0, NAN, "base_importance must be a finite number >= 0, got nan"),
    ("FGAdaHAT", "every", 2, 0, "every must be an integer >= 1, got 0"),
    ("FGAdaHAT", "importance", "contribution", "weight", "importance of FGAdaHAT cannot be changed"),
    ("Backprop", "loss", "cross_entropy", "mae", "loss must be one of mse, cross_entropy, nll"),
    ("Backprop", "net", None, 3, "net must be a torch.nn.Module, got int"),
    ("Backprop", "opt", None, "sgd", "opt of a learner must be a torch.optim.Optimizer, got 'sgd'"),
    ("ContinualBackprop", "gnt", None, "engine", "gnt of a learner must be a gnt.GnT, got 'engine'"),
]


@pytest.mark.parametrize(("kind", "name", "allowed", "refused", "words"), CASES, ids=lambda each: str(each)[:20])
def test_a_setting_is_checked_when_it_is_assigned(kind: str, name: str, allowed: Any, refused: Any, words: str) -> None:
    made = MAKE[kind]()
    before = getattr(made, name)
    with pytest.raises((TypeError, ValueError, AttributeError), match=words):
        setattr(made, name, refused)
    assert getattr(made, name) is before
    if allowed is None and before is not None:
        setattr(made, name, before) if (kind, name) != ("HAT", "s_max") else None
    else:
        setattr(made, name, allowed)
        assert getattr(made, name) == allowed or callable(getattr(made, name))
        assert getattr(copy.deepcopy(made), name) == allowed or callable(getattr(made, name))


def layer() -> gnt.CBPLinear:
    net = mlp()
    return gnt.CBPLinear(net[0], net[2])


def probe() -> gnt.metrics.Probe:
    net = mlp()
    return gnt.metrics.Probe(net, gnt.walk(net), torch.ones(1, 4))


OTHERS: dict[str, Callable[[], Any]] = {
    "GnT": lambda: gnt.GnT(mlp()),
    "Ensemble": lambda: gnt.Ensemble(mlp, [0, 1], replacement_rate=0.1),
    "EnsembleGnT": lambda: gnt.Ensemble(mlp, [0, 1], replacement_rate=0.1).gnt,
    "CBPSGD": lambda: gnt.optim.CBPSGD(mlp()),
    "CBPAdam": lambda: gnt.optim.CBPAdam(mlp()),
    "CBPLinear": layer,
    "L2Init": lambda: gnt.L2Init(mlp(), 0.1),
    "MAS": lambda: gnt.MAS(mlp(), 0.1),
    "Probe": lambda: probe(),
}
UNKNOWN: list[tuple[str, str, str]] = [
    ("GnT", "replacment_rate", "unknown setting replacment_rate of GnT; did you mean replacement_rate"),
    ("GnT", "util_type", "unknown setting util_type: GnT has accumulate, .*util_type of other .* is here: utility="),
    ("GnT", "history", "unknown setting history: GnT has .*attributes of your own need a subclass, or a name that"),
    ("EnsembleGnT", "decay", "unknown setting decay: EnsembleGnT has accumulate, .*decay_rate"),
    ("CBPSGD", "replacement_rate", "replacement_rate is not an attribute of CBPSGD: assign gnt.replacement_rate"),
    ("CBPAdam", "maturity_treshold", "did you mean gnt.maturity_threshold"),
    ("CBPAdam", "lr", r'lr is not an attribute of CBPAdam: assign param_groups\[0\]\["lr"\]'),
    ("CBPLinear", "replacement_rate", "replacement_rate is not .*: assign engine.replacement_rate"),
    ("Backprop", "step_size", r'step_size is not .* Backprop: assign opt.param_groups\[0\]\["lr"\]'),
    ("Backprop", "replacement_rate", "unknown setting replacement_rate: Backprop has loss, methods, net, opt"),
    ("Backprop", "compile", "compile of Backprop cannot be changed: build a new Backprop"),
    ("SNR", "longest", "longest of SNR cannot be changed: build a new SNR"),
    ("SWR", "utility", "utility of SWR cannot be changed: build a new SWR"),
    ("ContinualBackprop", "replacement_rate", "assign gnt.replacement_rate"),
    ("ContinualBackprop", "replacment_rate", "did you mean gnt.replacement_rate"),
    ("Ensemble", "method", "unknown setting method of Ensemble; did you mean methods"),
    ("LaMAML", "inner_step", "did you mean inner_steps"),
    ("ReDo", "taus", "unknown setting taus of ReDo; did you mean tau"),
    ("L2Init", "strenght", "did you mean strength"),
    ("MAS", "strenght", "did you mean strength"),
    ("ShrinkAndPerturb", "nois", "did you mean noise"),
    ("ReplayBuffer", "capacity", "unknown setting capacity: ReplayBuffer has balance, size"),
    ("Probe", "evry", "did you mean every"),
    ("HAT", "sparsty", "unknown setting sparsty of HAT; did you mean sparsity"),
    ("FGAdaHAT", "evry", "did you mean every"),
]


@pytest.mark.parametrize(("kind", "name", "words"), UNKNOWN)
def test_an_unknown_setting_is_not_assigned(kind: str, name: str, words: str) -> None:
    made = {**MAKE, **OTHERS}[kind]()

    def assign(engine: Any) -> None:
        setattr(engine, name, 0.5)

    before = getattr(made, name, None)
    with pytest.raises(AttributeError, match=words):
        assign(made)
    assert name not in vars(made)
    assert getattr(made, name, None) == before
    for own in (copy.deepcopy(made), made):
        own._note = 0.5
        assert own._note == 0.5


class OwnEngine(gnt.GnT):
    declared: Any
    default: Any = None

    def __init__(self, *args: Any, **settings: Any) -> None:
        self.before = 1
        super().__init__(*args, **settings)
        self.after = [setattr(self, name, 1) for name in ("first", "second")]  # type: ignore[func-returns-value]

    def step(self, *args: Any) -> list[Any]:
        self.latest = super().step(*args)
        return self.latest


def test_subclasses_have_attributes_of_their_own_and_are_copied_and_pickled() -> None:
    net = mlp()
    engine = OwnEngine(net, replacement_rate=0.5)
    engine.declared = engine.default = 2
    engine.step([torch.ones(3, group.num_units) for group in engine.groups])
    for each in (engine, copy.copy(engine), copy.deepcopy(engine), pickle.loads(pickle.dumps(engine))):
        assert (each.before, each.first, each.declared, len(each.latest)) == (1, 1, 2, len(engine.groups))
        with pytest.raises(AttributeError, match="did you mean replacement_rate"):
            each.replacement_rat = 0.5
        each.replacement_rate = 0.25
    assert (engine.updates, engine.loaded, engine.replaced) == (1, False, engine.latest)


def test_optimizers_take_attributes_of_trainers() -> None:
    optimizer = gnt.optim.CBPAdam(mlp())
    optimizer.grad_scale = optimizer.found_inf = optimizer.trainer = None
    optimizer.step = optimizer.step  # as schedulers do


@pytest.mark.parametrize("kind", [gnt.optim.CBPSGD, gnt.optim.CBPAdam, gnt.AdamGnT, gnt.optim.UPGD])
def test_misspelled_options_of_parameter_groups_are_refused_before_anything_changes(kind: Any) -> None:
    net = mlp()
    layers = {"layers": net} if kind in (gnt.optim.CBPSGD, gnt.optim.CBPAdam) else {}
    for name, words in (
        ("weight_dacay", "has the unknown option 'weight_dacay'; did you mean 'weight_decay'"),
        (
            "replacment_rate",
            "has 'replacment_rate': replacement_rate is a setting of the engine, .* optimizer.gnt.replacement_rate",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            kind([{"params": net.parameters(), name: 0.5}], **layers)
        optimizer = kind([{"params": net.parameters(), "lr_scale": 2.0}], **layers)
        torch.optim.lr_scheduler.LinearLR(optimizer)  # adds "initial_lr"
        optimizer.param_groups[0] |= {"max_momentum": 0.9, "name": "all"}
        for lacks in (False, True):
            net(torch.randn(3, 4)).square().mean().backward()
            if lacks:
                optimizer.param_groups[0][name] = 0.5
                before = copy.deepcopy(net.state_dict())
                with pytest.raises(ValueError, match=f"parameter group 0 {words}"):
                    optimizer.step()
                assert all(torch.equal(before[key], each) for key, each in net.state_dict().items())
            else:
                optimizer.step()


def test_settings_of_masks_that_a_task_has_taken_up_are_changed_between_tasks_only() -> None:
    masks = fg(protect_above=1)
    optimizer = torch.optim.SGD(masks.net.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="protect_above must be 0 with protect_quantile, got 1"):
        masks.protect_quantile = 0.5
    with masks.learning(0, optimizer, steps_per_epoch=1):
        with pytest.raises(RuntimeError, match=r"sparsity cannot be changed to 0\.5 while task 0 is open"):
            masks.sparsity = 0.5
        masks.protect_above = 0
        (masks.net(torch.randn(3, 4)).square().mean() + masks.penalty()).backward()
        optimizer.step()
    masks.sparsity = 0.5
    assert masks.settings.sparsity == 0.5
    group = masks.groups[0]
    kept = []
    for quantile in (0.0, 0.9):
        masks.protect_quantile = quantile
        kept.append(int(masks.protected(group).sum()))
    assert kept[0] > kept[1]
    with pytest.raises(ValueError, match="protect_above must be 0 with protect_quantile, got 2"):
        masks.protect_above = 2


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("sigma", -1.0, "sigma must be a finite number >= 0, got -1.0"),
        ("lr", NAN, "lr must be a finite number >= 0, got nan"),
        ("betas", (0.9, 2.0), "betas must be None or two numbers"),
        ("scaling", "wide", "scaling must be 'global' or 'local', got 'wide'"),
    ],
)
def test_options_of_upgd_are_checked_in_the_step_before_anything_changes(name: str, value: Any, words: str) -> None:
    net = mlp()
    optimizer = gnt.optim.UPGD(net.parameters())
    net(torch.randn(3, 4)).square().mean().backward()
    optimizer.step()
    before, state = copy.deepcopy(net.state_dict()), copy.deepcopy(optimizer.state_dict()["state"])
    optimizer.param_groups[0][name] = value
    with pytest.raises((TypeError, ValueError), match=words):
        optimizer.step()
    assert all(torch.equal(before[key], each) for key, each in net.state_dict().items())
    saved = optimizer.state_dict()["state"]
    assert all(torch.equal(state[i]["avg_utility"], saved[i]["avg_utility"]) for i in state)
    assert all(state[i]["step"] == saved[i]["step"] for i in state)


NO_GROUP = "process_group must be a torch process group, None or False, got 3"
NO_GENERATOR = "generator must be a torch.Generator or None, got 'g'"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: fg(process_group=3), NO_GROUP),
        (lambda: fg(generator="g"), NO_GENERATOR),
        (lambda: gnt.GEM(mlp(), nn.functional.mse_loss, per_task=3, process_group=3), NO_GROUP),
        (lambda: Importance(gnt.walk(mlp()), process_group=3), NO_GROUP),
        (lambda: gnt.ExperienceReplay(buffer(), task=NAN), "task must be an integer or None, got nan"),
        (lambda: gnt.ExperienceReplay(buffer()).begin_task(task=NAN), "task must be an integer or None, got nan"),  # type: ignore[arg-type]
        (lambda: gnt.CBPLinear(mlp()[0], mlp()[2], norms=NAN), "norms must be a norm or a list of norms, got nan"),
        (lambda: gnt.optim.CBPSGD(mlp(), params=NAN), "params must be parameters or parameter groups of net, got nan"),
        (lambda: gnt.MultiHead(4, bias="yes"), "bias must be True or False, got 'yes'"),
        (lambda: gnt.ProgressiveNet(4, [3], activation="relu"), "activation must be a function that makes a module"),
        (lambda: gnt.VAE(4, activation=NAN), "activation must be a class of modules, .* got nan"),
    ],
)
def test_arguments_of_other_types_are_refused_at_construction(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        make()


def test_masks_of_one_network_are_refused_by_an_ensemble() -> None:
    ensemble = gnt.Ensemble(mlp, [0, 1], replacement_rate=0.1)
    with pytest.raises(TypeError, match="methods of an ensemble must not have HAT: its gates and masks belong to"):
        ensemble.methods = [hat()]
    with pytest.raises(TypeError, match="net must be one network, got that of an ensemble of 2, each of which"):
        gnt.HAT(ensemble.net, gnt.walk(mlp()))
    with pytest.raises(TypeError, match=r"protect must be None .*\. Train one learner for each seed"):
        gnt.Ensemble(mlp, [0, 1], protect=hat())
