"""Compares the doors on real servers: the same experiments on each, one table and one page of pictures.

    make compare
    python -m study.compare --quick

`servers.py` starts them, `experiments.py` measures them through `client.py`, `findings.py` puts the results
into words, `report.py` and `pictures.py` show them. Every figure shown was measured in the same run.
"""
