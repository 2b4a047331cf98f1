"""The machine and its flows: no Flask, no I/O, and no clock but the one it is given."""
