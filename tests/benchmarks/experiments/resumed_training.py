"""A training to its end, and the same with new jobs that go on from saved states."""

import io

import torch


def rows_of(training):
    rows = []
    while training.done < training.total:
        rows += training.advance()
    return rows


def rows_with_interruptions(make_job, when):
    """At each number of done pieces in ``when`` a new training takes over, from what a checkpoint file would hold."""
    training, rows = make_job(), []
    while training.done < training.total:
        rows += training.advance()
        if training.done in when:
            file = io.BytesIO()
            torch.save(training.state_dict(), file)
            file.seek(0)
            torch.randn(17)  # whatever else happens to torch's own random numbers
            training = make_job()
            training.load_state_dict(torch.load(file, weights_only=True))
    return rows
