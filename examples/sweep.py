# %% [markdown]
# # A sweep with Optuna
#
# Which replacement rate, and which learning rate with it? Published rates differ by a factor of 300, so it is worth
# searching. Optuna tries settings, learns which ones do well, and stops bad trials early. The rate 0 is among the
# choices: so the search itself tells whether replacement helps.
#
# The stream is that of [the network that dies](mlp_that_dies.md), shorter. What is searched for is the best *online*
# accuracy, that of each batch before it is learned, over the last half of the tasks: settings that do well only at the
# beginning are of no use.

# %%
import matplotlib.pyplot as plt
import optuna
import torch
from sklearn.datasets import load_digits

import gnt

TRIALS = 16
TASKS = 10
BATCH = 32

optuna.logging.set_verbosity(optuna.logging.WARNING)
images, labels = map(torch.from_numpy, load_digits(return_X_y=True))
images = images.float() / 16


def run(trial):
    """Train with the settings of a trial; the online accuracy in the last half of the tasks."""
    settings = {"step_size": trial.suggest_float("step_size", 1e-3, 3e-2, log=True)}
    rate = trial.suggest_categorical("replacement_rate", [0.0, 1e-4, 1e-3, 1e-2])
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    learner = gnt.ContinualBackprop(net, loss="cross_entropy", opt="adam", replacement_rate=rate, **settings)
    stream = torch.Generator().manual_seed(1)
    accuracy = []
    for task in range(TASKS):
        x, right = images[:, torch.randperm(64, generator=stream)], 0
        for batch in torch.randperm(len(x), generator=stream).split(BATCH):
            right += (learner.learn(x[batch], labels[batch]).output.argmax(1) == labels[batch]).sum().item()
        accuracy.append(right / len(x))
        trial.report(accuracy[-1], task)
        if trial.should_prune():
            raise optuna.TrialPruned
    late = accuracy[TASKS // 2 :]
    return sum(late) / len(late)


# %%
study = optuna.create_study(
    direction="maximize",
    sampler=optuna.samplers.TPESampler(seed=0),
    pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=3),
)
study.optimize(run, n_trials=TRIALS)
print(f"{'trial':>5}{'learning rate':>15}{'replacement rate':>18}{'accuracy':>10}")
for trial in study.trials:
    value = f"{trial.value:.1%}" if trial.state.name == "COMPLETE" else "stopped"
    print(f"{trial.number:5}{trial.params['step_size']:15.1e}{trial.params['replacement_rate']:18g}{value:>10}")
print("best:", study.best_params)

# %%
figure, axis = plt.subplots()
for rate in (0.0, 1e-4, 1e-3, 1e-2):
    done = [t for t in study.trials if t.state.name == "COMPLETE" and t.params["replacement_rate"] == rate]
    axis.plot([t.params["step_size"] for t in done], [t.value for t in done], "o", label=f"rate {rate:g}")
axis.set(title="Finished trials", xlabel="learning rate", ylabel="online accuracy, last half", xscale="log")
axis.yaxis.set_major_formatter("{x:.0%}")
axis.legend()
plt.show()

# %% [markdown]
# Among trials with similar learning rates, those with a higher replacement rate are better. Without replacement (rate
# 0) a high learning rate does harm; with it, a high one pays. The best trials are at the upper end of both ranges, so a
# next sweep would move both up. None of the trials was bad enough to be stopped. All of them have the same seed: before
# you rely on the winner, run it and its neighbours with others.
#
# Trials can run in several processes, or on several machines, if they share a storage:
# `create_study(storage="sqlite:///sweep.db", load_if_exists=True)` in each of them.
