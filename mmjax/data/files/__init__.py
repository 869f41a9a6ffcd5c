"""Sources that read a user's own files: one module for each format, all on the base class of `base.py`.

Read in this order: base (what a record is), paths (patterns), columns (which column holds what), table, then a format.
"""
