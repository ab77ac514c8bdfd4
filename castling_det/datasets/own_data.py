"""What somebody's folder of images can be trained for: boxes, label maps or classes, by split."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path, PurePosixPath

from PIL import Image

from castling_det.datasets.box_layouts import LAYOUTS, NAME_FILES, Boxes
from castling_det.datasets.data_folder import (
    IMAGE_FOLDERS,
    DataFolder,
    class_names,
    require_train,
    split_of,
)
from castling_det.datasets.image_files import UNREADABLE, first_five, in_threads
from castling_det.datasets.seg_checks import IGNORED, PALETTE_OR_GREY
from castling_det.errors import InputError

LOOKED_AT = 3  # files of a folder by which label maps are told from photos
LABEL_WORDS = ('annot', 'gt', 'label', 'mask', 'seg', 'truth')  # of folders
EXPECTED = (
    'boxes as COCO json, YOLO txt in labels/ beside images/ or Pascal VOC xml; label maps as 8-bit '
    'grey or palette PNG, named as their images; or at least two folders of classes'
)


@dataclass
class Split:
    """A part of a data set: how many images it has, and what its ``dataset`` in a config takes."""

    num_images: int
    keys: dict


@dataclass
class OwnData:
    """A folder that can be trained on.

    Attributes:
        root: The folder, absolute.
        task: 'detection', 'segmentation' or 'classification'.
        classes: Their names, in the order of their numbers.
        splits: 'train', 'val' and, where it is there, 'test'.
        notes: What was made of the files and what was left out, a sentence each.
        palette: Of label maps that have one, red, green and blue of each class, 0 to 255.
    """

    root: Path
    task: str
    classes: tuple[str, ...]
    splits: dict[str, Split]
    notes: list[str]
    palette: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        order = ('train', 'val', 'test')
        self.splits = {split: self.splits[split] for split in order if split in self.splits}


def find_own_data(root: Path, classes: Sequence[str] | None = None) -> OwnData:
    """Find out what a folder holds.

    YOLO and Pascal VOC are converted to COCO json, and a set without a val split is divided by a
    fixed seed; the files for that are written to ``castling_det`` below the folder.

    Args:
        root (Path): The folder.
        classes (Sequence[str], optional): Of boxes those to learn, of label maps the names of the
            numbers from 0. Defaults to all of them, and to the names that a file beside them has.

    Raises:
        InputError: If it holds none of the layouts or several, or one that contradicts itself.
    """
    folder = DataFolder(root)
    found = {layout: look(folder) for layout, (look, _) in LAYOUTS.items()}
    found['label maps'] = label_maps(folder)
    found = {layout: files for layout, files in found.items() if files}
    if len(found) > 1:
        firsts = ' and '.join(f'{layout} ({next(iter(each))})' for layout, each in found.items())
        raise InputError(f'{root} holds {firsts}: give a folder that holds one of them alone')
    if not found:
        return _classification(folder, classes)
    ((layout, files),) = found.items()
    if layout == 'label maps':
        return _segmentation(folder, files, classes)
    return _detection(folder, LAYOUTS[layout][1](folder, files, classes), classes)


def _listed(folder: DataFolder, name: str, whole: Split, lines: list[str]) -> Split:
    """A part of a split, which a list of its files says."""
    listed = folder.write(f'{name}.txt', ''.join(f'{line}\n' for line in lines))
    return Split(len(lines), dict(whole.keys, ann_file=listed))


# Boxes.


def _detection(folder: DataFolder, boxes: Boxes, classes: Sequence[str] | None) -> OwnData:
    train = boxes['train']
    names = {category['id']: category['name'] for category in train.content['categories']}
    learnt = {names.get(box['category_id']) for box in train.content['annotations']}
    unknown = [name for name in classes or () if name not in names.values()]
    if unknown:
        raise InputError(
            f'--classes {" ".join(unknown)}: {folder.root / train.file} has '
            f'{first_five(names.values())} ({len(names)} categories)'
        )
    wanted = [name for name in names.values() if name in (classes or names.values())]
    chosen = [name for name in wanted if name in learnt]
    empty = [name for name in wanted if name not in learnt]
    if not chosen:
        raise InputError(f'{folder.root / train.file} has no box of {first_five(empty)}')
    if empty:
        folder.notes.append(f'left out, without a box in {train.file}: {first_five(empty)}')
    for split in boxes.values():
        known = {category['name'] for category in split.content['categories']}
        lacking = [name for name in chosen if name not in known]
        if lacking:
            kept = ' '.join(name for name in chosen if name in known)
            raise InputError(
                f'{folder.root / split.file} has no category {first_five(map(repr, lacking))}, '
                f'which {train.file} has: add it, or leave it out by --classes {kept}'
            )
    splits = {
        name: Split(
            len(split.content['images']),
            dict(ann_file=split.file, data_prefix=dict(img=split.images)),
        )
        for name, split in boxes.items()
    }
    return OwnData(folder.root, 'detection', tuple(chosen), splits, folder.notes)


# Label maps.


def label_maps(folder: DataFolder) -> dict[PurePosixPath, dict[PurePosixPath, str]]:
    """Folders of label maps, and for each those of images that fit, with the maps' ending."""
    files = defaultdict(list)
    for image in folder.images:
        files[image.parent].append(image)
    stems = {parent: {file.stem for file in inside} for parent, inside in files.items()}
    numbered = {parent for parent, inside in files.items() if _are_numbers(folder, inside)}
    found = defaultdict(dict)
    for labels in sorted(numbered):
        for images in stems:
            is_photos = images not in numbered or _has_label_word(labels, images)
            if images == labels or split_of(images) != split_of(labels) or not is_photos:
                continue
            ending = _common_ending(stems[labels], stems[images])
            if ending is not None:
                found[labels][images] = ending
    return found


def _are_numbers(folder: DataFolder, files: list[PurePosixPath]) -> bool:
    """Whether files are PNGs of one 8-bit number a pixel, by the first of them."""
    if any(file.suffix != '.png' for file in files):
        return False
    try:
        modes = {Image.open(folder.root / file).mode for file in files[:LOOKED_AT]}
    except UNREADABLE:
        return False
    return modes <= set(PALETTE_OR_GREY)


def _has_label_word(labels: PurePosixPath, images: PurePosixPath) -> bool:
    def has(path: PurePosixPath) -> bool:
        return any(word in str(path).lower() for word in LABEL_WORDS)

    return has(labels) and not has(images)


def _common_ending(labels: set[str], images: set[str]) -> str | None:
    """What the names of label maps have after those of their images, as ``_mask``."""
    first = min(labels)
    endings = {first.removeprefix(name) for name in images if first.startswith(name)}
    for ending in sorted(endings, key=len):
        names = {name.removesuffix(ending) for name in labels if name.endswith(ending)}
        if len(names) == len(labels) and names <= images:
            return ending
    return None


def _segmentation(
    folder: DataFolder,
    found: dict[PurePosixPath, dict[PurePosixPath, str]],
    classes: Sequence[str] | None,
) -> OwnData:
    splits = {}
    for labels, endings in found.items():
        split = split_of(labels) or 'train'
        if split in splits:
            raise InputError(
                f'{folder.root} has several folders of label maps to {split} on '
                f'({first_five(found)}): give a folder that holds one for each split'
            )
        images = folder.choose(list(endings), labels)
        splits[split] = _label_map_split(folder, split, labels, images, endings[images])
    require_train(folder, splits)
    if 'val' not in splits:
        train = splits['train']
        ending = train.keys.get('img_suffix', '.jpg')
        prefix = PurePosixPath(train.keys['data_prefix']['img_path'])
        stems = [f.stem for f in folder.images if f.parent == prefix and f.suffix == ending]
        for split, part in zip(('train', 'val'), folder.divide(stems, 'images'), strict=True):
            splits[split] = _listed(folder, split, train, part)
    names = _label_names(folder, list(found), classes)
    palette = _palette_beside(folder, len(names))
    return OwnData(folder.root, 'segmentation', names, splits, folder.notes, palette)


def _label_map_split(
    folder: DataFolder, name: str, labels: PurePosixPath, images: PurePosixPath, ending: str
) -> Split:
    files = [image for image in folder.images if image.parent == images]
    suffixes = sorted({file.suffix for file in files})
    if len(suffixes) > 1:
        raise InputError(
            f'{folder.root / images} has images of several endings ({", ".join(suffixes)}): save '
            'them with one'
        )
    keys = dict(data_prefix=dict(img_path=str(images), seg_map_path=str(labels)))
    keys |= {} if suffixes == ['.jpg'] else dict(img_suffix=suffixes[0])
    keys |= {} if not ending else dict(seg_map_suffix=f'{ending}.png')
    split = Split(len(files), keys)
    deeper = [
        image
        for image in folder.images + folder.hidden
        if image.suffix == suffixes[0] and images in image.parent.parents
    ]
    # Without a list mmseg reads all that lies deeper too.
    return _listed(folder, name, split, [file.stem for file in files]) if deeper else split


def _label_names(
    folder: DataFolder, parents: list[PurePosixPath], classes: Sequence[str] | None
) -> tuple[str, ...]:
    """A name for each number in the label maps."""
    files = [image for image in folder.images if image.parent in parents]

    def numbers(file: PurePosixPath) -> set[int]:
        try:
            with Image.open(folder.root / file) as image:
                found = {n for n, count in enumerate(image.histogram()[:256]) if count}
                return {min(n, 1) for n in found} if image.mode == '1' else found
        except UNREADABLE:
            return set()  # which the check names

    found = set().union(*(each for _, each in in_threads(numbers, files, 'label maps')))
    found -= {IGNORED}
    if len(found) < 2:
        raise InputError(
            f'{folder.root / parents[0]} holds the numbers {first_five(sorted(found))} and 255, '
            'which is ignored: write the background as 0 and the object as 1'
        )
    names = tuple(classes or _names_beside(folder))
    if not names:
        names = tuple(f'class_{number}' for number in range(max(found) + 1))
        folder.notes.append('the label maps have no names: --classes gives them, from number 0 on')
    if max(found) >= len(names):
        raise InputError(
            f'label maps of {folder.root} hold the numbers {min(found)} to {max(found)}, for which '
            f'{len(names)} names are not enough ({first_five(names)}): give one for each number '
            'from 0 on by --classes, or write what is to be ignored as 255'
        )
    return names


def _names_beside(folder: DataFolder) -> list[str]:
    """Names in a text file, a line each, or in ``classes.json``, as a list or below ``classes``."""
    for file in folder.files:
        if file.name in NAME_FILES:
            return [line.strip() for line in folder.read(file).splitlines() if line.strip()]
        if file.name == 'classes.json':
            content = json.loads(folder.read(file))
            names = content.get('classes', content) if isinstance(content, dict) else content
            return class_names(folder.root / file, names)
    return []


def _palette_beside(folder: DataFolder, num_classes: int) -> list[list[int]]:
    """Colours below ``palette`` in ``classes.json``, one a class; none where it has no palette."""
    for file in folder.files:
        content = json.loads(folder.read(file)) if file.name == 'classes.json' else None
        if not isinstance(content, dict) or 'palette' not in content:
            continue
        palette = content['palette']
        is_whole = isinstance(palette, list) and len(palette) == num_classes
        if is_whole and all(map(_is_colour, palette)):
            return palette
        folder.notes.append(
            f'the palette of {file} is left out: it is to be a list of {num_classes} colours '
            '[red, green, blue], one a class, from 0 to 255'
        )
    return []


def _is_colour(value: object) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(n in range(256) for n in value)


# Classes.


def _classification(folder: DataFolder, classes: Sequence[str] | None) -> OwnData:
    """Folders of classes, below those of splits or alone."""
    found = _class_folders(folder)
    first, *others = found
    names = tuple(sorted(found[first]))
    splits = {}
    for parent, images in found.items():
        count = sum(map(len, images.values()))
        splits[split_of(PurePosixPath(parent)) or 'train'] = Split(count, dict(data_prefix=parent))
    require_train(folder, splits)
    if len(splits) < len(found):
        parents = first_five(parent or 'the folder itself' for parent in found)
        raise InputError(
            f'{folder.root} has class folders in {parents}: let them all lie below train/, val/ '
            'and test/, or none'
        )
    for parent in others:
        if differing := sorted(set(names) ^ set(found[parent])):
            raise InputError(
                f'{folder.root}: {first} and {parent} have different classes '
                f'({first_five(differing)}): let both have the same folders'
            )
    if classes and set(classes) != set(names):
        raise InputError(
            f'--classes {" ".join(classes)}: the folders are the classes ({first_five(names)}): '
            'leave the option out, and move away what is not to be learnt'
        )
    for split, whole in splits.items():
        parent = whole.keys['data_prefix']
        if any(PurePosixPath(parent) in file.parents for file in folder.hidden):
            splits[split] = _numbered(folder, split, whole, found[parent])
    if 'val' not in splits:
        train = splits['train']
        splits.update(_divided_classes(folder, train, found[train.keys['data_prefix']]))
    return OwnData(folder.root, 'classification', names, splits, folder.notes)


def _class_folders(folder: DataFolder) -> dict[str, dict[str, list[PurePosixPath]]]:
    """Images by the folder of their split ('' where there is none) and by class."""
    parents = {image: _split_folder(image) for image in folder.images}
    # Called as a split, with images directly inside: a class, or a split without classes.
    flat = {image.parent for image in parents if len(image.parts) == 2 and split_of(image.parent)}
    is_class = len(flat) == 1 and not any(parents.values())
    found, stray = defaultdict(lambda: defaultdict(list)), []
    for image, parent in parents.items():
        name, *rest = image.relative_to(parent).parts
        is_in_class = rest and (is_class or image.parent not in flat)
        found[parent][name].append(image) if is_in_class else stray.append(image)
    names = {name for images in found.values() for name in images}
    if len(names) < 2 or {name.lower() for name in names} & IMAGE_FOLDERS:
        raise InputError(
            f'{folder.root} holds images ({folder.images[0]}, ...) and nothing to learn from them: '
            f'expected are {EXPECTED}'
        )
    if is_class:
        folder.notes.append(
            f'{first_five(flat)} is learnt as a class, since its images lie in no folders below it'
        )
    if stray:
        folder.notes.append(
            f'left out, in no folder of a class: {len(stray)} of {len(parents)} images '
            f'({first_five(stray)})'
        )
    return found


def _split_folder(image: PurePosixPath) -> str:
    """Folders from the root on that are called as a split, without the one of the class."""
    folders = image.parts[:-2]
    return '/'.join(takewhile(lambda name: split_of(PurePosixPath(name)), folders))


def _divided_classes(
    folder: DataFolder, train: Split, images: dict[str, list[PurePosixPath]]
) -> dict[str, Split]:
    """Lists of train and val, each class divided by itself."""
    parts = dict(train={}, val={})
    for name, files in images.items():
        parts['train'][name], parts['val'][name] = folder.divide(files, f'images of {name}')
    return {split: _numbered(folder, split, train, part) for split, part in parts.items()}


def _numbered(
    folder: DataFolder, name: str, whole: Split, images: dict[str, list[PurePosixPath]]
) -> Split:
    """A split that a list of files and the numbers of their classes says."""
    parent = whole.keys['data_prefix']
    lines = [
        f'{file.relative_to(parent)} {number}'
        for number, class_name in enumerate(sorted(images))
        for file in images[class_name]
    ]
    return _listed(folder, name, whole, lines)
