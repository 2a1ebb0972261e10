"""Sparse retrieval: 4 questions in a picture of 8 × 8 cells, most of it empty."""

from attnbench.datasets import register_dataset
from attnbench.harness.data._retrieval import Retrieval


@register_dataset(
    "retrieval_sparse",
    title="Retrieval, sparse",
    task="probe",
    num_classes=8,
    channels=3,
    sizes="8 × 8 cells of 4 × 4 pixels; any other",
    splits=("train", "validation", "test"),
    licence="generated: none",
    source="attnbench; after MQAR (arXiv:2312.04927)",
    obtained="generated from a seed",
    layouts=("probe",),
)
class SparseRetrieval(Retrieval):
    """One cell of 16 holds what is asked for, as many ask: 4 and 4 of 64."""

    question = "find the cell with your glyph, anywhere, and say its colour; 4 cells ask, the rest is empty"
    share = 1 / 16
    steps, batch_size = 400, 32
