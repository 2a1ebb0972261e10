"""What the server of :mod:`attnbench.harness.workers.isolation` imports, once for all its processes.

Only imports: nothing may start a thread or touch a device here. Besides the harness itself these are modules
that torch and scikit-learn import at the first use of what cells use.
"""

import sklearn.datasets
import torch.profiler
import torch.utils.flop_counter

from attnbench.harness.run import runner

__all__ = ["runner", "sklearn", "torch"]
