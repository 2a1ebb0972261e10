"""Dense retrieval: 14 questions in a picture of 8 × 8 cells; each must find its own partner."""

from attnbench.datasets import register_dataset
from attnbench.harness.data._retrieval import Retrieval


@register_dataset(
    "retrieval_dense",
    title="Retrieval, dense",
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
class DenseRetrieval(Retrieval):
    """Two ninths of the cells hold what is asked for, as many ask: 14 and 14 of 64."""

    question = "find the cell with your glyph, anywhere, and say its colour; 14 of 64 cells ask at once"
    share = 2 / 9
    steps, batch_size = 300, 32
