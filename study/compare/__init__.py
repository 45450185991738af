"""Compares the doors on real servers: the same experiments on each, one table and one page of pictures.

    make compare
    python -m study.compare --quick

`servers.py` starts the applications of `apps.py`, `experiments.py` measures them through `study.common.client`,
`results.py` has the figures, `findings.py` puts them into words, `report.py` and `pictures.py` show them. Every figure
shown was measured in the same run.
"""
