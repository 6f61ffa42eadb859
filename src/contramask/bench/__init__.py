"""`contramask bench`: our training step and the peers', timed in turns on the same machine."""
