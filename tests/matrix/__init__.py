"""Every backend on this kernel, against ground truth; `make lab` boots others for it."""
