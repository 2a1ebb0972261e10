"""Randomness as a function of where in a run it is used, so that no generator's state need be kept.

What is drawn for a sample depends on (seed, epoch, index, repeat), what is drawn for a step on (seed, update,
part): on nothing that was drawn before. So any number of loader workers gives the same images, and a run that
begins in the middle draws what it would have drawn.
"""

import hashlib
import random

import numpy as np
import torch


def seed_of(*place: int | str) -> int:
    """A seed of 63 bits for a place in a run, e.g. ``seed_of(seed, "sample", epoch, index, repeat)``."""
    text = "/".join(map(str, place)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 1


def seed_sample(*place: int | str) -> None:
    """Seed Python's, numpy's and torch's CPU generator: what transforms of images draw from."""
    seed = seed_of(*place)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # timm draws from numpy's global generator
    torch.default_generator.manual_seed(seed)


def seed_step(*place: int | str) -> None:
    """Seed the same and those of all CUDA devices: what Mixup, drop path and dropout draw from."""
    seed = seed_of(*place)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def generator_of(*place: int | str) -> torch.Generator:
    """A generator of its own for a place in a run."""
    return torch.Generator().manual_seed(seed_of(*place))
