"""Sub-commands of `contramask`, one file each: `add(commands)` registers it."""
