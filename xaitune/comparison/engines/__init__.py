"""The engines that run a sweep's trainings: worker processes on this machine (`local`) or on a Ray cluster (`ray`).

Both pass `task.Task` to `worker.do_task` and report its steps and its end.
"""
