"""Machines and their flows, without Flask, I/O or a clock of their own."""
