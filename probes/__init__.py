"""What is attached to the kernel, and how: the BPF C, the catalogue, the backends, BTF, the record layouts.

Nothing here knows about command lines, trace directories or servers.
"""
