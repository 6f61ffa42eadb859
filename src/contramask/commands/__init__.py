"""Sub-commands of `contramask`: one module each, which adds itself to the command line."""
