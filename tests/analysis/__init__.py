"""Tests of analysis, on traces with known phases and on real ones."""
