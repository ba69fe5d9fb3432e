"""One collective by itself, measured as nccl-tests does: alone, in groups, or with unequal messages."""
