"""Tests of `tracer`."""
