"""Invalid command lines: the error says what is allowed, before anything is executed."""

from pathlib import Path

import pytest

from benchmarks.cli import main

ERRORS = [
    (["random_labels_mnist"], "unknown experiment 'random_labels_mnist'; did you mean random_label_mnist? Known: "),
    (["sped"], "did you mean speed?"),
    (["random_label_mnist", "--epoch", "3"], "unknown setting --epoch; did you mean --epochs?"),
    (["random_label_mnist", "--step-size", "0.1"], "unknown setting --step-size"),
    (["random_label_mnist", "--utility", "contributions"], "did you mean 'contribution'?"),
    (["random_label_mnist", "--methods", "continual"], "did you mean continual_backprop?"),
    (["slowly_changing_regression", "--methods", "layer_norms"], "unknown name 'layer_norms'"),
    (["random_label_mnist", "--size", "publish"], "did you mean published?"),
    (["random_label_mnist", "--launcher", "rey"], "did you mean ray?"),
    (["random_label_mnist", "--tasks", "0"], "must be an integer of at least 1, got '0'"),
    (["random_label_mnist", "--seeds", "0"], "must be an integer of at least 1, got '0'"),
    (["random_label_mnist", "--first-seed", "-1"], "must be an integer of at least 0, got '-1'"),
    (
        ["random_label_mnist", "--first-seed", str(2**64)],
        f"must be an integer from 0 to {2**64 - 1}, got '{2**64}'",
    ),
    (["random_label_mnist", "--first-seed", "9" * 5000], f"must be an integer from 0 to {2**64 - 1}, got '999"),
    (
        ["random_label_mnist", "--first-seed", str(2**64 - 1), "--seeds", "2"],
        f"the last seed is {2**64}, and the largest that torch accepts is {2**64 - 1}",
    ),
    (["random_label_mnist", "--seeds", str(10**12)], "must be an integer from 1 to 1000000"),
    (["random_label_mnist", "--tasks", str(2**63)], f"must be an integer from 1 to {2**63 - 1}"),
    (["random_label_mnist", "--grid", f"tasks=1,{2**63}"], f"must be an integer from 1 to {2**63 - 1}"),
    (["random_label_mnist", "--lr", "nan"], "must be a number above 0, got 'nan'"),
    (["random_label_mnist", "--lr", "inf"], "must be a number above 0, got 'inf'"),
    (["random_label_mnist", "--decay-rate", "1"], "must be a number from 0 up to, but not including, 1, got '1'"),
    (["random_label_mnist", "--checkpoint-every", "-1"], "must be a number of at least 0, got '-1'"),
    (["slowly_changing_regression", "--variant", "onebit"], "did you mean one_bit?"),
    (
        ["random_label_mnist", "--methods", "backprop", "--decay-rate", "0.9"],
        "--decay-rate: no effect on backprop",
    ),
    (
        ["random_label_mnist", "--methods", "backprop", "l2", "--grid", "noise=.1,.2"],
        "--noise: no effect on backprop and l2",
    ),
    (["random_label_mnist", "--grid", "lrr=.1"], "unknown setting 'lrr'; did you mean lr? Known: "),
    (["random_label_mnist", "--grid", "lr=.1,x"], "--grid lr: must be a number above 0, got 'x'"),
    (["random_label_mnist", "--grid", "lr"], "--grid takes NAME=VALUE,VALUE,..., got 'lr'"),
    (["random_label_mnist", "--grid", "lr="], "--grid takes NAME=VALUE,VALUE,..., got 'lr='"),
    (["random_label_mnist", "--grid", "lr=.1", "lr=.2"], "--grid: lr is given twice"),
    (["random_label_mnist", "--grid", "lr=.1,0.1"], "--grid lr: a value is given twice: .1,0.1"),
    (["random_label_mnist", "--grid", "lr=.1,.2", "--lr", ".3"], "--lr is given both by itself and in --grid"),
]


@pytest.mark.parametrize(("arguments", "message"), ERRORS, ids=[" ".join(arguments) for arguments, _ in ERRORS])
def test_errors_say_what_is_allowed(arguments, message, tmp_path: Path, capsys) -> None:
    try:
        status = main([*arguments, "--out", str(tmp_path)])
    except SystemExit as exit_:
        status = exit_.code
    printed = capsys.readouterr()
    assert status == 2
    assert message in printed.err
    assert printed.err.startswith("error: ")
    assert "Traceback" not in printed.err
    assert printed.out == ""
    assert not list(tmp_path.iterdir())


def test_help_lists_experiments_and_defaults(capsys) -> None:
    assert main(["--help"]) == 0
    overview = capsys.readouterr().out
    assert "random_label_mnist" in overview
    assert "speed" in overview
    assert main([]) == 2
    with pytest.raises(SystemExit) as exit_:
        main(["slowly_changing_regression", "--help"])
    assert exit_.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--steps INT number of examples, each seen once (default: 300000)" in text
    assert "for shrink_and_perturb; default: 0.001" in text
    assert "quick: about three minutes" in text
    assert "--size NAME quick published one_bit (default: quick)" in text
    assert "algorithm_1 ccbp snr swr upgd spectral parseval all (default: backprop continual_backprop)" in text
    with pytest.raises(SystemExit):
        main(["class_pairs", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "default for Fashion-MNIST: Debian's (default: none)" in text
