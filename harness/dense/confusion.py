"""mIoU by one exact confusion matrix: counts of pixels, summed over images and ranks, then divided once."""

import torch
from torch import Tensor, distributed

from attnbench.harness.dense.segmenter import IGNORE


class Confusion:
    """How many pixels of each class were called what.

    Args:
        num_classes: rows (truth) and columns (prediction).
    """

    def __init__(self, num_classes: int) -> None:
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def add(self, predicted: Tensor, labels: Tensor) -> None:
        """Count the pixels of an image; both (height, width), those labelled ``IGNORE`` left out.

        Raises:
            ValueError: shapes differ, or a class is out of range.
        """
        if predicted.shape != labels.shape:
            raise ValueError(f"prediction {tuple(predicted.shape)} and labels {tuple(labels.shape)} differ")
        known = labels != IGNORE
        n = len(self.counts)
        truth, said = labels[known].long().cpu(), predicted[known].long().cpu()
        if len(truth) and max(int(truth.max()), int(said.max())) >= n:
            raise ValueError(f"classes must be below {n}, got {max(int(truth.max()), int(said.max()))}")
        self.counts += (truth * n + said).bincount(minlength=n * n).view(n, n)

    def reduce(self) -> None:
        """Sum the counts of all ranks, where there are several."""
        if distributed.is_available() and distributed.is_initialized():
            device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
            counts = self.counts.to(device)
            distributed.all_reduce(counts)
            self.counts = counts.cpu()

    def iou(self) -> Tensor:
        """(num_classes,) float64: intersection over union; not a number for a class that occurs nowhere."""
        both = self.counts.diagonal().double()
        return both / (self.counts.sum(0) + self.counts.sum(1) - self.counts.diagonal()).double()

    def mean_iou(self, classes: tuple[int, ...] = ()) -> float:
        """Mean over the classes that occur, of all or of some, in percent."""
        iou = self.iou()[list(classes)] if classes else self.iou()
        return 100 * float(iou[~iou.isnan()].mean())

    def accuracy(self) -> float:
        """Share of pixels that are right, in percent."""
        return 100 * int(self.counts.diagonal().sum()) / max(1, int(self.counts.sum()))
