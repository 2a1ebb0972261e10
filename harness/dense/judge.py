"""AP of boxes and masks as COCO counts it, by faster-coco-eval where it is installed, or pycocotools.

Results go back to the image's own size here: boxes by the two sides' factors, masks pasted into the image
and cut at one half.
"""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.models.detection.transform import resize_boxes

from attnbench.harness.dense.coding import encode, library
from attnbench.harness.dense.samples import Objects

Size = tuple[int, int]
NAMES = ("ap", "ap50", "ap75", "ap_s", "ap_m", "ap_l")
"""What :meth:`Judge.score` gives, in percent: at IoU .5 to .95, .5, .75; of small, medium, large objects."""


class Judge:
    """Collects truth and results of a test split's images.

    Args:
        categories: the data set's own numbers of the classes, in our order.
        first_label: number that the detector gives the first class.
        package: ``faster_coco_eval`` or ``pycocotools``; by default the first installed.
    """

    def __init__(self, categories: Sequence[int], first_label: int, package: str = "") -> None:
        self.categories, self.first_label = list(categories), first_label
        self.package = package or library()
        self.seen: dict[int, tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]] = {}

    def add(self, image_id: int, size: Size, truth: Objects, found: dict[str, Tensor], at: Size) -> None:
        """One image: its size, its objects, and what was found on the input of size ``at``."""
        image = {"id": image_id, "height": size[0], "width": size[1]}
        self.seen[image_id] = (image, self._truth(image_id, truth), self._results(image_id, size, found, at))

    def gather(self) -> None:
        """Bring the images of all ranks together; one that several had counts once."""
        if distributed.is_available() and distributed.is_initialized():
            parts: list[Any] = [None] * distributed.get_world_size()
            distributed.all_gather_object(parts, self.seen)
            self.seen = {key: value for part in parts for key, value in part.items()}

    def score(self, kind: str = "bbox", context: Sequence[int] = ()) -> dict[str, float]:
        """AP by name (:data:`NAMES`), in percent; not a number where no object is of that size.

        Args:
            kind: ``bbox`` or ``segm``.
            context: classes whose mean AP is given too, as ``ap_context``.
        """
        order = sorted(self.seen)
        truth = [
            {"id": number, **one}
            for number, one in enumerate((t for key in order for t in self.seen[key][1]), start=1)
        ]
        found = [one for key in order for one in self.seen[key][2]]
        if not found:
            return self._nothing(context)
        coco = {
            "info": {},
            "images": [self.seen[key][0] for key in order],
            "annotations": truth,
            "categories": [{"id": number, "name": str(number)} for number in self.categories],
        }
        with contextlib.redirect_stdout(io.StringIO()):
            stats, by_class = _stats(self.package, coco, found, kind)
        scores = {
            name: 100 * float(value) if value >= 0 else float("nan")
            for name, value in zip(NAMES, stats[:6], strict=True)
        }
        if context:
            known = [by_class[self.categories[place]] for place in context]
            known = [value for value in known if value >= 0]
            scores["ap_context"] = 100 * sum(known) / len(known) if known else float("nan")
        return scores

    def _nothing(self, context: Sequence[int]) -> dict[str, float]:
        """AP where nothing was found: zero, but not a number where there was nothing to find."""
        areas = [t["area"] for part in self.seen.values() for t in part[1] if not t["iscrowd"]]
        among = [areas] * 3 + [
            [a for a in areas if low <= a <= high]
            for low, high in ((0, 32**2), (32**2, 96**2), (96**2, 1e10))
        ]
        scores = {name: 0.0 if some else float("nan") for name, some in zip(NAMES, among, strict=True)}
        if context:
            wanted = {self.categories[place] for place in context}
            some = any(t["category_id"] in wanted for part in self.seen.values() for t in part[1])
            scores["ap_context"] = 0.0 if some else float("nan")
        return scores

    def _truth(self, image_id: int, truth: Objects) -> list[dict[str, Any]]:
        corners = truth.boxes.tolist()
        return [
            {
                "image_id": image_id,
                "category_id": self.categories[int(truth.classes[place])],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": float(truth.areas[place]),
                "iscrowd": int(truth.crowd[place]),
                "segmentation": encode(truth.masks[place]),
            }
            for place, (x1, y1, x2, y2) in enumerate(corners)
        ]

    def _results(self, image_id: int, size: Size, found: dict[str, Tensor], at: Size) -> list[dict[str, Any]]:
        boxes = resize_boxes(found["boxes"].cpu().float(), list(at), list(size))
        masks: list[Any] = [None] * len(boxes)
        if "masks" in found:
            pasted = paste_masks_in_image(found["masks"].cpu().float(), boxes, size)
            masks = [encode(mask) for mask in (pasted[:, 0] >= 0.5).numpy()]
        rows = zip(boxes.tolist(), found["scores"].tolist(), found["labels"].tolist(), masks, strict=True)
        return [
            {
                "image_id": image_id,
                "category_id": self.categories[label - self.first_label],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
                **({} if mask is None else {"segmentation": mask}),
            }
            for (x1, y1, x2, y2), score, label, mask in rows
        ]


def _stats(
    package: str, truth: dict[str, Any], found: list[dict[str, Any]], kind: str
) -> tuple[Any, dict[int, float]]:
    """The twelve numbers that COCO prints, and AP by category; -1 where no object is."""
    if package == "faster_coco_eval":
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as COCOeval
    else:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    right = COCO()
    right.dataset = truth
    right.createIndex()
    # loadRes adds areas and numbers to what it is given, and takes whatever has a box for a box
    results = [
        {key: value for key, value in one.items() if kind == "segm" or key != "segmentation"} for one in found
    ]
    if kind == "segm":
        results = [{key: value for key, value in one.items() if key != "bbox"} for one in results]
    judge = COCOeval(right, right.loadRes(results), kind)
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    # thresholds × recalls × categories × areas (all first) × most detections (the largest last)
    precision = judge.eval["precision"][:, :, :, 0, -1]
    by_class = {
        int(number): float(of_class[of_class > -1].mean()) if (of_class > -1).any() else -1.0
        for place, number in enumerate(judge.params.catIds)
        for of_class in [precision[:, :, place]]
    }
    return judge.stats, by_class


def on_cpu(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Results off the device."""
    return {name: value.detach().to(torch.device("cpu")) for name, value in found.items()}
