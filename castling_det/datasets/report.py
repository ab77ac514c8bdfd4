"""What a check of a data set found."""

from collections import Counter
from dataclasses import dataclass, field

from castling_det.errors import InputError


@dataclass
class DatasetReport:
    """Counts, and one sentence for each thing that is wrong.

    Attributes:
        source: The annotation file.
        keys: Where the config has this data set, as ``val_dataloader.dataset``.
        images: Number of images.
        empty_images: Those of them without a box to learn or find.
        boxes: Boxes per class as they are written, dropped ones and crowd regions included.
        crowd: Crowd regions among the boxes.
        errors: What forbids a run; the text of each is one sentence with file, key and remedy.
        warnings: What a run lives with: how many, and what becomes of them.
    """

    source: str
    keys: list[str]
    images: int = 0
    empty_images: int = 0
    boxes: Counter[str] = field(default_factory=Counter)
    crowd: int = 0
    errors: list[InputError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f'{", ".join(self.keys)}: {self.source}']
        if self.images:
            lines.append(
                f'  {self.images} images ({self.empty_images} without a box), '
                f'{self.boxes.total()} boxes ({self.crowd} crowd)'
            )
            lines.append('  ' + ', '.join(f'{name} {n}' for name, n in self.boxes.items()))
        lines += [f'  warning: {warning}' for warning in self.warnings]
        lines += [f'  error: {error}' for error in self.errors]
        return '\n'.join(lines)
