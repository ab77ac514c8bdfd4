"""What can be wrong with images and their label maps, each said in one sentence. Needs mmcv."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.utils import to_2tuple
from numpy import ndarray
from PIL import Image, UnidentifiedImageError

from castling_det.configs import type_name
from castling_det.datasets.image_files import first_five, missing_files
from castling_det.datasets.loading import LoadReadableImage
from castling_det.datasets.report import DatasetReport
from castling_det.errors import InputError

SAMPLE = 32  # label maps that are read before every training
PATCH = 16  # of CastlingViT, in pixels
PALETTE_OR_GREY = ('P', 'L', '1')  # modes of Pillow that are one 8-bit number a pixel

ADVICE = {
    'unreadable image': (
        'images cannot be read: mend them, take them away, or train without them by '
        "LoadReadableImage(on_error='skip')"
    ),
    'unreadable label map': 'label maps cannot be read: write them again as 8-bit PNG',
    'not 8-bit': (
        'label maps are no 8-bit grey or palette images: write one class number a pixel (colours '
        'have to be translated to numbers, and numbers above 255 do not fit)'
    ),
    'other size': 'label maps have another size than their image: label that very image',
}


@dataclass
class LabelReport(DatasetReport):
    """What a check of a segmentation data set found.

    Attributes:
        checked: Number of label maps that were read.
        pixels: Of those, pixels by the number that the file holds.
        classes: Class of each number; a number without one is ignored.
    """

    checked: int = 0
    pixels: Counter[int] = field(default_factory=Counter)
    classes: dict[int, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f'{", ".join(self.keys)}: {self.source}']
        if self.images:
            lines.append(f'  {self.images} images, label maps of {self.checked} read')
        shares = Counter()
        for number, count in self.pixels.items():
            shares[self.classes.get(number, 'ignored')] += count / self.pixels.total()
        if shares:
            ranked = (f'{name} {share:.1%}' for name, share in shares.most_common())
            lines.append(f'  {", ".join(ranked)}')
        lines += [f'  warning: {warning}' for warning in self.warnings]
        lines += [f'  error: {error}' for error in self.errors]
        return '\n'.join(lines)


def check_segmentation(
    dataset: BaseDataset, key: str, decode: bool, color_type: str = 'color'
) -> LabelReport:
    """Check a mmseg data set for what makes its training fail, or fail silently.

    Folders are listed once; of the label maps and their images 32 are read, evenly spread, or all.
    A palette PNG is as good as a grey one.

    Args:
        dataset (BaseDataset): A ``BaseSegDataset``, not initialised.
        key (str): Where the config has it; errors name keys below it.
        decode (bool): Whether to read all images and label maps.
        color_type (str): How the pipeline loads images, see ``LoadReadableImage``.
    """
    folders = {name: dataset.data_prefix.get(name) for name in ('img_path', 'seg_map_path')}
    report = LabelReport(str(folders['seg_map_path']), [key])
    for name, folder in folders.items():
        if not folder or not Path(folder).is_dir():
            report.errors.append(
                InputError(
                    f'folder {folder} does not exist: set {key}.data_root and '
                    f'{key}.data_prefix.{name}'
                )
            )
    if dataset.ann_file and not Path(dataset.ann_file).exists():
        report.errors.append(
            InputError(f'list {dataset.ann_file} does not exist: set {key}.ann_file')
        )
    if report.errors:
        return report
    samples = dataset.load_data_list()
    report.images = len(samples)
    if not samples:
        report.errors.append(
            InputError(
                f'{folders["img_path"]} holds no *{dataset.img_suffix}: set {key}.img_suffix or '
                f'{key}.data_prefix.img_path'
            )
        )
        return report
    pairs = _complete_pairs(report, dataset, samples, key)
    if not decode and len(pairs) > SAMPLE:
        places = np.linspace(0, len(pairs) - 1, SAMPLE, dtype=int)
        pairs = [pairs[place] for place in places]
    report.errors += _read(report, pairs, color_type)
    _check_numbers(report, dataset, key)
    return report


def _complete_pairs(
    report: LabelReport, dataset: BaseDataset, samples: list[dict], key: str
) -> list[tuple[Path, Path]]:
    """Images with a label map, as paths; what misses its other half is reported."""
    folders = {name: Path(dataset.data_prefix[name]) for name in ('img_path', 'seg_map_path')}
    names, missing = {}, {}
    for name, folder in folders.items():
        names[name] = [str(Path(sample[name]).relative_to(folder)) for sample in samples]
        missing[name] = set(missing_files(folder, names[name]))
    for name, what in (('img_path', 'images'), ('seg_map_path', 'label maps')):
        if missing[name]:
            report.errors.append(
                InputError(
                    f'{len(missing[name])} of {len(samples)} {what} are missing in '
                    f'{folders[name]} ({first_five(sorted(missing[name]))}): copy them there, or '
                    f'set {key}.data_prefix.{name} to the folder that has them, and '
                    f'{key}.{"img" if name == "img_path" else "seg_map"}_suffix to their ending'
                )
            )
    labels = folders['seg_map_path']
    there = {str(path.relative_to(labels)) for path in labels.rglob(f'*{dataset.seg_map_suffix}')}
    unused = there.difference(names['seg_map_path'])
    if unused and not dataset.ann_file:
        report.warnings.append(
            f'{len(unused)} label maps have no image in {folders["img_path"]} '
            f'({first_five(sorted(unused))}): they are not used'
        )
    return [
        (folders['img_path'] / image, labels / label_map)
        for image, label_map in zip(names['img_path'], names['seg_map_path'], strict=True)
        if image not in missing['img_path'] and label_map not in missing['seg_map_path']
    ]


def _read(
    report: LabelReport, pairs: list[tuple[Path, Path]], color_type: str
) -> Iterator[InputError]:
    """Fill the counts of ``report``; yield one error for each kind of trouble."""
    load = LoadReadableImage(color_type=color_type)

    def read(pair: tuple[Path, Path]) -> tuple[str, str] | ndarray:
        image, labels = pair
        try:
            with Image.open(labels) as opened:
                if opened.mode not in PALETTE_OR_GREY:
                    return 'not 8-bit', f'{labels.name} is {opened.mode}'
                numbers = np.asarray(opened).astype(np.uint8)
        except (OSError, UnidentifiedImageError, SyntaxError):
            return 'unreadable label map', labels.name
        try:
            height, width = load(dict(img_path=str(image)))['img_shape']
        except InputError:
            return 'unreadable image', image.name
        if numbers.shape != (height, width):
            theirs = 'x'.join(map(str, numbers.shape[::-1]))
            return 'other size', f'{labels.name} is {theirs}, its image {width}x{height}'
        return np.bincount(numbers.ravel(), minlength=256)

    troubles = defaultdict(list)
    with ThreadPoolExecutor() as pool:
        for found in pool.map(read, pairs):
            if isinstance(found, tuple):
                troubles[found[0]].append(found[1])
            else:
                report.checked += 1
                numbers = np.flatnonzero(found).tolist()
                report.pixels.update({number: int(found[number]) for number in numbers})
    for kind, files in troubles.items():
        where = pairs[0][0].parent if kind == 'unreadable image' else report.source
        yield InputError(
            f'{where}: {len(files)} of the {len(pairs)} read {ADVICE[kind]} ({first_five(files)})'
        )


def _check_numbers(report: LabelReport, dataset: BaseDataset, key: str) -> None:
    """Compare the numbers in the label maps with the classes, ``reduce_zero_label`` in mind."""
    first = int(dataset.reduce_zero_label)
    if dataset.label_map is None:
        classes = dict(enumerate(dataset.metainfo['classes'], start=first))
    else:  # mmseg renumbers the classes of a subset and ignores the others
        known = dataset.METAINFO['classes']
        classes = {old + first: known[old] for old in dataset.label_map}
    report.classes = classes
    ignored = {dataset.ignore_index, 255} | ({0} if first else set())
    wrong = sorted(report.pixels.keys() - classes.keys() - ignored)
    found = sorted(report.pixels.keys() - {dataset.ignore_index, 255})
    zeros = report.pixels[0] / max(1, report.pixels.total())
    if wrong:
        remedy = f'set {key}.metainfo.classes or write these pixels as {dataset.ignore_index}'
        if not first and wrong == [len(classes)]:
            remedy = (
                f'0 has {zeros:.0%} of the pixels: if it means unlabelled and the classes begin at '
                f'1, set {key}.reduce_zero_label=True'
            )
        report.errors.append(
            InputError(
                f'{report.source}: the label maps hold {first_five(wrong)}, which are no class: '
                f'{len(classes)} classes are {min(classes)} to {max(classes)} with '
                f'reduce_zero_label={bool(first)}, {dataset.ignore_index} is ignored; {remedy}'
            )
        )
    elif first and 0 in found and (255 in report.pixels or found == list(range(len(classes)))):
        reason = f'the numbers 0 to {found[-1]} are one for each class'
        if 255 in report.pixels:
            reason = 'the label maps mark what is ignored by 255 already'
        report.warnings.append(
            f'reduce_zero_label=True ignores 0, which has {zeros:.0%} of the pixels, although '
            f'{reason}: if 0 is a class, set {key}.reduce_zero_label=False'
        )
    elif not first and found and 0 not in report.pixels:
        report.warnings.append(
            f'no pixel is 0 (the numbers are {found[0]} to {found[-1]}), and '
            f'reduce_zero_label=False makes 0 the class {classes[0]!r}: if the classes begin at 1, '
            f'set {key}.reduce_zero_label=True'
        )


def crop_errors(model: dict, dataset: dict, key: str) -> Iterator[InputError]:
    """What is wrong with the crops of a data set, as its model takes them.

    A plain ViT needs a whole patch, or two where a pyramid halves its map; mmseg fills a crop that
    is smaller than what the data preprocessor expects with pixels to ignore.

    Args:
        model (dict): ``cfg.model``. Its ``test_cfg.crop_size`` is looked at where windows slide.
        dataset (dict): No wrapper.
        key (str): Where the config has the data set.
    """
    sizes = {
        f'{key}.pipeline.{index}.crop_size': to_2tuple(transform['crop_size'])
        for index, transform in enumerate(dataset.get('pipeline', ()))
        if 'crop_size' in transform
    }
    padded = to_2tuple((model.get('data_preprocessor') or {}).get('size'))
    least, reason = 0, ''
    if type_name(model.get('backbone', {})) == 'CastlingViT':
        least, reason = PATCH, 'a patch'
        if model.get('neck'):
            least, reason = 2 * PATCH, 'the two patches that the coarsest level of a pyramid needs'
    windows = {}
    test_cfg = model.get('test_cfg') or {}
    if test_cfg.get('mode') == 'slide' and not key.startswith('train'):
        windows['model.test_cfg.crop_size'] = to_2tuple(test_cfg['crop_size'])
    for place, size in (sizes | windows).items():
        said = f'{place}: {size[1]}x{size[0]} px'
        if min(size) < least:
            yield InputError(f'{said} is smaller than {reason}: use sides of at least {least} px')
        elif place in sizes and None not in padded and tuple(size) != tuple(padded):
            yield InputError(
                f'{said} is not the {padded[1]}x{padded[0]} px of model.data_preprocessor.size, to '
                'which training images are filled up: set both to the same'
            )
