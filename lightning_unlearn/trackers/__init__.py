"""Show results to loggers, W&B above all."""
