"""Ground truth: real programs traced by the running kernel, compared with what they really did."""
