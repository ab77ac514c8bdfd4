"""The embedded demo data set: scenes with boxes, polygons and label maps, written once."""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy import ndarray

from castling_det.datasets.scenes import CLASSES, Instance, Size, render_scene
from castling_det.errors import InputError
from castling_det.progress import tracked

SPLITS = ('train', 'val')
FORMAT_VERSION = 3


def write_shapes(
    root: str | Path,
    num_train: int = 1600,
    num_val: int = 200,
    size: Size = (64, 512),
    seed: int = 0,
    overwrite: bool = False,
) -> bool:
    """Write the demo data set, or keep the one that is there.

    The folder then holds ``shapes.json``, the parameters, and for each split, train and val,

    - ``images/{split}/000000.jpg`` and so on;
    - ``annotations/{split}.json``: COCO instances, with boxes, polygons and areas of the visible
      parts. Category ids are 1 to 6 in the order of ``CLASSES``;
    - ``labels/{split}/000000.png``: uint8 label maps in ADE20K's way, category ids and 0 for
      anything else. ``reduce_zero_label=True`` makes them 0 to 5 and ignores the ground; without
      it the class names are ``('ground', *CLASSES)``.

    Image ``i`` of a split depends on ``seed``, the split and ``i`` only, so that a larger data set
    begins with the smaller one. The folder appears complete or not at all.

    Args:
        root (str | Path): Target folder.
        num_train (int): Number of training images.
        num_val (int): Number of validation images.
        size (tuple[int, int]): Image height and width in pixels.
        seed (int): Seed of the whole data set.
        overwrite (bool): Write anew even if there is a data set, the same or another.

    Returns:
        bool: True if the data set was written, False if it was there and is kept.

    Raises:
        InputError: If ``root`` is a data set with other parameters and ``overwrite`` is False,
            or if it is anything else.
    """
    root = Path(root)
    num_images = dict(zip(SPLITS, (num_train, num_val), strict=True))
    parameters = dict(
        format_version=FORMAT_VERSION, num_images=num_images, size=list(size), seed=seed
    )
    if root.exists() and _is_kept(root, parameters, overwrite):
        return False

    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{root.name}-', dir=root.parent) as workshop:
        fresh = Path(workshop, 'fresh')
        for i, split in enumerate(SPLITS):
            rngs = (np.random.default_rng([seed, i, j]) for j in range(num_images[split]))
            scenes = (render_scene(rng, size) for rng in rngs)
            what = f'images of {split} drawn'
            _write_split(fresh, split, tracked(scenes, num_images[split], what))
        (fresh / 'shapes.json').write_text(json.dumps(parameters))
        if root.exists():
            os.rename(root, Path(workshop, 'replaced'))
        os.rename(fresh, root)
    return True


def count_instances(ann_file: str | Path) -> dict[str, int]:
    """Number of annotations of each class of a COCO file."""
    coco = json.loads(Path(ann_file).read_text())
    counts = Counter(ann['category_id'] for ann in coco['annotations'])
    return {category['name']: counts[category['id']] for category in coco['categories']}


def _is_kept(root: Path, parameters: dict, overwrite: bool) -> bool:
    """Whether the folder is the data set wanted; raise if it is not, and may not be replaced."""
    record = root / 'shapes.json'
    if not record.is_file():
        raise InputError(f'{root} exists and is not a shapes data set: choose another folder')
    if overwrite:
        return False
    found = json.loads(record.read_text())
    if found != parameters:
        raise InputError(
            f'{root} holds shapes with other parameters: choose another folder, or overwrite.\n'
            f'found  {found}\nwanted {parameters}'
        )
    return True


def _write_split(root: Path, split: str, scenes: Iterable[tuple[ndarray, list[Instance]]]) -> None:
    images_dir, labels_dir = root / 'images' / split, root / 'labels' / split
    ann_file = root / 'annotations' / f'{split}.json'
    for folder in (images_dir, labels_dir, ann_file.parent):
        folder.mkdir(parents=True, exist_ok=True)

    images, annotations = [], []
    for image_id, (image, instances) in enumerate(scenes):
        height, width = image.shape[:2]
        stem = f'{image_id:06d}'
        images.append(dict(id=image_id, file_name=f'{stem}.jpg', height=height, width=width))
        for instance in instances:
            ids = dict(id=len(annotations) + 1, image_id=image_id)
            annotations.append(ids | _annotation(instance))
        _write_picture(images_dir / f'{stem}.jpg', image)
        _write_picture(labels_dir / f'{stem}.png', _label_map(instances, (height, width)))

    categories = [dict(id=i, name=name) for i, name in enumerate(CLASSES, start=1)]
    coco = dict(images=images, annotations=annotations, categories=categories)
    ann_file.write_text(json.dumps(coco))


def _annotation(instance: Instance) -> dict:
    x, y, width, height = box = cv2.boundingRect(instance.mask.view(np.uint8))
    crop = instance.mask[y : y + height, x : x + width]
    return dict(
        category_id=instance.label + 1,
        bbox=list(box),
        area=int(crop.sum()),
        segmentation=[(polygon + (x, y)).round(1).ravel().tolist() for polygon in _trace(crop)],
        iscrowd=0,
    )


def _trace(mask: ndarray) -> list[ndarray]:
    """Outlines of the parts of a mask without holes, each (N, 2) in pixels.

    OpenCV's contours run through pixel centres, half a pixel inside of the border; enlarging the
    mask first makes that loss small.
    """
    zoom = 8
    large = cv2.resize(mask.view(np.uint8), None, fx=zoom, fy=zoom, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outlines = (cv2.approxPolyDP(contour, 0.6 * zoom, closed=True)[:, 0] for contour in contours)
    return [(outline + 0.5) / zoom for outline in outlines if len(outline) >= 3]


def _label_map(instances: list[Instance], size: Size) -> ndarray:
    labels = np.zeros(size, np.uint8)
    for instance in instances:
        labels[instance.mask] = instance.label + 1
    return labels


def _write_picture(path: Path, picture: ndarray) -> None:
    _, encoded = cv2.imencode(path.suffix, picture)
    path.write_bytes(encoded)
