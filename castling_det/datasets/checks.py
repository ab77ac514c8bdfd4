"""The checks of a config's data sets that come before training: importing this needs mmdet."""

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from mmengine.registry import DATASETS, DefaultScope

from castling_det.configs import evaluators_of, paths, type_name, unwrap
from castling_det.datasets.cls_checks import check_classification
from castling_det.datasets.coco_checks import check_coco
from castling_det.datasets.image_files import first_five
from castling_det.datasets.loading import LoadReadableImage
from castling_det.datasets.report import DatasetReport
from castling_det.datasets.seg_checks import check_segmentation, crop_errors
from castling_det.errors import InputError

SPLITS = ('train', 'val', 'test')
# mmseg takes a list of auxiliary heads too, and mmpretrain's preprocessor mixes labels.
HEAD = re.compile(r'(head(\.\d+)?|data_preprocessor)$')
LOSS = re.compile(r'\.loss_(cls|decode)(\.\d+)?$')


def check_datasets(
    cfg: Config, splits: Sequence[str] = SPLITS, decode: bool = False
) -> list[DatasetReport]:
    """Refuse data that would stop a run later on, and log what there is.

    Args:
        cfg (Config): Config with ``{split}_dataloader``; a split without one is left out.
        splits (Sequence[str]): Some of 'train', 'val' and 'test'.
        decode (bool): Whether to decode every image, not a sample: 5,000 of COCO take 18 to 42 s on
            two cores that are shared, extrapolated from 117 and 166 that were measured.

    Returns:
        list[DatasetReport]: As of :func:`report_datasets`, all without errors.

    Raises:
        InputError: If something is wrong with the data or with how the model takes them, or if no
            split has a data set; one sentence with file, key and remedy.
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
    checked: list[tuple[tuple[ConfigDict, str], DatasetReport]] = []
    for split in splits:
        use = _use(cfg, split)
        loader = cfg.get(f'{split}_dataloader') or ConfigDict()
        for key, dataset in unwrap(loader.get('dataset'), f'{split}_dataloader.dataset'):
            same = [report for other, report in checked if other == (dataset, use)]
            if same:
                same[0].keys.append(key)
            else:
                checked.append(((dataset, use), _report(cfg, dataset, key, use, decode)))
    reports = [report for _, report in checked]
    for split in splits:
        _check_evaluators(cfg, split, reports)
    _check_labels(reports)
    return reports


def _use(cfg: Config, split: str) -> str:
    """See ``DatasetReport.use``; a ``Dump...`` metric writes predictions too."""
    if split == 'train':
        return 'train'
    compared = [
        evaluator
        for evaluator in evaluators_of(cfg, split)
        if not evaluator.get('format_only') and not type_name(evaluator).startswith('Dump')
    ]
    return 'metric' if compared else 'prediction'


def _report(cfg: Config, dataset: ConfigDict, key: str, use: str, decode: bool) -> DatasetReport:
    name = type_name(dataset)
    check = CHECKS.get(name)
    report = DatasetReport(str(dataset.get('ann_file', name)), [key], use)
    model = cfg.get('model', {})
    report.errors += crop_errors(model, dataset, key)
    if check is None or dataset.get('backend_args'):
        kinds = ' or '.join(CHECKS)
        report.warnings.append(f'a {name} is not checked: only a {kinds} on a local disk is')
        return report
    report.errors += _path_errors(dataset, key)
    if report.errors:
        return report
    names = {key: value for key, value in dataset.get('metainfo', {}).items() if key != 'palette'}
    changes = dict(metainfo=names, lazy_init=True, pipeline=[])  # reads no file
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        try:
            built = DATASETS.build({**dataset, **changes})
        except ValueError as error:  # classes that are no subset of those of the type
            report.error(f'{key}: {error}')
            return report
    report.source = built.ann_file or built.data_prefix.get('seg_map_path') or report.source
    report.labelled = getattr(built, 'with_label', True)
    if report.labelled:
        report.errors += _class_errors(built, dataset, key)
    if report.errors:
        return report
    pipeline = dataset.get('pipeline', [])
    color_types = [step.color_type for step in pipeline if 'color_type' in step]
    skips = key.startswith('train') and any(step.get('on_error') == 'skip' for step in pipeline)
    loading = LoadReadableImage('skip' if skips else 'raise', *color_types[:1])
    if check is check_segmentation and any(type_name(s) == 'LoadAnnotations' for s in pipeline):
        report.use = 'train' if use == 'train' else 'metric'  # it needs label maps
    report.masks = any(step.get('with_mask') for step in pipeline)
    try:
        check(report, built, loading, decode)
    except InputError as error:
        report.errors.append(error)
    if report.labelled and not report.errors:
        report.errors += _head_errors(model, key, built.metainfo['classes'])
    return report


CHECKS: dict[str, Callable[..., None]] = {
    'CocoDataset': check_coco,
    **dict.fromkeys(('CustomDataset', 'ImageNet'), check_classification),
    **dict.fromkeys(('BaseSegDataset', 'ADE20KDataset'), check_segmentation),
}


def _path_errors(dataset: dict, key: str) -> Iterator[InputError]:
    prefix = dataset.get('data_prefix', {})
    prefix = prefix if isinstance(prefix, dict) else {'img_path': prefix}
    prefix = {f'data_prefix.{part}': path for part, path in prefix.items()}
    named = {name: dataset.get(name) for name in ('ann_file', 'data_root')}
    for name, path in {**named, **prefix}.items():
        if path is not None and not isinstance(path, str):
            yield InputError(
                f'{key}.{name} is {path!r}, and a data set takes one text: join several by '
                f"{key}=dict(_delete_=True, type='ConcatDataset', datasets=[dict(...), ...])"
            )


def _class_errors(built: BaseDataset, dataset: dict, key: str) -> Iterator[InputError]:
    """Classes are names, each once; a palette may be that of a base config's data set."""
    classes = built.metainfo.get('classes') or ()
    metainfo = dataset.get('metainfo', {})
    palette = metainfo.get('palette')
    counts = Counter(classes if 'classes' in metainfo else ())  # ImageNet has two cranes
    twice = [name for name, count in counts.items() if count > 1]
    if isinstance(classes, str):
        yield InputError(
            f'{key}.metainfo.classes is {classes!r}, a text and no existing file of names: write '
            f'a tuple, which for one class is ({classes!r},)'
        )
    elif not classes:
        yield InputError(f'{key}.metainfo has no classes: write metainfo=dict(classes=(...))')
    elif twice:
        yield InputError(
            f'{key}.metainfo.classes has {first_five(map(repr, twice))} more than once: write each '
            'name once, in the order of the numbers'
        )
    elif palette and len(palette) != len(classes):
        yield InputError(
            f'{key}.metainfo has {len(classes)} classes and a palette of {len(palette)} colours, '
            'perhaps of its base: write metainfo=dict(_delete_=True, classes=...)'
        )


def _head_errors(model: dict, dataset_key: str, classes: Sequence[str]) -> Iterator[InputError]:
    """Heads, region proposals apart, and weights of classes fit the classes of the data."""
    for key, part in paths(model, 'model.'):
        if not isinstance(part, dict) or '.rpn_head' in key:
            continue
        is_head = HEAD.search(key) is not None
        if is_head and part.get('num_classes', len(classes)) != len(classes):
            yield InputError(
                f'{key}.num_classes is {part["num_classes"]}, but {dataset_key} has {len(classes)} '
                f'classes, {tuple(classes)}: set num_classes, or metainfo.classes, to match'
            )
        losses = part.get('loss_decode', {})
        losses = losses if isinstance(losses, list) else [losses]
        softmax = [loss for loss in losses if not loss.get('use_sigmoid')]
        if is_head and part.get('out_channels') == 1 and softmax:
            yield InputError(
                f'{key}.out_channels is 1, of which a softmax learns nothing: take it away, or set '
                f'{key}.loss_decode.use_sigmoid=True'
            )
        weights = part.get('class_weight')
        if isinstance(weights, list) and LOSS.search(key):
            # A softmax over the classes of a box or a query has one more, for finding nothing.
            num_weights = len(classes) + ('loss_cls' in key and not part.get('use_sigmoid'))
            if len(weights) != num_weights:
                yield InputError(
                    f'{key}.class_weight has {len(weights)} numbers, but with the {len(classes)} '
                    f'classes of {dataset_key} there are to be {num_weights}'
                )


def _check_labels(reports: list[DatasetReport]) -> None:
    """Folders of one number in two splits are of one name."""
    labelled = [report for report in reports if report.labels and not report.errors]
    for report in labelled[1:]:
        first = labelled[0]
        differing = set(report.labels) ^ set(first.labels)
        if differing:
            report.error(
                f'{report.source} and {first.source} have different classes '
                f'({first_five(sorted(differing))}): let both have the same folders'
            )


def _check_evaluators(cfg: Config, split: str, reports: list[DatasetReport]) -> None:
    """An evaluator that reads annotations must read those of the split's data."""
    read = {
        key: report
        for report in reports
        for key in report.keys
        if key.startswith(f'{split}_dataloader') and not report.errors
    }
    sources = {os.path.abspath(report.source) for report in read.values()}
    for evaluator in evaluators_of(cfg, split):
        ann_file = evaluator.get('ann_file')
        if read and ann_file and os.path.abspath(ann_file) not in sources:
            key, report = next(iter(read.items()))
            report.error(
                f'{split}_evaluator.ann_file is {ann_file}, but {key} reads {report.source}: '
                'set both to the same file'
            )
