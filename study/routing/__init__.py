"""Simulates routers in front of many replicas, to see how often they hit the replicas' prefix caches."""
