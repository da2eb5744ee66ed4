"""The article's claims, put to the test: what each needs to be run, and how its traces are judged.

Nothing is run here: a claim names its experiments as plain data, and judges the traces of them.
"""
