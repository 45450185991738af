"""What Ray Serve costs in front of the doors, how it grows, and what a kill does to it."""
