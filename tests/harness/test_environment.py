"""What a record says of the process it was made in."""

import torch

from attnbench.harness import environment


def test_environment_says_what_matters() -> None:
    facts = environment.describe(torch.device("cpu")) | environment.state()
    assert facts["libraries"]["torch"] == torch.__version__.partition("+")[0]
    assert {"threads", "tf32_matmul", "tf32_cudnn", "deterministic", "allocator", "device_name"} <= set(facts)
    assert {"affinity", "cudnn_benchmark", "float32_matmul_precision", "clocks", "driver"} <= set(facts)
