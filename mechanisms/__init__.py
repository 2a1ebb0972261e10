"""One file per attention mechanism. Adding a file adds a mechanism; nothing else is edited.

Files that begin with an underscore are helpers shared by several mechanisms.
"""
