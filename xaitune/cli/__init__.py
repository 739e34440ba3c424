"""The command line: thin commands over the public functions, with options made from the configurations' fields.

`app` holds the entry point, `options` what all commands share, `console` the screen; the other modules are the commands.
"""
