"""Tests of the kernel side: BTF, headers, the compiler, the programs."""
