"""Training loops run to the end, uninterrupted or resumed from saved states."""

import io

import torch


def through_a_file(state):
    """The state after saving and loading it like a checkpoint."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def rows_of(training):
    """All rows of a training loop that is run to the end."""
    rows = []
    while training.done < training.total:
        rows += training.advance()
    return rows


def rows_with_interruptions(make_training, interrupted=lambda done: True):
    """All rows if a new training loop takes over after each piece for which ``interrupted(done)`` is true."""
    training, rows = make_training(), []
    while training.done < training.total:
        rows += training.advance()
        if interrupted(training.done):
            saved = through_a_file(training.state_dict())
            torch.randn(17)  # the global generator must not matter
            training = make_training()
            training.load_state_dict(saved)
    return rows


def rows_resumed_after_every_piece(run):
    """All rows of a run that is saved after every piece and resumed from its checkpoint by a new training loop."""
    rows = []
    training = run.make_training()
    run.load(training)
    while training.done < training.total:
        rows += training.advance()
        run.save(training, seconds=0.0, wall_seconds=0.0)
        training = run.make_training()
        run.load(training)
    return rows
