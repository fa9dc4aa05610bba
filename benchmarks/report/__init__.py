"""``python -m benchmarks report``: all finished runs as one page, ``RESULTS.md``, with pictures, beside the published
figures.

    reading     the runs below the folder of results, and what cannot be shown of it
    problems    runs of one problem together; problems that differ in one choice alone as a family
    rerun       the command that makes a line's runs again
    rows        the tables' cells
    multiples   the picture of a family
    overview    what there is, and what is missing
    page        all of it in Markdown
"""

from __future__ import annotations

HELP = "write RESULTS.md: all finished runs beside the published figures"
