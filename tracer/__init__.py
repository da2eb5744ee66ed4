"""The tool: command line, tracing sessions, targets, the ring-buffer reader, the trace directory, the lab.

Uses ``probes`` and ``servers``; imports ``analysis`` only inside the verbs that need it.
"""
