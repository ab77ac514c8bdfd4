"""What can be wrong with COCO annotations and their images, each said in one sentence."""

import json
import math
from codecs import BOM_UTF8
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from castling_det.datasets.image_files import decoding_errors, first_five, missing_files
from castling_det.datasets.report import DatasetReport
from castling_det.errors import InputError

REQUIRED = {  # what mmdet's CocoDataset and pycocotools read
    'images': ('id', 'file_name', 'width', 'height'),
    'annotations': ('id', 'image_id', 'category_id', 'bbox', 'area'),
    'categories': ('id', 'name'),
}
NUMBER = int | float
KINDS = {  # what each key of an entry may hold; sizes and boxes have checks of their own
    'id': (NUMBER | str, 'a number or text'),
    'image_id': (NUMBER | str, 'a number or text'),
    'category_id': (NUMBER | str, 'a number or text'),
    'file_name': (str, 'text'),
    'name': (str, 'text'),
    'iscrowd': (NUMBER, '0 or 1'),
}
EDGE = 1  # pixels over the edge that are no news: rounding, corners counted from 1
KEPT = 'CocoDataset keeps them whole, and Resize and crops of the pipeline clip them'
FATES = {
    'orphan': 'have an `image_id` that `images` lacks',
    'other class': 'are of categories that are not in metainfo.classes',
    'ignored': 'are marked `ignore`',
    'negative': 'have a negative width or height',
    'no area': 'have no area (a width, height or `area` of 0)',
    'thin': 'are less than a pixel wide or high',
    'outside': 'lie outside of their image',
    'over the edge': 'reach over the edge of their image',
}


def check_coco(
    ann_file: str | Path,
    image_folder: str | Path,
    classes: Sequence[str],
    key: str = 'dataset',
    test_mode: bool = False,
    decode: bool = False,
    color_type: str = 'color',
) -> DatasetReport:
    """Check a COCO-format data set for what makes mmdet's CocoDataset fail, or fail silently.

    Fast enough to precede every training: one reading of the annotations and one listing of each
    image folder.

    Args:
        ann_file (str | Path): Annotation file.
        image_folder (str | Path): Folder that ``file_name`` is relative to.
        classes (Sequence[str]): The config's classes, in its order.
        key (str): Where the config has the data set; errors name keys below it.
        test_mode (bool): Whether it is evaluated on. Defaults to False.
        decode (bool): Whether to decode every image too, and compare its size. Defaults to False.
        color_type (str): How the pipeline loads images, see ``LoadReadableImage``.
    """
    report = DatasetReport(str(ann_file), [key])
    try:
        images, annotations, categories = _read(Path(ann_file), key, test_mode)
    except InputError as error:
        report.errors.append(error)
        return report
    report.images = len(images)
    errors = [
        *_duplicates('images', images),
        *_duplicates('annotations', annotations),
        *_duplicates('categories', categories),
        *_class_errors(categories, classes, key),
        *_count_boxes(report, images, annotations, categories, classes, test_mode),
    ]
    report.errors += [InputError(f'{ann_file}: {error}') for error in errors]
    if not report.errors and report.images == report.empty_images:
        report.errors.append(InputError(f'{ann_file}: {_why_nothing_is_left(report)}'))
    absent = set(classes) - {category['name'] for category in categories}
    if 0 < len(absent) < len(classes):
        report.warnings.append(f'`categories` lacks {sorted(absent)} of {key}.metainfo.classes')

    sizes = {image['file_name']: (image['width'], image['height']) for image in images}
    missing = missing_files(Path(image_folder), sizes)
    if missing:
        report.errors.append(
            InputError(
                f'{len(missing)} of {len(sizes)} images of {ann_file} are missing in '
                f'{image_folder} ({first_five(missing)}): copy them there, or set '
                f'{key}.data_prefix.img to the folder that has them'
            )
        )
    if decode:
        for name in missing:
            del sizes[name]
        report.errors += decoding_errors(Path(image_folder), sizes, color_type)
    return report


def _read(ann_file: Path, key: str, test_mode: bool) -> tuple[list[dict], list[dict], list[dict]]:
    """Images, annotations and categories, each entry with the required keys."""
    if not ann_file.is_file():
        raise InputError(
            f'annotation file {ann_file} does not exist: set {key}.ann_file and {key}.data_root'
        )
    content = ann_file.read_bytes()
    remedy = f'write it again, or set {key}.ann_file to another file'
    if not content.strip():
        raise InputError(f'annotation file {ann_file} is empty ({len(content)} bytes): {remedy}')
    if content.startswith(BOM_UTF8):
        raise InputError(
            f'{ann_file} begins with a byte order mark, at which pycocotools stops: save it as '
            f'UTF-8 without one, or set {key}.ann_file to another file'
        )
    try:
        content = json.loads(content.decode())
    except ValueError as error:
        raise InputError(f'{ann_file} is not JSON ({error}): {remedy}') from error
    if not isinstance(content, dict):
        raise InputError(f'{ann_file} holds a {type(content).__name__}, no COCO format: {remedy}')
    lacking = [part for part in REQUIRED if not isinstance(content.get(part), list)]
    if lacking:
        raise InputError(
            f'{ann_file} lacks the list `{"`, `".join(lacking)}` of the COCO format: {remedy}'
        )
    for part, names in REQUIRED.items():
        if part == 'annotations' and test_mode:
            names = (*names, 'iscrowd')  # pycocotools counts on it in evaluation alone
        strange = [n for n, entry in enumerate(content[part]) if not isinstance(entry, dict)]
        if strange:
            raise InputError(
                f'{ann_file}: {len(strange)} of {len(content[part])} entries of `{part}` are no '
                f'objects {{...}} (positions {first_five(strange)}): {remedy}'
            )
        for name in names:
            without = [n for n, entry in enumerate(content[part]) if name not in entry]
            if without:
                raise InputError(
                    f'{ann_file}: {len(without)} of {len(content[part])} entries of `{part}` lack '
                    f'`{name}` (positions {first_five(without)}): {remedy}'
                )
        _check_kinds(ann_file, part, content[part], names)
    images, annotations, categories = (content[part] for part in REQUIRED)
    sizeless = [image['id'] for image in images if not _has_size(image)]
    if sizeless:
        raise InputError(
            f'{ann_file}: `width` and `height` of {len(sizeless)} images are not positive numbers '
            f'(id {first_five(sizeless)}): write the sizes of the files'
        )
    boxless = [annotation['id'] for annotation in annotations if not _has_box(annotation)]
    if boxless:
        raise InputError(
            f'{ann_file}: `bbox` and `area` of {len(boxless)} annotations are not four finite '
            f'numbers and one (id {first_five(boxless)}): write `bbox` as [x, y, width, height]'
        )
    return images, annotations, categories


def _check_kinds(ann_file: Path, part: str, entries: list[dict], names: Sequence[str]) -> None:
    for name in KINDS.keys() & names:
        kind, words = KINDS[name]
        wrong = [entry[name] for entry in entries if not isinstance(entry[name], kind)]
        if wrong:
            raise InputError(
                f'{ann_file}: `{name}` of {len(wrong)} of {len(entries)} entries of `{part}` is '
                f'not {words} ({first_five(map(json.dumps, wrong))}): write it as {words}'
            )


def _has_size(image: dict) -> bool:
    return _are_finite(image['width'], image['height']) and min(image['width'], image['height']) > 0


def _has_box(annotation: dict) -> bool:
    box = annotation['bbox']
    return isinstance(box, list) and len(box) == 4 and _are_finite(*box, annotation['area'])


def _are_finite(*values: object) -> bool:
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)


def _duplicates(part: str, entries: list[dict]) -> Iterator[str]:
    counts = Counter(entry['id'] for entry in entries)
    twice = [number for number, count in counts.items() if count > 1]
    if twice:
        yield (
            f'{len(twice)} values of `id` in `{part}` occur more than once ({first_five(twice)}): '
            'number the entries anew'
        )


def _class_errors(categories: list[dict], classes: Sequence[str], key: str) -> Iterator[str]:
    """CocoDataset's label is the rank of a category among those of the file that are classes."""
    names = [category['name'] for category in categories]
    found = [name for name in names if name in classes]
    if not found:
        yield (
            f'no class of the config is in `categories`, which has {names}, while '
            f'{key}.metainfo.classes is {list(classes)}: set it to the names of the file'
        )
    elif found != list(classes[: len(found)]):
        yield (
            f'labels would get wrong names, as CocoDataset numbers classes in the order of '
            f'`categories`, here {found}, while {key}.metainfo.classes is {list(classes)}: '
            'set it to the names of the file in their order'
        )


def _count_boxes(
    report: DatasetReport,
    images: list[dict],
    annotations: list[dict],
    categories: list[dict],
    classes: Sequence[str],
    test_mode: bool,
) -> Iterator[str]:
    """Fill the counts and warnings of ``report``; yield what is wrong with the numbers."""
    names = {category['id']: category['name'] for category in categories}
    report.boxes.update({name: 0 for name in classes if name in names.values()})
    sizes = {image['id']: (image['width'], image['height']) for image in images}
    fates: dict[str, list] = defaultdict(list)
    with_boxes = set()
    for annotation in annotations:
        fate = _fate(annotation, names, sizes, classes)
        fates[fate].append(annotation)
        if fate in ('whole', 'over the edge'):
            with_boxes.add(annotation['image_id'])
        if fate not in ('orphan', 'unknown', 'other class'):
            report.boxes[names[annotation['category_id']]] += 1
    report.crowd = len(fates['crowd'])
    report.empty_images = len(images) - len(with_boxes)

    report.warnings += _warnings(fates, test_mode)
    if fates['unknown']:
        unknown = sorted({annotation['category_id'] for annotation in fates['unknown']})
        yield (
            f'{len(fates["unknown"])} annotations have a `category_id` that `categories` lacks '
            f'({first_five(unknown)}): add the categories or correct the ids'
        )


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
    if min(width, height) < 0:
        return 'negative'
    if min(width, height, annotation['area']) <= 0:
        return 'no area'
    if min(width, height) < 1:
        return 'thin'
    if x >= size[0] or y >= size[1] or right <= 0 or bottom <= 0:
        return 'outside'
    if annotation.get('iscrowd'):
        return 'crowd'
    if min(x, y) < -EDGE or right > size[0] + EDGE or bottom > size[1] + EDGE:
        return 'over the edge'
    return 'whole'


def _warnings(fates: dict[str, list[dict]], test_mode: bool) -> Iterator[str]:
    in_metric = ', but a CocoMetric with an `ann_file` reads them there' if test_mode else ''
    for fate, words in FATES.items():
        if fates[fate]:
            ids = first_five(annotation['id'] for annotation in fates[fate])
            end = KEPT if fate == 'over the edge' else f'CocoDataset drops them{in_metric}'
            yield f'{len(fates[fate])} boxes {words} (id {ids}): {end}'


def _why_nothing_is_left(report: DatasetReport) -> str:
    if not report.images:
        return '`images` is empty: there is nothing to learn or evaluate'
    if not report.boxes.total():
        return '`annotations` has no box of any class: there is nothing to learn or evaluate'
    if report.crowd == report.boxes.total():
        return f'all {report.crowd} boxes are crowd regions, which count for nothing: add objects'
    return f'none of {report.boxes.total()} boxes is left ({"; ".join(report.warnings)}): mend them'
