"""The checks of a config's data sets that come before training: importing this needs mmdet."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence

from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from mmengine.registry import DATASETS, DefaultScope

from castling_det.configs import type_name, unwrap
from castling_det.datasets.coco_checks import check_coco
from castling_det.datasets.report import DatasetReport
from castling_det.datasets.seg_checks import check_segmentation, crop_errors
from castling_det.errors import InputError

SPLITS = ('train', 'val', 'test')


def check_datasets(
    cfg: Config, splits: Sequence[str] = SPLITS, decode: bool = False
) -> list[DatasetReport]:
    """Refuse data that would stop a run later on, and log what there is.

    Args:
        cfg (Config): Config with ``{split}_dataloader``; a split without one is left out.
        splits (Sequence[str]): Some of 'train', 'val' and 'test'.
        decode (bool): Whether to decode every image too. 5,000 of COCO take 18 to 42 s on two cores
            that are shared, extrapolated from 117 and 166 that were measured.

    Returns:
        list[DatasetReport]: As of :func:`report_datasets`, all without errors.

    Raises:
        InputError: If annotations or images are missing.
        InputError: If something else is wrong, with the data or with how the model takes them, or
            if no split has a data set; one sentence with file, key and remedy.
    """
    reports = report_datasets(cfg, splits, decode)
    errors = [error for report in reports for error in report.errors]
    if errors:
        more = f' (and {len(errors) - 1} more: see tools/check_dataset.py)' if errors[1:] else ''
        raise type(errors[0])(f'{errors[0]}{more}')
    for report in reports:
        level = logging.WARNING if report.warnings else logging.INFO
        print_log(str(report), logger='current', level=level)
    return reports


def report_datasets(
    cfg: Config, splits: Sequence[str] = SPLITS, decode: bool = False
) -> list[DatasetReport]:
    """Check each data set of a config, those inside of wrappers too; the same one only once.

    Arguments are those of :func:`check_datasets`.

    Raises:
        InputError: If no split has a data set.
    """
    if not any((cfg.get(f'{split}_dataloader') or {}).get('dataset') for split in splits):
        loaders = ' or '.join(f'{split}_dataloader.dataset' for split in splits)
        raise InputError(f'config {cfg.filename} has no {loaders}: there is nothing to check')
    checked: list[tuple[ConfigDict, DatasetReport]] = []
    for split in splits:
        loader = cfg.get(f'{split}_dataloader') or ConfigDict()
        for key, dataset in unwrap(loader.get('dataset'), f'{split}_dataloader.dataset'):
            same = [report for other, report in checked if other == dataset]
            if same:
                same[0].keys.append(key)
            else:
                checked.append((dataset, _report(cfg, dataset, key, decode)))
    reports = [report for _, report in checked]
    for split in splits:
        _check_evaluators(cfg, split, reports)
    return reports


def _report(cfg: Config, dataset: ConfigDict, key: str, decode: bool) -> DatasetReport:
    name = type_name(dataset)
    check = CHECKS.get(name)
    report = DatasetReport(str(dataset.get('ann_file', name)), [key])
    model = cfg.get('model', {})
    report.errors += crop_errors(model, dataset, key)
    if check is None or dataset.get('backend_args'):
        kinds = ' or '.join(CHECKS)
        report.warnings.append(f'a {name} is not checked: only a {kinds} on a local disk is')
        return report
    report.errors += _palette_errors(dataset.get('metainfo', {}), key)
    if report.errors:
        return report
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        built = DATASETS.build({**dataset, 'lazy_init': True, 'pipeline': []})  # reads no file yet
    loads = [step.color_type for step in dataset.get('pipeline', []) if 'color_type' in step]
    report = check(built, key, decode, *loads[:1])
    if not report.errors:
        report.errors += _class_count_errors(model, key, built.metainfo['classes'])
    return report


def _palette_errors(metainfo: dict, key: str) -> Iterator[InputError]:
    """A palette has a colour for each class; one from a base config may be another data set's."""
    classes, palette = metainfo.get('classes'), metainfo.get('palette')
    if palette and classes and not isinstance(classes, str) and len(palette) != len(classes):
        yield InputError(
            f'{key}.metainfo has {len(classes)} classes and a palette of {len(palette)} colours, '
            'perhaps of its base: write metainfo=dict(_delete_=True, classes=...)'
        )


def _class_count_errors(
    part: dict, dataset_key: str, classes: Sequence[str], key: str = 'model'
) -> Iterator[InputError]:
    """Heads, region proposals apart, and weights of classes fit the classes of the data."""
    if key.endswith('head') and part.get('num_classes', len(classes)) != len(classes):
        yield InputError(
            f'{key}.num_classes is {part["num_classes"]}, but {dataset_key} has {len(classes)} '
            f'classes, {tuple(classes)}: set num_classes, or metainfo.classes, to match'
        )
    weights = part.get('class_weight')
    if isinstance(weights, list) and key.endswith(('.loss_cls', '.loss_decode')):
        # A softmax over the classes of a box or a query has one more, for finding nothing.
        num_weights = len(classes) + (key.endswith('.loss_cls') and not part.get('use_sigmoid'))
        if len(weights) != num_weights:
            yield InputError(
                f'{key}.class_weight has {len(weights)} numbers, but with the {len(classes)} '
                f'classes of {dataset_key} there are to be {num_weights}'
            )
    for name, child in part.items():
        if isinstance(child, dict) and name != 'rpn_head':
            yield from _class_count_errors(child, dataset_key, classes, f'{key}.{name}')


def _check_coco(
    dataset: BaseDataset, key: str, decode: bool, color_type: str = 'color'
) -> DatasetReport:
    classes = dataset.metainfo['classes']
    if isinstance(classes, str):
        error = InputError(
            f'{key}.metainfo.classes is {classes!r}, a text and no existing file of names: write '
            f'a tuple, which for one class is ({classes!r},)'
        )
        return DatasetReport(dataset.ann_file, [key], errors=[error])
    if 'img' not in dataset.data_prefix:
        error = InputError(f"{key}.data_prefix has no img: write dict(img='folder/of/images/')")
        return DatasetReport(dataset.ann_file, [key], errors=[error])
    return check_coco(
        dataset.ann_file,
        dataset.data_prefix['img'],
        classes,
        key=key,
        test_mode=dataset.test_mode,
        decode=decode,
        color_type=color_type,
    )


CHECKS: dict[str, Callable[..., DatasetReport]] = {
    'CocoDataset': _check_coco,
    **dict.fromkeys(('BaseSegDataset', 'ADE20KDataset'), check_segmentation),
}


def _check_evaluators(cfg: Config, split: str, reports: list[DatasetReport]) -> None:
    """An evaluator that reads annotations must read those of the split's data."""
    evaluators = cfg.get(f'{split}_evaluator') or []
    read = {
        key: report
        for report in reports
        for key in report.keys
        if key.startswith(f'{split}_dataloader')
    }
    sources = {os.path.abspath(report.source) for report in read.values()}
    for evaluator in evaluators if isinstance(evaluators, list) else [evaluators]:
        ann_file = evaluator.get('ann_file')
        if read and ann_file and os.path.abspath(ann_file) not in sources:
            key, report = next(iter(read.items()))
            report.errors.append(
                InputError(
                    f'{split}_evaluator.ann_file is {ann_file}, but {key} reads {report.source}: '
                    'set both to the same file'
                )
            )
