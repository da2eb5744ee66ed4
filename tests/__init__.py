"""Tests: unit tests anywhere, live tests where BPF is allowed."""
