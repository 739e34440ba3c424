"""The demo: generated ultrasonic scans with exact masks, and a run of every step on them.

Import `make_demo_data` from `scans`, `run_demo` from `run`.
"""
