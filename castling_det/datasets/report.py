"""What a check of a data set found."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from castling_det.errors import InputError

FEW = 10  # boxes of a class that a metric needs at the very least


@dataclass
class DatasetReport:
    """Counts, and one sentence for each thing that is wrong.

    Attributes:
        source: The annotation file, or the folder of label maps.
        keys: Where the config has this data set, as ``val_dataloader.dataset``.
        use: What it is for: 'train'; 'metric', where annotations are compared with predictions; or
            'prediction', where predictions are written and annotations may be missing.
        images: Number of images.
        used: Those of them that ``filter_cfg`` leaves.
        empty_images: Those of them without a box to learn or find.
        boxes: Boxes per class as they are written, dropped ones and crowd regions included.
        crowd: Crowd regions among the boxes.
        masks: Whether the pipeline loads the masks of boxes.
        labelled: Whether the images have labels, which pretraining does without.
        labels: Images by class or its folder, of a classification set.
        label_maps: Number of label maps that were read.
        pixels: Their pixels by class, and 'ignored' ones.
        errors: What forbids a run; the text of each is one sentence with file, key and remedy.
        warnings: What a run lives with: how many, and what becomes of them.
    """

    source: str
    keys: list[str]
    use: Literal['train', 'metric', 'prediction'] = 'train'
    images: int = 0
    used: int = 0
    empty_images: int = 0
    boxes: Counter[str] = field(default_factory=Counter)
    crowd: int = 0
    masks: bool = False
    labelled: bool = True
    labels: Counter[str] = field(default_factory=Counter)
    label_maps: int = 0
    pixels: Counter[str] = field(default_factory=Counter)
    errors: list[InputError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def error(self, message: str) -> None:
        """Add an error."""
        self.errors.append(InputError(message))

    @property
    def without_annotations(self) -> str:
        """The end of an error about missing annotations: what a test set without them needs."""
        if not self.keys[0].startswith('test_dataloader'):
            return ''
        return (
            '; to write predictions without a metric set test_evaluator.format_only=True (and its '
            'outfile_prefix or output_dir), and load no label maps in the pipeline'
        )

    def __str__(self) -> str:
        lines = [f'{", ".join(self.keys)}: {self.source}', *self._counts()]
        lines += [f'  warning: {warning}' for warning in self.warnings]
        lines += [f'  error: {error}' for error in self.errors]
        return '\n'.join(lines)

    def _counts(self) -> list[str]:
        if not self.images:
            return []
        images = f'  {self.images} images'
        if not self.labelled:
            return [f'{images} without labels']
        if self.labels:
            return [images, '  ' + ', '.join(f'{name} {n}' for name, n in self.labels.items())]
        if self.label_maps:
            total = max(1, self.pixels.total())
            shares = (f'{name} {count / total:.1%}' for name, count in self.pixels.most_common())
            return [f'{images}, {self.label_maps} label maps', f'  {", ".join(shares)}']
        if self.use == 'prediction':
            what = 'boxes' if self.boxes else 'label maps'
            return [f'{images}, {self.boxes.total()} {what}: no metric']
        left_out = f', {self.used} used' if self.used != self.images else ''
        lines = [
            f'{images} ({self.empty_images} without a box{left_out}), '
            f'{self.boxes.total()} boxes ({self.crowd} crowd)',
            '  ' + ', '.join(f'{name} {count}' for name, count in self.boxes.items()),
        ]
        rare = [name for name, count in self.boxes.items() if 0 < count < FEW]
        if self.use == 'metric' and rare:
            lines.append(
                f'  fewer than {FEW} boxes: {", ".join(rare)}; their AP is luck, and counts in mAP '
                'as much as that of any other class'
            )
        return lines
