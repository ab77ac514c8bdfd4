"""What can be wrong with images and their label maps, each said in one sentence. Needs mmcv."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.utils import to_2tuple
from numpy import ndarray
from PIL import Image

from castling_det.datasets.image_files import (
    UNREADABLE,
    check_images,
    first_five,
    in_threads,
    missing_files,
    names_below,
    read_utf8,
)
from castling_det.datasets.loading import LoadReadableImage
from castling_det.datasets.report import DatasetReport
from castling_det.errors import InputError

IGNORED = 255  # by the heads and metrics of mmseg, whatever `ignore_index` of a data set says
MANY = 0.5  # share of ignored pixels that is worth a word
PALETTE_OR_GREY = ('P', 'L', '1')  # modes of Pillow that are one 8-bit number a pixel
ADVICE = {
    'unreadable': 'cannot be read: write them again as 8-bit PNG',
    'not 8-bit': (
        'are no 8-bit grey or palette images: write one class number a pixel (colours have to be '
        'translated to numbers, and numbers above 255 do not fit)'
    ),
}


def check_segmentation(
    report: DatasetReport, dataset: BaseDataset, loading: LoadReadableImage, decode: bool
) -> None:
    """Check a mmseg data set for what makes its training fail, or fail silently.

    All label maps are read; a palette PNG is as good as a grey one. Where predictions alone are
    wanted, none is looked at.

    Args:
        report (DatasetReport): Is filled; its first key is where the config has the data set.
        dataset (BaseDataset): A ``BaseSegDataset``, not initialised.
        loading (LoadReadableImage): How the pipeline loads images.
        decode (bool): Whether to decode all images, not a sample.

    Raises:
        InputError: If a list is no plain UTF-8.
    """
    key, prefix = report.keys[0], dataset.data_prefix
    parts = ['img_path'] if report.use == 'prediction' else ['img_path', 'seg_map_path']
    for part in parts:
        if not prefix.get(part) or not Path(prefix[part]).is_dir():
            hint = report.without_annotations if part == 'seg_map_path' else ''
            report.error(
                f'folder {prefix.get(part)} does not exist: set {key}.data_root and '
                f'{key}.data_prefix.{part}{hint}'
            )
    if dataset.ann_file and not Path(dataset.ann_file).exists():
        report.error(f'list {dataset.ann_file} does not exist: set {key}.ann_file')
    if report.errors:
        return
    if Path(dataset.ann_file).is_file():
        read_utf8(Path(dataset.ann_file))
    samples = dataset.load_data_list()
    report.images = report.used = len(samples)
    if not samples:
        report.error(
            f'{prefix["img_path"]} holds no *{dataset.img_suffix}: set {key}.img_suffix or '
            f'{key}.data_prefix.img_path'
        )
        return
    names, missing = {}, {}
    for part in parts:
        names[part] = names_below(Path(prefix[part]), (sample[part] for sample in samples))
        missing[part] = set(missing_files(Path(prefix[part]), names[part]))
        if missing[part]:
            what, ending = ('images', 'img') if part == 'img_path' else ('label maps', 'seg_map')
            report.error(
                f'{len(missing[part])} of {len(samples)} {what} are missing in {prefix[part]} '
                f'({first_five(sorted(missing[part]))}): copy them there, or set '
                f'{key}.data_prefix.{part} to the folder that has them, and {key}.{ending}_suffix '
                'to their ending'
            )
    sizes = {name: None for name in names['img_path'] if name not in missing['img_path']}
    if report.use != 'prediction':
        pairs = zip(names['seg_map_path'], names['img_path'], strict=True)
        image_of = {
            label_map: image
            for label_map, image in pairs
            if label_map not in missing['seg_map_path'] and image in sizes
        }
        label_sizes = _read(report, dataset, list(image_of))
        sizes = {image_of[label_map]: size for label_map, size in label_sizes.items()}
    check_images(report, Path(prefix['img_path']), sizes, loading, decode)


def _read(
    report: DatasetReport, dataset: BaseDataset, names: list[str]
) -> dict[str, tuple[int, int]]:
    """Count the pixels of label maps, report what is wrong with them, and return their sizes."""
    folder = Path(dataset.data_prefix['seg_map_path'])
    classes, ignored = _meaning(dataset)
    counts, sizes = np.zeros(256, int), {}
    empty, troubles, wrong = [], defaultdict(list), defaultdict(list)

    def read(name: str) -> tuple[str, str] | tuple[tuple[int, int], ndarray]:
        try:
            with Image.open(folder / name) as image:
                if image.mode not in PALETTE_OR_GREY:
                    return 'not 8-bit', f'{name} is {image.mode}'
                histogram = np.array(image.histogram())
        except UNREADABLE:
            return 'unreadable', name
        if image.mode == '1':  # Pillow calls its 1 a 255
            histogram[[1, 255]] = histogram[[255, 1]]
        return image.size, histogram

    for name, (size, found) in in_threads(read, names, 'label maps'):
        if size in ADVICE:
            troubles[size].append(found)
            continue
        sizes[name] = size
        counts += found
        numbers = set(np.flatnonzero(found).tolist())
        if numbers <= ignored:
            empty.append(name)
        for number in numbers - classes.keys() - ignored:
            wrong[number].append(name)
    for kind, files in troubles.items():
        report.error(
            f'{folder}: {len(files)} of {len(names)} label maps {ADVICE[kind]} '
            f'({first_five(files)})'
        )
    report.label_maps = len(sizes)
    report.pixels.update(dict.fromkeys(classes.values(), 0))
    for number in np.flatnonzero(counts).tolist():
        report.pixels[classes.get(number, 'ignored')] += int(counts[number])
    if sizes:
        _check_numbers(report, dataset, counts, wrong, empty)
    return sizes


def _meaning(dataset: BaseDataset) -> tuple[dict[int, str], set[int]]:
    """The class of each number in a file, and the numbers that mmseg ignores."""
    first = int(dataset.reduce_zero_label)
    ignored = {IGNORED} | ({0} if first else set())
    if dataset.label_map is None:
        return dict(enumerate(dataset.metainfo['classes'], start=first)), ignored
    known = dataset.METAINFO['classes']  # mmseg renumbers the classes of a subset
    classes = {old + first: known[old] for old, new in dataset.label_map.items() if new != IGNORED}
    return classes, ignored | {old + first for old in dataset.label_map}.difference(classes)


def _check_numbers(
    report: DatasetReport,
    dataset: BaseDataset,
    counts: ndarray,
    wrong: dict[int, list[str]],
    empty: list[str],
) -> None:
    """Compare the pixels of each number with the classes, ``reduce_zero_label`` in mind.

    ``wrong`` are the files by number that means nothing, ``empty`` those with nothing but ignored
    numbers.
    """
    key, first = report.keys[0], int(dataset.reduce_zero_label)
    classes, ignored = _meaning(dataset)
    found = np.flatnonzero(counts).tolist()
    zeros = counts[0] / counts.sum()
    if len(dataset.metainfo['classes']) == 1:
        name = dataset.metainfo['classes'][0]
        report.error(
            f'{key}.metainfo.classes has {name!r} alone, which softmax gives to every pixel: make '
            f"the background a class, classes=('background', {name!r}) and num_classes=2 of each "
            f'head, with 0 for it and 1 for {name!r} in the label maps'
        )
    elif wrong:
        files = sorted({name for names in wrong.values() for name in names})
        remedy = f'set {key}.metainfo.classes or write these pixels as {IGNORED}'
        if not first and list(wrong) == [len(classes)]:
            remedy += (
                f'; 0 has {zeros:.0%} of the pixels: if it means unlabelled and the classes begin '
                f'at 1, set {key}.reduce_zero_label=True'
            )
        report.error(
            f'{report.source}: {len(files)} label maps ({first_five(files)}) hold '
            f'{first_five(sorted(wrong))}, which are no class: {len(classes)} classes are '
            f'{min(classes)} to {max(classes)} with reduce_zero_label={bool(first)}, {IGNORED} is '
            f'ignored; {remedy}'
        )
    elif ignored.issuperset(found):
        report.error(
            f'{report.source}: all pixels of {report.label_maps} label maps are ignored '
            f'({first_five(found)}), and there is nothing to learn or evaluate: write the numbers '
            f'of the classes, {min(classes)} to {max(classes)}, into them'
        )
    else:
        report.warnings += _number_warnings(report, dataset, counts, empty)


def _number_warnings(
    report: DatasetReport, dataset: BaseDataset, counts: ndarray, empty: list[str]
) -> Iterator[str]:
    key, first = report.keys[0], int(dataset.reduce_zero_label)
    classes, _ = _meaning(dataset)
    found = np.flatnonzero(counts[:IGNORED]).tolist()
    absent = [name for number, name in classes.items() if not counts[number]]
    explained = []
    if not first and found and found[0] > 0:
        explained = [classes[min(classes)]]
        yield (
            f'no pixel is 0 (the numbers are {found[0]} to {found[-1]}), and '
            f'reduce_zero_label=False makes 0 the class {classes[0]!r}: if the classes begin at 1, '
            f'set {key}.reduce_zero_label=True'
        )
    elif first and 0 in found and (counts[IGNORED] or found == list(range(len(classes)))):
        reason = f'the numbers 0 to {found[-1]} are one for each class'
        if counts[IGNORED]:
            reason = f'the label maps mark what is ignored by {IGNORED} already'
        explained = [classes[max(classes)]]
        yield (
            f'reduce_zero_label=True ignores 0, which has {counts[0] / counts.sum():.0%} of the '
            f'pixels, although {reason}: if 0 is a class, set {key}.reduce_zero_label=False'
        )
    if absent and absent != explained:
        meant = f'; {IGNORED} is ignored: if it is meant as one of them, write its number'
        yield (
            f'{len(absent)} of {len(classes)} classes have no pixel ({first_five(absent)}), and '
            f'cannot be learnt or evaluated here{meant if counts[IGNORED] else ""}'
        )
    share = report.pixels['ignored'] / report.pixels.total()
    if (share >= MANY and not explained) or empty:
        yield (
            f'{share:.0%} of the pixels are ignored, and {len(empty)} of {report.label_maps} label '
            f'maps as a whole ({first_five(empty)}): they teach and count nothing'
        )


def crop_errors(model: dict, dataset: dict, key: str) -> Iterator[InputError]:
    """Crops that mmseg fills up to the size of the data preprocessor with pixels to ignore.

    Args:
        model (dict): ``cfg.model``.
        dataset (dict): No wrapper.
        key (str): Where the config has the data set.
    """
    padded = to_2tuple((model.get('data_preprocessor') or {}).get('size'))
    for index, transform in enumerate(dataset.get('pipeline', ())):
        size = to_2tuple(transform.get('crop_size'))
        if None not in (*size, *padded) and tuple(size) != tuple(padded):
            yield InputError(
                f'{key}.pipeline.{index}.crop_size: {size[1]}x{size[0]} px is not the '
                f'{padded[1]}x{padded[0]} px of model.data_preprocessor.size, to which training '
                'images are filled up: set both to the same'
            )
