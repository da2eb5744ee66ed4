"""What is attached to the kernel, and how: BPF C, catalogue, backends, BTF, record layouts.

Nothing here knows about command lines, trace directories or servers.
"""
