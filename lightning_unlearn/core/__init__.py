"""What rooms above build on: seeds, files, the ledger, processes; nothing of models or data."""
