"""What a user can set: names to choose from, rules, fields with their help, xaitune.toml.

Import the configurations from `settings` and `explain_settings`, parsers from `parse`, the file from `toml`. A new option is
one field in `settings`; `fields` defines what such a field records.
"""
