"""What can be wrong with COCO annotations and their images, said in one sentence. Needs mmcv."""

import difflib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from mmengine.dataset import BaseDataset

from castling_det.datasets.image_files import check_images, first_five, missing_files
from castling_det.datasets.loading import LoadReadableImage
from castling_det.datasets.report import DatasetReport
from castling_det.errors import InputError


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < math.inf


def _is_box(value: object) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_finite, value))


# What a value may be, and the same in words.
ID = (lambda value: isinstance(value, int | float | str), 'a number or text')
TEXT = (lambda value: isinstance(value, str), 'text')
SIDE = (lambda value: _is_finite(value) and value > 0, 'a positive number')
BOX = (_is_box, 'four finite numbers, [x, y, width, height]')
AREA = (_is_finite, 'a finite number')
FLAG = (lambda value: isinstance(value, int | float), '0 or 1')
REQUIRED = {  # what mmdet's CocoDataset and pycocotools read
    'images': dict(id=ID, file_name=TEXT, width=SIDE, height=SIDE),
    'annotations': dict(id=ID, image_id=ID, category_id=ID, bbox=BOX, area=AREA, iscrowd=FLAG),
    'categories': dict(id=ID, name=TEXT),
}
REMEDIES = {  # for keys that exports often lack
    'area': 'write the width times the height of each `bbox` as its `area`',
    'iscrowd': 'write `"iscrowd": 0` into each annotation (1 is for a box around many objects)',
}
ALIKE = 0.8  # of names that differ by a slip of the hand: dogs, dog
EDGE = 1  # pixels over the edge that are no news: rounding, corners counted from 1
KEPT = 'CocoDataset keeps them whole, and Resize and crops of the pipeline clip them'
FATES = {
    'orphan': 'have an `image_id` that `images` lacks',
    'other class': 'are of categories that are not in metainfo.classes',
    'ignored': 'are marked `ignore`',
    'no area': 'have a width or height below a pixel, or an `area` of 0',
    'outside': 'lie outside of their image',
    'over the edge': 'reach over the edge of their image',
}


def check_coco(
    report: DatasetReport, dataset: BaseDataset, loading: LoadReadableImage, decode: bool
) -> None:
    """Check a COCO-format data set for what makes mmdet's CocoDataset fail, or fail silently.

    Args:
        report (DatasetReport): Is filled; its first key is where the config has the data set.
        dataset (BaseDataset): A ``CocoDataset``, not initialised; not to be used afterwards.
        loading (LoadReadableImage): How the pipeline loads images.
        decode (bool): Whether to decode every image, not a sample.

    Raises:
        InputError: If the file cannot be read, or an entry lacks a key.
    """
    key, classes = report.keys[0], dataset.metainfo['classes']
    if 'img' not in dataset.data_prefix:
        report.error(f"{key}.data_prefix has no img: write dict(img='folder/of/images/')")
        return
    ann_file, folder = Path(dataset.ann_file), Path(dataset.data_prefix['img'])
    content = _read(ann_file, report)
    names = [category['name'] for category in content['categories']]
    for error in (
        *_id_errors(content, report.use),
        *_class_errors(report, names, classes),
        *_count_boxes(report, content, dataset),
    ):
        report.error(f'{ann_file}: {error}')
    sizes = {image['file_name']: (image['width'], image['height']) for image in content['images']}
    missing = missing_files(folder, sizes)
    for name in missing:
        del sizes[name]
    if missing:
        report.error(
            f'{len(missing)} of {len(sizes) + len(missing)} images of {ann_file} are missing in '
            f'{folder} ({first_five(missing)}): {_where_missing_images_are(missing, folder, key)}'
        )
    check_images(report, folder, sizes, loading, decode)


def _read(ann_file: Path, report: DatasetReport) -> dict[str, list[dict]]:
    """Images, annotations and categories, each entry with the required keys."""
    key = report.keys[0]
    if not ann_file.is_file():
        raise InputError(
            f'annotation file {ann_file} does not exist: set {key}.ann_file and {key}.data_root'
        )
    remedy = f'write it again, or set {key}.ann_file to another file'
    try:
        content = json.loads(ann_file.read_bytes().decode())
    except ValueError as error:
        raise InputError(f'{ann_file} is not JSON in UTF-8 ({error}): {remedy}') from error
    if not isinstance(content, dict):
        raise InputError(f'{ann_file} holds a {type(content).__name__}, no COCO format: {remedy}')
    if report.use == 'prediction':
        content.setdefault('annotations', [])
    lacking = [part for part in REQUIRED if not isinstance(content.get(part), list)]
    if lacking:
        hint = report.without_annotations if lacking == ['annotations'] else ''
        raise InputError(
            f'{ann_file} lacks the list `{"`, `".join(lacking)}` of the COCO format: {remedy}{hint}'
        )
    for part, keys in REQUIRED.items():
        entries = content[part]
        for name, (is_right, words) in keys.items():
            if name == 'iscrowd' and report.use != 'metric':
                continue  # pycocotools counts on it in evaluation alone
            without = [n for n, e in enumerate(entries) if not (isinstance(e, dict) and name in e)]
            if without:
                raise InputError(
                    f'{ann_file}: {len(without)} of {len(entries)} entries of `{part}` lack '
                    f'`{name}` (positions {first_five(without)}): {REMEDIES.get(name, remedy)}'
                )
            wrong = [n for n, entry in enumerate(entries) if not is_right(entry[name])]
            if wrong:
                found = first_five(json.dumps(entries[n][name]) for n in wrong)
                raise InputError(
                    f'{ann_file}: `{name}` of {len(wrong)} of {len(entries)} entries of `{part}` '
                    f'is not {words} ({found} at the positions {first_five(wrong)}): write it so'
                )
    return content


def _id_errors(content: dict[str, list[dict]], use: str) -> Iterator[str]:
    """Ids that occur twice, and those with which pycocotools evaluates wrongly or not at all."""
    for part in REQUIRED:
        ids = [entry['id'] for entry in content[part]]
        twice = [number for number, count in Counter(ids).items() if count > 1]
        if twice:
            yield (
                f'{len(twice)} values of `id` in `{part}` occur more than once '
                f'({first_five(twice)}): number the entries anew'
            )
        if use != 'metric':
            continue
        if part == 'annotations':  # matched ones are kept in a table of floats, where 0 is none
            wrong = [n for n in ids if isinstance(n, str) or not 1e-300 < abs(n) < 1e300]
            if wrong:
                yield (
                    f'pycocotools cannot match {len(wrong)} annotations, whose `id` is 0, text or '
                    f'no finite number ({first_five(map(repr, wrong))}): number them from 1'
                )
        elif set(np.unique(ids).tolist()) != set(ids):  # sorted so, all as numbers or as texts
            kinds = Counter(map(type, ids))
            rarest_first = sorted(ids, key=lambda number: kinds[type(number)])
            yield (
                f'pycocotools cannot tell the values of `id` in `{part}` apart, as text and '
                f'numbers are mixed, or are too large for a float '
                f'({first_five(map(repr, rarest_first))}): number the entries from 1, and what '
                'refers to them too'
            )


def _class_errors(report: DatasetReport, names: list[str], classes: Sequence[str]) -> Iterator[str]:
    """CocoDataset's label is the rank of a category among those of the file that are classes."""
    found = [name for name in names if name in classes]
    absent = [name for name in classes if name not in names]
    unused = {name.strip().lower(): name for name in names if name not in classes}
    near = {}
    for name in absent:
        for match in difflib.get_close_matches(name.strip().lower(), unused, n=1, cutoff=ALIKE):
            near[name] = unused[match]
    listed = f'{report.keys[0]}.metainfo.classes'
    if near:
        pairs = ', '.join(f'{name!r}, but {other!r}' for name, other in near.items())
        yield f'`categories` has no {pairs}: write the same in {listed} as in the file'
    elif not found:
        yield (
            f'no class of the config is in `categories`, which has {names}, while '
            f'{listed} is {list(classes)}: set it to the names of the file'
        )
    elif len(found) > len(set(found)):
        twice = [name for name, count in Counter(found).items() if count > 1]
        yield f'`categories` has {first_five(map(repr, twice))} more than once: make it one'
    elif found != list(classes[: len(found)]):
        yield (
            f'labels would get wrong names, as CocoDataset numbers classes in the order of '
            f'`categories`, here {found}, while {listed} is {list(classes)}: '
            'set it to the names of the file in their order'
        )
    elif absent and report.use == 'train':
        report.warnings.append(f'`categories` lacks {absent} of {listed}')
    elif absent:
        yield (
            f'`categories` lacks {absent} of {listed}, which a detector may predict all the same: '
            'add them to the file, or take them out of the classes and of num_classes'
        )


def _count_boxes(
    report: DatasetReport, content: dict[str, list[dict]], dataset: BaseDataset
) -> Iterator[str]:
    """Fill the counts and warnings of ``report``; yield what is wrong with the numbers."""
    images, annotations, categories = (content[part] for part in REQUIRED)
    names = {category['id']: category['name'] for category in categories}
    classes = dataset.metainfo['classes']
    report.boxes.update({name: 0 for name in classes if name in names.values()})
    sizes = {image['id']: (image['width'], image['height']) for image in images}
    fates: dict[str, list] = defaultdict(list)
    for annotation in annotations:
        fate = _fate(annotation, names, sizes, classes)
        fates[fate].append(annotation)
        if fate not in ('orphan', 'unknown', 'other class'):
            report.boxes[names[annotation['category_id']]] += 1
    with_boxes = {box['image_id'] for fate in ('whole', 'over the edge') for box in fates[fate]}
    report.images, report.crowd = len(images), len(fates['crowd'])
    report.empty_images = len(images) - len(with_boxes)
    in_metric = ', but a CocoMetric with an `ann_file` reads them there'
    dropped = f'CocoDataset drops them{in_metric if report.use == "metric" else ""}'
    for fate, words in FATES.items():
        if fates[fate]:
            ids = first_five(annotation['id'] for annotation in fates[fate])
            end = KEPT if fate == 'over the edge' else dropped
            report.warnings.append(f'{len(fates[fate])} boxes {words} (id {ids}): {end}')
    kept = [box for fate in ('whole', 'over the edge', 'crowd') for box in fates[fate]]
    without = [box['id'] for box in kept if report.masks and not box.get('segmentation')]
    if without:
        yield (
            f'{len(without)} of {len(kept)} boxes have no `segmentation` (id '
            f'{first_five(without)}), which with_mask=True in {report.keys[0]}.pipeline reads: add '
            'their polygons, or take these annotations out'
        )
    if fates['unknown']:
        unknown = {annotation['category_id'] for annotation in fates['unknown']}
        yield (
            f'{len(fates["unknown"])} annotations have a `category_id` that `categories` lacks '
            f'({first_five(sorted(unknown, key=str))}): add the categories or correct the ids'
        )
    used = _filtered(report, content, dataset)
    if report.boxes and report.use != 'prediction' and not used & with_boxes:
        yield (
            f'no image with a box is left to learn or evaluate, of {len(images)} images and '
            f'{report.boxes.total()} boxes, {report.crowd} of them crowd regions: '
            f'{"; ".join(report.warnings) or "add objects"}{report.without_annotations}'
        )


def _filtered(report: DatasetReport, content: dict[str, list[dict]], dataset: BaseDataset) -> set:
    """Ids of the images that the data set's own filter leaves."""
    images, annotations, categories = (content[part] for part in REQUIRED)
    dataset.cat_ids = [c['id'] for c in categories if c['name'] in dataset.metainfo['classes']]
    dataset.cat_img_map = defaultdict(list)
    for annotation in annotations:
        dataset.cat_img_map[annotation['category_id']].append(annotation['image_id'])
    dataset.data_list = [image | dict(img_id=image['id']) for image in images]
    used = {info['img_id'] for info in dataset.filter_data()}
    report.used = len(used)
    min_size = (dataset.filter_cfg or {}).get('min_size', 0)
    small = [
        image['file_name']
        for image in images
        if image['id'] not in used and min(image['width'], image['height']) < min_size
    ]
    if small:
        report.warnings.append(
            f'{len(small)} of {len(images)} images are not used, since a side is below '
            f'{report.keys[0]}.filter_cfg.min_size={min_size} px ({first_five(small)}): set it to '
            '0, or to what fits them, to train on them'
        )
    return used


def _fate(annotation: dict, names: dict, sizes: dict, classes: Sequence[str]) -> str:
    """What becomes of a box in mmdet's ``CocoDataset.parse_data_info``."""
    name, size = names.get(annotation['category_id']), sizes.get(annotation['image_id'])
    if size is None:
        return 'orphan'
    if name is None:
        return 'unknown'
    if name not in classes:
        return 'other class'
    x, y, width, height = annotation['bbox']
    right, bottom = x + width, y + height
    if annotation.get('ignore'):
        return 'ignored'
    if min(width, height) < 1 or annotation['area'] <= 0:
        return 'no area'
    if x >= size[0] or y >= size[1] or right <= 0 or bottom <= 0:
        return 'outside'
    if annotation.get('iscrowd'):
        return 'crowd'
    if min(x, y) < -EDGE or right > size[0] + EDGE or bottom > size[1] + EDGE:
        return 'over the edge'
    return 'whole'


def _where_missing_images_are(missing: list[str], folder: Path, key: str) -> str:
    slashed = [name.replace('\\', '/') for name in missing]
    for names in (slashed, [name.rpartition('/')[2] for name in slashed]):
        if names != missing and not missing_files(folder, names):
            return f'they are there as {names[0]} and so on: write `file_name` so'
    backslashes = ', with `/` for the backslashes in `file_name`' if slashed != missing else ''
    return f'copy them there, or set {key}.data_prefix.img to the folder that has them{backslashes}'
