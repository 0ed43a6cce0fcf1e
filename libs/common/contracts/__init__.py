"""Every message that crosses a process. Imports pydantic and msgspec, nothing else of ours.

A command or query lives in the file of the service that handles it, an event in the file of the one
that announces it. Changes are additive: new fields have defaults, readers ignore unknown ones.
"""
