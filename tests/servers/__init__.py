"""Tests of the reference servers and of the load generator, over real sockets."""
