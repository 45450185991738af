"""What Ray Serve costs in front of the doors, how it grows, and what a kill does to it.

`cluster` starts Ray with replicas of a scripted `engine`, `client` reports how each stream ended, and `costs` and
`chaos` make the tables.
"""
