"""NCCL: what its tuner chooses (`tuner`), its kernels as schedules (`kernels`, `nvls`), and a check of the choice."""
