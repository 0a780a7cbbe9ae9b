"""Datamodules for published data sets, files and arrays."""
