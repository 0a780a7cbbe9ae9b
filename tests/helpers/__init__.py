"""Toy projects, servers and harness tables that tests share."""
