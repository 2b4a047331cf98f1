"""Reports on the runs of a machine, for operators: counts, tables and charts."""
