"""A flow in a request: found (`locate`), loaded and committed (`unit_of_work`).

`app_state` is the state of an app, with the limit of expiry; `session_data` what the session
carries; `login` takes flows along, `lease` is that of `once=True`, `transaction` the caller's.
"""
