"""Trials: small programs that do one thing to the kernel, many times over, to be traced by claims.

Each says ``ready`` on stdout, begins when it reads a line, and prints what it saw as JSON.
"""
