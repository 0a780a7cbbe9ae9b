"""What the other rooms build on: seeds, files, the ledger, processes, private names of libraries."""
