"""Every backend on this kernel, against ground truth; `make lab-test` boots others for it."""
