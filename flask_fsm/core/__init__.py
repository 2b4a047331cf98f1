"""Machines and their flows, without Flask, I/O or a clock of their own.

`machine` and `state` define a graph; `flow` decides a transition, with the rules of an edge run by
`evaluation`; `path` knows which pages are open (back policy, edits), `history` what happened;
`snapshot` is a flow as data, `codec` its text.
"""
