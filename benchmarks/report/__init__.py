"""``python -m benchmarks report``: all finished runs as one page, ``RESULTS.md``, with pictures and published values.

command             the command line; writes the page and its pictures
run_finder          finds the runs in the folder of results
problems            groups runs by problem, and similar problems into families
rerun_commands      the commands that reproduce runs
result_tables       the tables of results
family_picture      the picture of a family
provenance          command, commit, seeds, hardware and time of each row
overview            the table of all experiments, and what is missing
earlier_page        what an existing page says about experiments that have no runs here
page, markdown      the page
"""

from __future__ import annotations

HELP = "write RESULTS.md: all finished runs and the published values"
