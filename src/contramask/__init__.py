"""contramask: masked image modelling with contrastive learning, from a folder to a report."""

__version__ = "0.1.0"
