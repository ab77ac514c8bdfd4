"""Boxes of a folder: COCO json as it is, YOLO txt and Pascal VOC xml converted to it."""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import yaml

from castling_det.datasets.coco_checks import REQUIRED
from castling_det.datasets.data_folder import DataFolder, class_names, require_train, split_of
from castling_det.datasets.image_files import first_five, read_utf8, upright_size
from castling_det.errors import InputError
from castling_det.inference.run_onnx import IMAGE_SUFFIXES

NAME_FILES = ('classes.txt', 'obj.names', 'labels.txt')
YOLO_LINE = re.compile(r'\d+(\s+-?[\d.]+(e-?\d+)?){4,}\s*$')  # a box, a polygon, or more than a box
READ_KEYS = {  # of COCO; the check of the data set asks for more
    'images': ('id', 'file_name'),
    'annotations': ('image_id', 'category_id'),
    'categories': ('id', 'name'),
}
VOC_FOLDERS = ('JPEGImages', 'images')  # of images, beside the one of the xml files
VOC_LISTS = dict(train='train', val='val', test='test', trainval='train')  # of ImageSets/Main


@dataclass
class CocoSplit:
    """A json of COCO: the file and the folder of its images, below the root, and what it holds."""

    file: str
    images: str
    content: dict


Boxes = dict[str, CocoSplit]  # by split


# COCO.


def coco_json(folder: DataFolder) -> dict[PurePosixPath, dict]:
    """Files of COCO's boxes and what is in them; where some are named instances, those alone.

    Raises:
        InputError: If a json cannot be read, or has a part of COCO that is no list.
    """
    contents = {}
    for file in folder.files:
        if file.suffix.lower() != '.json':
            continue
        text = folder.read(file)
        try:
            content = json.loads(text)
        except ValueError as error:
            raise InputError(f'{folder.root / file} is no JSON ({error}): mend it') from error
        if isinstance(content, dict) and REQUIRED.keys() <= content.keys():
            for part in REQUIRED:
                if not isinstance(content[part], list):
                    raise InputError(f'{folder.root / file}: {part} is no list: write it as one')
            boxes = content['annotations']
            if not boxes or not isinstance(boxes[0], dict) or 'bbox' in boxes[0]:  # not panoptic
                contents[file] = content
    instances = {file: each for file, each in contents.items() if 'instances' in file.name}
    return instances or contents


def read_coco(folder: DataFolder, contents: dict[PurePosixPath, dict], _: object) -> Boxes:
    """The splits of the json files; a test split without boxes is left out."""
    splits = {}
    for file, content in contents.items():
        _require_keys(folder, file, content)
        split = split_of(file) or ('train' if len(contents) == 1 else None)
        if split is None or split in splits:
            other = f', as {splits[split].file}' if split else ''
            raise InputError(
                f'{folder.root / file} is of {split or "no"} split{other}: let the name of each '
                'json, or of its folder, have one of the words train, val and test'
            )
        if content['annotations'] or split != 'test':
            splits[split] = CocoSplit(str(file), _images_of(folder, file, content), content)
    require_train(folder, splits)
    if 'val' not in splits:
        train = splits['train']
        splits.update(_written(folder, dict(train=train.content), train.images))
    return splits


def _require_keys(folder: DataFolder, file: PurePosixPath, content: dict) -> None:
    read_utf8(folder.root / file)  # pycocotools stops at a byte order mark
    for part, key in ((part, key) for part, keys in READ_KEYS.items() for key in keys):
        is_right, words = REQUIRED[part][key]
        for entry in content[part]:
            if not isinstance(entry, dict) or key not in entry:
                raise InputError(f'{folder.root / file}: an entry of {part} has no {key}: add it')
            if not is_right(entry[key]):
                raise InputError(
                    f'{folder.root / file}: {key} of an entry of {part} is '
                    f'{json.dumps(entry[key])}: write it as {words}'
                )


def _images_of(folder: DataFolder, file: PurePosixPath, content: dict) -> str:
    """The folder below which the first image of a json lies, with a slash at the end."""
    if not content['images']:
        raise InputError(f'{folder.root / file} lists no image')
    first, split = content['images'][0]['file_name'], split_of(file)
    nearest = defaultdict(list)  # those of its split go before those of none, its own before others
    for parent in sorted({parent for image in folder.images for parent in image.parents}):
        if split_of(parent) in (split, None) and (folder.root / parent / first).is_file():
            nearest[split_of(parent) != split, parent != file.parent].append(parent)
    if not nearest:
        slashed = first.replace('\\', '/')
        is_there = any(f'/{image}'.endswith(f'/{slashed}') for image in folder.images)
        is_slip = slashed != first and is_there
        remedy = f'write file_name as {slashed}' if is_slip else 'copy the images there'
        raise InputError(
            f'{folder.root / file}: its first image, {first}, is in no folder below {folder.root}: '
            f'{remedy}'
        )
    parent = folder.choose(nearest[min(nearest)], file)
    return '' if parent == PurePosixPath('.') else f'{parent}/'


def _written(folder: DataFolder, contents: dict[str, dict], images: str = '') -> Boxes:
    """Write a json for each split; where there is no val, a part of train is."""
    require_train(folder, contents)
    if 'val' not in contents:
        whole = contents['train']
        for split, part in zip(('train', 'val'), _divided(folder, whole), strict=True):
            ids = {image['id'] for image in part}
            boxes = [box for box in whole['annotations'] if box['image_id'] in ids]
            contents[split] = dict(whole, images=part, annotations=boxes)
    return {
        split: CocoSplit(folder.write(f'{split}.json', json.dumps(content)), images, content)
        for split, content in contents.items()
    }


def _divided(folder: DataFolder, content: dict) -> tuple[list[dict], list[dict]]:
    """Images of train and of val; those with boxes by themselves, so that val gets its part."""
    ids = {box['image_id'] for box in content['annotations']}
    boxed = [image for image in content['images'] if image['id'] in ids]
    empty = [image for image in content['images'] if image['id'] not in ids]
    train, val = folder.divide(boxed, 'images with boxes')
    more = folder.divide(empty, 'images') if empty[1:] else (empty, [])
    return train + more[0], val + more[1]


def _as_coco(found: dict[str, list[dict]], classes: Sequence[str]) -> dict[str, dict]:
    """COCO's content by split, of images with their ``boxes``: class, x, y, w, h, ignored."""
    contents = {}
    for split, images in found.items():
        contents[split] = dict(
            images=[],
            annotations=[],
            categories=[dict(id=n, name=name) for n, name in enumerate(classes, 1)],
        )
        for number, image in enumerate(images, 1):
            boxes = image.pop('boxes')
            contents[split]['images'].append(dict(image, id=number))
            for label, x, y, w, h, ignored in boxes:
                annotation = dict(image_id=number, category_id=label + 1, bbox=[x, y, w, h])
                annotation |= dict(area=w * h, iscrowd=int(ignored))
                contents[split]['annotations'].append(annotation)
        for number, annotation in enumerate(contents[split]['annotations'], 1):
            annotation['id'] = number
    return contents


# YOLO.


def yolo_labels(folder: DataFolder) -> dict[PurePosixPath, PurePosixPath | None]:
    """Images of folders that have label files, and the label file of each."""
    files = set(folder.files)
    label_of = {}
    for image in folder.images:
        label = _yolo_label(image)
        label_of[image] = label if label in files else None
    labels = [label for label in label_of.values() if label]
    lines = [line for label in labels[:3] for line in folder.read(label).splitlines()]
    if not labels or not all(map(YOLO_LINE.match, filter(str.strip, lines))):
        return {}
    parents = {image.parent for image, label in label_of.items() if label}
    return {image: label for image, label in label_of.items() if image.parent in parents}


def _yolo_label(image: PurePosixPath) -> PurePosixPath:
    parts = list(image.with_suffix('.txt').parts)
    if 'images' in parts[:-1]:
        last = len(parts) - 1 - parts[::-1].index('images')
        parts[last] = 'labels'
    return PurePosixPath(*parts)


def read_yolo(
    folder: DataFolder,
    label_of: dict[PurePosixPath, PurePosixPath | None],
    classes: Sequence[str] | None,
) -> Boxes:
    """Convert YOLO's labels; a polygon becomes the box around it."""
    names = _yolo_names(folder) or classes
    if not names:
        raise InputError(
            f'{folder.root} has YOLO labels and no names of the classes: add a data.yaml with '
            '`names`, or give them in the order of their numbers by --classes'
        )
    found = defaultdict(list)
    for image, label in label_of.items():
        width, height = upright_size(folder.root / image)
        boxes = []
        lines = folder.read(label).splitlines() if label else []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            if not _is_yolo(line, len(names)):
                raise InputError(
                    f'{folder.root / label}, line {number} is {line!r}: write a class from 0 to '
                    f'{len(names) - 1} and x y width height, or a polygon, as shares of the image, '
                    'without confidence or key points'
                )
            boxes.append(_yolo_box(line, width, height))
        split = split_of(image.parent) or 'train'
        found[split].append(dict(file_name=str(image), width=width, height=height, boxes=boxes))
    return _written(folder, _as_coco(found, names))


def _is_yolo(line: str, num_classes: int) -> bool:
    """Whether it is a class with x, y, width and height, or with the x and y of each corner."""
    label, *numbers = line.split()
    return bool(YOLO_LINE.match(line)) and int(label) < num_classes and len(numbers) % 2 == 0


def _yolo_box(line: str, width: int, height: int) -> tuple:
    label, *numbers = line.split()
    xs, ys = [float(n) for n in numbers[::2]], [float(n) for n in numbers[1::2]]
    if len(numbers) == 4:  # centre, size
        (x, w), (y, h) = xs, ys
        xs, ys = (x - w / 2, x + w / 2), (y - h / 2, y + h / 2)
    left, right, top, bottom = min(xs) * width, max(xs) * width, min(ys) * height, max(ys) * height
    corners = [round(each, 2) for each in (left, top, right - left, bottom - top)]
    return int(label), *corners, False


def _yolo_names(folder: DataFolder) -> list[str] | None:
    for file in folder.files:
        if file.suffix.lower() in ('.yaml', '.yml'):
            try:
                content = yaml.load(folder.read(file), yaml.BaseLoader)  # texts: `no` stays a name
            except yaml.YAMLError as error:
                raise InputError(f'{folder.root / file} is no YAML ({error}): mend it') from error
            names = content.get('names') if isinstance(content, dict) else None
            if names:
                _refuse_unread(folder.root / file, content)
                return class_names(folder.root / file, names)
    for file in folder.files:
        if file.name in NAME_FILES:
            return [line.strip() for line in folder.read(file).splitlines() if line.strip()]
    return None


def _refuse_unread(file: Path, content: dict) -> None:
    for split in ('train', 'val'):
        if str(content.get(split)).endswith('.txt'):
            raise InputError(
                f'{file}: {split} is a list of files, which is not read: put the images of each '
                'split into a folder, images/train and images/val'
            )
    if 'kpt_shape' in content:
        raise InputError(
            f'{file} has kpt_shape, and key points are not learnt: write labels of boxes alone, '
            'and take kpt_shape out'
        )


# Pascal VOC.


def voc_files(folder: DataFolder) -> dict[PurePosixPath, ElementTree.Element]:
    """Xml files of boxes and what is in them.

    Raises:
        InputError: If one cannot be read.
    """
    found = {}
    for file in folder.files:
        if file.suffix.lower() == '.xml':
            try:
                root = ElementTree.fromstring((folder.root / file).read_bytes())
            except (ElementTree.ParseError, ValueError, LookupError) as error:  # or its encoding
                raise InputError(
                    f'{folder.root / file} is no XML ({error}): mend it, or save it as UTF-8'
                ) from error
            if root.tag == 'annotation':
                found[file] = root
    return found


def read_voc(
    folder: DataFolder, files: dict[PurePosixPath, ElementTree.Element], _: object
) -> Boxes:
    """Convert VOC's boxes; difficult ones are ignored in training and metric (``iscrowd``)."""
    classes = sorted({name for root in files.values() for name in _texts(root, 'object/name')})
    lists = _voc_lists(folder)
    by_stem = defaultdict(list)
    for image in folder.images:
        by_stem[image.stem].append(image)
    found, missing, unlisted = defaultdict(list), [], []
    for file, root in files.items():
        image = _voc_image(file, by_stem[file.stem])
        if image is None:
            missing.append(file)
            continue
        size = [int(float(root.findtext(f'size/{side}') or 0)) for side in ('width', 'height')]
        width, height = size if all(size) else upright_size(folder.root / image)
        entry = dict(file_name=str(image), width=width, height=height)
        entry['boxes'] = [_voc_box(folder, file, each, classes) for each in root.iter('object')]
        names = {parent / file.stem for parent in file.parents}
        listed = [VOC_LISTS[name] for name, those in lists.items() if names & those]
        if lists and not listed:
            unlisted.append(file)
            continue
        found[(listed or [split_of(file.parent) or 'train'])[0]].append(entry)
    if missing:
        raise InputError(
            f'{folder.root}: {len(missing)} of {len(files)} xml files have no image of their name '
            f'({first_five(missing)}): add it, or take them away'
        )
    if not found:
        raise InputError(
            f'{folder.root}: ImageSets/Main lists none of the {len(files)} xml files '
            f'({first_five(unlisted)}): write their names there without ending, or take it away'
        )
    if unlisted:
        folder.notes.append(
            f'left out, in no list of ImageSets/Main: {len(unlisted)} of {len(files)} xml files '
            f'({first_five(unlisted)})'
        )
    return _written(folder, _as_coco(found, classes))


def _voc_lists(folder: DataFolder) -> dict[str, set[PurePosixPath]]:
    """What is on the lists of ImageSets/Main, as names of images below the folder of ImageSets."""
    lists = {name: set() for name in VOC_LISTS}
    for file in folder.files:
        if file.parent.name == 'Main' and file.suffix == '.txt' and file.stem in lists:
            for line in filter(None, map(str.strip, folder.read(file).splitlines())):
                # A name may end in a number, and -1, 0 or 1 may follow it.
                for name in (line, re.sub(r'\s+(-1|0|1)$', '', line)):
                    path = PurePosixPath(name)
                    stem = path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name
                    lists[file.stem].add(file.parent.parent.parent / stem)
    return {name: those for name, those in lists.items() if those}


def _voc_image(file: PurePosixPath, images: list[PurePosixPath]) -> PurePosixPath | None:
    """That of its name in the same folder, in one of images beside it, or the only one."""
    beside = [file.parent, *(file.parent.parent / name for name in VOC_FOLDERS)]
    near = [image for image in images if image.parent in beside]
    same = near or [image for image in images if split_of(image.parent) == split_of(file.parent)]
    return same[0] if len(same) == 1 or near else None


def _voc_box(
    folder: DataFolder, file: PurePosixPath, box: ElementTree.Element, classes: list[str]
) -> tuple:
    try:
        sides = [float(box.findtext(f'bndbox/{side}')) for side in ('xmin', 'ymin', 'xmax', 'ymax')]
        label = classes.index(box.findtext('name').strip())
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f'{folder.root / file} has an object without a name or a whole bndbox: mend it'
        ) from error
    left, top, right, bottom = sides
    return label, left, top, right - left, bottom - top, box.findtext('difficult') == '1'


def _texts(root: ElementTree.Element, path: str) -> list[str]:
    return [(each.text or '').strip() for each in root.findall(path)]


LAYOUTS: dict[str, tuple[Callable[[DataFolder], dict], Callable[..., Boxes]]] = {
    'COCO json': (coco_json, read_coco),
    'YOLO labels': (yolo_labels, read_yolo),
    'Pascal VOC xml': (voc_files, read_voc),
}
