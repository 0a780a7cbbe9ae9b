"""Show results to loggers, W&B above all: importing this room is what lets loggers show more than scores."""

from lightning_unlearn.trackers import live

__all__ = ["live"]
