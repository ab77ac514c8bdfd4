"""What a model sees in one image: numbers, data for json, and a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from numpy import ndarray

from castling_det.inference.run_onnx import Detections, box_records, class_records, label_records


@dataclass(frozen=True, eq=False)
class Result:
    """What a detector, segmentor or classifier sees in one image.

    Attributes:
        image (ndarray): ``(H, W, 3)``, uint8, RGB, turned as its EXIF data say.
        path (Path, optional): Of the image or video, below the folder that was given; None where
            pixels were given.
        frame (int, optional): Place in the video, from 0.
        classes (tuple[str, ...]): Names of all classes, in the order of the labels.
        palette (list[tuple]): A colour (R, G, B) for each of them.
        boxes (ndarray, optional): Of a detector, ``(n, 4)``, float32, x1, y1, x2, y2 in pixels of
            ``image``, the best first.
        scores (ndarray, optional): Of the boxes, or of a classifier's five best classes, the best
            first, ``(n,)``, float32, from 0 to 1.
        labels (ndarray, optional): Of the same, ``(n,)``, int64, places in ``classes``.
        masks (ndarray, optional): Of the boxes of a model that has them, ``(n, H, W)``, bool.
        best_score (float, optional): Of all boxes, also of those under the threshold; None where
            there is none.
        label_map (ndarray, optional): Of a segmentor, ``(H, W)``, int64, places in ``classes``.
        probabilities (ndarray, optional): Of a classifier, ``(classes,)``, float32.
    """

    image: ndarray
    path: Path | None
    frame: int | None
    classes: Sequence[str]
    palette: Sequence[tuple[int, int, int]]
    boxes: ndarray | None = None
    scores: ndarray | None = None
    labels: ndarray | None = None
    masks: ndarray | None = None
    best_score: float | None = None
    label_map: ndarray | None = None
    probabilities: ndarray | None = None

    @property
    def names(self) -> list[str]:
        """Of ``labels``; none of a segmentor."""
        return [] if self.labels is None else [self.classes[label] for label in self.labels]

    def to_dict(self) -> dict[str, Any]:
        """What json can hold of it.

        Returns:
            dict: ``file``, the path (where there is one), ``frame`` (of a video) and
            ``predictions``, a list: of a detector a dict a box, ``bbox_xyxy`` in pixels, ``score``
            and ``label``, the name of the class; of a classifier ``score`` and ``label`` of the
            five best classes; of a segmentor ``label`` and ``share`` of the pixels of those that
            there are, the largest first.
        """
        place = {} if self.path is None else dict(file=self.path.as_posix())
        if self.frame is not None:
            place['frame'] = self.frame
        if self.label_map is not None:
            records = label_records(self.label_map, self.classes)
        elif self.probabilities is not None:
            records = class_records(self.probabilities, self.classes)
        else:
            found = Detections(self.boxes, self.scores, self.labels)
            records = box_records(found, self.classes)
        return dict(place, predictions=records)

    def draw(self) -> ndarray:
        """The image with what was found on it. Needs mmdet, or the library of the model's task.

        Returns:
            ndarray: ``(h, w, 3)``, uint8, RGB; as large as the image or, of a small one, larger by
            a whole number; a label map has a legend to the right.
        """
        from castling_det.visualization.drawing import draw, visualizer_for  # brings mmdet

        sample = self._sample()
        meta = dict(classes=self.classes, palette=self.palette)
        return draw(visualizer_for(sample, meta), self.image, sample)

    def save(self, path: str | Path) -> None:
        """Write :meth:`draw` as a picture in the format of the suffix, whole or not at all.

        Raises:
            InputError: For a suffix that is none of a picture.
        """
        from castling_det.visualization.drawing import write_picture

        write_picture(Path(path), self.draw())

    def _sample(self) -> BaseDataElement:
        """What the visualizers of the OpenMMLab libraries draw."""
        if self.label_map is not None:
            from mmseg.structures import SegDataSample

            labels = torch.from_numpy(self.label_map)
            return SegDataSample(pred_sem_seg=PixelData(data=labels[None]))
        if self.probabilities is not None:
            from mmpretrain.structures import DataSample

            return DataSample(pred_score=torch.from_numpy(self.probabilities))
        from mmdet.structures import DetDataSample

        found = InstanceData(
            bboxes=torch.from_numpy(self.boxes),
            scores=torch.from_numpy(self.scores),
            labels=torch.from_numpy(self.labels),
        )
        if self.masks is not None:
            found.masks = torch.from_numpy(self.masks)
        return DetDataSample(pred_instances=found)
