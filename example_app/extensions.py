"""The extensions, created once and bound to an app in `create_app`."""

from __future__ import annotations

from flask_wtf import CSRFProtect

from flask_fsm import FlaskFSM

from . import machines

csrf = CSRFProtect()

# One extension, four machines. Each of these objects has `check`, `advance`, `progress`, ...
fsm = FlaskFSM(machines.checkout)
signup = fsm.add(machines.signup)
poc = fsm.add(machines.poc)
light = fsm.add(machines.light)
