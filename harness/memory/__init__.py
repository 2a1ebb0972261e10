"""Peak memory of a step, and what it consists of: measured, or estimated on fake tensors."""

from attnbench.harness.memory.estimate import estimate
from attnbench.harness.memory.peak import CPU_METHOD, CUDA_METHOD, measure
from attnbench.harness.memory.tracker import PARTS, Allocation
from attnbench.harness.memory.usage import Usage

__all__ = ["CPU_METHOD", "CUDA_METHOD", "PARTS", "Allocation", "Usage", "estimate", "measure"]
