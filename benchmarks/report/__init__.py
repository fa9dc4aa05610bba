"""``python -m benchmarks report``: all finished runs as one page, ``RESULTS.md``, with pictures and published values.

command             the command line; writes the page and its pictures
run_finder          finds the runs in the folder of results
record_archive      the records of a page, kept beside it
problems            groups runs by problem, and similar problems into families
rerun_commands      the commands that reproduce runs
result_tables       the tables of results
family_picture      the picture of a family
provenance          command, commit, seeds, hardware and time of each row
section_summary     what the table at the top and the list of missing runs say of an experiment, as data
overview            the table at the top of the page
missing_runs        what was run, and what is missing
paired_tests        paired t-tests over seeds, with Holm's correction
paired_differences  the differences between methods in a section
further_methods     methods added to a problem whose other rows are only on the existing page
earlier_page        what an existing page says about experiments that have no runs here
page, markdown      the page
"""

from __future__ import annotations

HELP = "write RESULTS.md: all finished runs and the published values"
