"""Simulates routers in front of many replicas, to see how often they hit the replicas' prefix caches.

    python -m study.routing

`load` makes the requests, `routers` choose a replica for each, and `replicas` take their time over it.
"""
