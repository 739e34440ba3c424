"""The studio: a local page to look inside runs, explain images, correct labels and start trainings.

Import `serve_studio` from `server`, `make_app` from `app`. Needs `pip install 'xaitune[studio]'`.
"""
