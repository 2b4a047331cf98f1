"""What an operator is shown of the runs of a machine: counts, tables and charts."""
