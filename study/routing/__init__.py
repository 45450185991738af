"""What a router in front of many machines does to the prefix caches behind it, simulated."""
