"""What can be wrong with images and their classes, each said in one sentence."""

from pathlib import Path

from mmengine.dataset import BaseDataset
from mmengine.fileio import list_dir_or_file

from castling_det.datasets.image_files import (
    check_images,
    first_five,
    missing_files,
    names_below,
    read_utf8,
)
from castling_det.datasets.loading import LoadReadableImage
from castling_det.datasets.report import DatasetReport


def check_classification(
    report: DatasetReport, dataset: BaseDataset, loading: LoadReadableImage, decode: bool
) -> None:
    """Check a ``CustomDataset`` of mmpretrain: a folder a class, or a list of files and numbers.

    Without labels (``with_label=False``) it has all images of a folder, or a list of files.

    Args:
        report (DatasetReport): Is filled; its first key is where the config has the data set.
        dataset (BaseDataset): Not initialised.
        loading (LoadReadableImage): How the pipeline loads images.
        decode (bool): Whether to decode all images, not a sample.

    Raises:
        InputError: If a list is no plain UTF-8.
    """
    key, folder = report.keys[0], Path(dataset.img_prefix)
    report.source = dataset.ann_file or str(folder)
    if not folder.is_dir():
        report.error(f'folder {folder} does not exist: set {key}.data_root and {key}.data_prefix')
    elif dataset.ann_file and not Path(dataset.ann_file).is_file():
        report.error(f'list {dataset.ann_file} does not exist: set {key}.ann_file')
    elif dataset.ann_file:
        lines = read_utf8(Path(dataset.ann_file)).splitlines()
        if report.labelled:
            _check_list(report, dataset, folder, lines)
    elif report.labelled:
        _check_folders(report, dataset, folder)
    elif not _num_images(dataset, folder):
        report.error(
            f'{folder} holds no image ({", ".join(dataset.extensions)}): set {key}.data_root and '
            f'{key}.data_prefix'
        )
    if report.errors:
        return
    names = names_below(folder, (image['img_path'] for image in dataset.load_data_list()))
    report.images = report.used = len(names)
    missing = missing_files(folder, names)
    if missing:
        report.error(
            f'{len(missing)} of {len(names)} images of {dataset.ann_file} are missing in {folder} '
            f'({first_five(missing)}): copy them there, or take them out of the list'
        )
        return
    check_images(report, folder, dict.fromkeys(names), loading, decode)


def _check_folders(report: DatasetReport, dataset: BaseDataset, folder: Path) -> None:
    """A class a folder, which mmpretrain numbers in alphabetical order."""
    key, classes = report.keys[0], dataset.metainfo['classes']
    folders = sorted(path.name for path in folder.iterdir() if path.is_dir())
    for name in folders:
        report.labels[name] = _num_images(dataset, folder / name)
    empty = [name for name, count in report.labels.items() if not count]
    numbers = {name: number for number, name in enumerate(folders)}
    if len(folders) != len(classes):
        more, fewer = (sorted(set(a) - set(b)) for a, b in ((folders, classes), (classes, folders)))
        without = f'; classes without a folder: {first_five(fewer)}' if fewer else ''
        beyond = f'; folders that are no class: {first_five(more)}' if more else ''
        report.error(
            f'{folder} has {len(folders)} folders, but {key}.metainfo has {len(classes)} classes'
            f'{without}{beyond}: let each class have one'
        )
    elif any(numbers.get(name, number) != number for number, name in enumerate(classes)):
        report.error(
            f'{key}.metainfo.classes is {tuple(classes)}, but folders are numbered in alphabetical '
            f'order: write {tuple(folders)}'
        )
    if empty:
        report.error(
            f'{first_five(empty)} in {folder} holds no image ({", ".join(dataset.extensions)}): '
            f'fill it, or take the class out of all splits and of {key}.metainfo.classes'
        )


def _num_images(dataset: BaseDataset, folder: Path) -> int:
    """How many mmpretrain reads, which leaves out hidden ones."""
    files = list_dir_or_file(folder, list_dir=False, recursive=True)
    return sum(map(dataset.is_valid_file, files))


def _check_list(
    report: DatasetReport, dataset: BaseDataset, folder: Path, lines: list[str]
) -> None:
    """Lines of a file name and the number of its class."""
    classes = dataset.metainfo['classes']
    for number, line in enumerate(lines, 1):
        name, _, label = line.strip().rpartition(' ')
        if not name or not label.isdigit() or int(label) >= len(classes):
            report.error(
                f'{dataset.ann_file}, line {number} is {line!r}: write an image below {folder}, a '
                f'space, and its class from 0 to {len(classes) - 1}'
            )
            return
        report.labels[classes[int(label)]] += 1
