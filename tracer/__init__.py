"""The tool: command line, sessions, targets, ring-buffer reader, trace directory, lab.

Uses ``probes`` and ``servers``; imports ``analysis`` only inside the verbs that need it.
"""
