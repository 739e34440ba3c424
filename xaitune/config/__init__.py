"""What a user can set: names to choose from, rules, fields with their help, xaitune.toml.

Import the configurations from `schema` and `explaining`, parsers from `parse`, the file from `toml`. A new option is one
field in `schema`; what is read from it stands in `fields`.
"""
