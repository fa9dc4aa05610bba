"""`gnt check` prints the check of a script's network, and errors in one line."""

from __future__ import annotations

import json
import runpy
import sys

import pytest
import torch

import gnt
from gnt.diagnosis import run_command

SCRIPT = """
import torch

def model():
    return torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))

def optimizer(params):
    return torch.optim.Adam(params, lr=0.01)

def data():
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    return x, x[:, :3].argmax(1)

loss = "cross_entropy"
"""
SHORT = ["--steps", "20", "--seeds", "2"]


@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    return path


def test_the_check_of_a_checkpoint_equals_that_of_the_function(script, capsys, tmp_path):
    parts = runpy.run_path(str(script))
    net = parts["model"]()
    with torch.no_grad():
        net[0].bias[2:] = -100.0
    torch.save(
        {"epoch": 3, "state_dict": {f"_orig_mod.module.{n}": each for n, each in net.state_dict().items()}},
        tmp_path / "c.pt",
    )
    picture = tmp_path / "check.png"
    command = [
        "check",
        str(script),
        "--checkpoint",
        str(tmp_path / "c.pt"),
        "--json",
        "--picture",
        str(picture),
        *SHORT,
    ]
    assert run_command(command) == 0
    out, err = capsys.readouterr()
    assert "3 copies x 2 seeds x 20 steps = 120 training steps" in err
    found = json.loads(out)
    wanted = gnt.plasticity_check(
        net, parts["optimizer"], parts["data"](), "cross_entropy", steps=20, seeds=2, reinitialize=parts["model"],
        progress=False,
    )  # fmt: skip
    assert found["figures"] == wanted.to_dict("")
    assert (found["verdict"], found["sentence"], found["head"]) == (wanted.verdict, wanted.sentence, ["2"])
    assert found["worst"][0]["layer"] == "0"
    assert picture.stat().st_size > 10_000


def test_the_report_on_a_checkpoint_of_a_learner_is_printed(script, capsys, tmp_path):
    torch.save(gnt.ContinualBackprop(runpy.run_path(str(script))["model"]()).state_dict(), tmp_path / "learner.pt")
    assert run_command(["check", str(script), "--quiet", "--checkpoint", str(tmp_path / "learner.pt"), *SHORT]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "layers before learning, present / fresh" in out


def test_a_script_does_not_see_the_arguments_and_its_prints_are_not_part_of_the_json(script, capsys, monkeypatch):
    arguments = ["check", str(script), "--quiet", "--json", "--steps", "20", "--seeds", "2"]
    parse = "\nimport argparse, sys\nargparse.ArgumentParser().parse_args()\nprint('loading', sys.argv)\n"
    script.write_text(script.read_text().replace("def data():", f"{parse}\ndef data():\n    print('data')"))
    monkeypatch.setattr(sys, "argv", ["gnt", *arguments])
    assert run_command(arguments) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["seeds"] == [0, 1]
    assert err == f"loading {[str(script)]}\ndata\n"
    assert sys.argv == ["gnt", *arguments]


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (("def data", "def other"), [], "must define the functions model, optimizer, data, got no data"),
        (("return torch.nn.Seq", "return 3 or torch.nn.Seq"), [], "must return a torch.nn.Module, got int"),
        (("lr=0.01", "lr=-1.0"), [], "ValueError: Invalid learning rate: -1.0"),
        (("", ""), ["--checkpoint", "missing.pt"], "--checkpoint: missing.pt is not a file"),
        (("", ""), ["--checkpoint", "SCRIPT"], "cannot be read"),
        (("", ""), ["--steps", "0"], "ValueError: steps must be an integer >= 1, got 0"),
        (("", ""), ["--picture", "missing/check.png"], "--picture: the folder missing does not exist"),
    ],
)
def test_errors_take_one_line(script, capsys, change, arguments, message):
    script.write_text(script.read_text().replace(*change))
    arguments = [str(script) if each == "SCRIPT" else each for each in arguments]
    assert run_command(["check", str(script), "--quiet", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("gnt check: ")
    assert message in line


def test_a_checkpoint_of_another_network_is_refused(script, capsys, tmp_path):
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "other.pt")
    assert run_command(["check", str(script), "--checkpoint", str(tmp_path / "other.pt")]) == 2
    assert "other.pt is of another network than model()" in capsys.readouterr().err


def test_the_module_is_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gnt", "check", "--help"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("gnt", run_name="__main__")
    assert stopped.value.code == 0
    assert "def optimizer(params)" in capsys.readouterr().out
