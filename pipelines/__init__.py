"""The Kedro project: wires the library's functions to files, parameters and the logbook."""
