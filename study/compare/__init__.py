"""Side by side: the doors on real servers, the same experiments on each, one table and one page of pictures.

    make compare
    python -m study.compare --quick

`servers.py` starts them, `experiments.py` measures them through `client.py`, `findings.py` says in words what came
out, `report.py` and `pictures.py` show it. Nothing here is a figure that was not measured in the run that shows it.
"""
