"""Names of classes, drawn whatever their letters."""

import logging

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData, PixelData

from castling_det.visualization import text
from castling_det.visualization.boxes import LegibleVisualizer
from castling_det.visualization.label_maps import LegendVisualizer

CLASSES = ('Straße', 'δρόμος', '屋顶')
PALETTE = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


@pytest.fixture(autouse=True)
def bare_machine(monkeypatch):
    """A machine with no font but matplotlib's."""
    monkeypatch.setattr(text, 'findSystemFonts', list)
    for each in (text.font_of, text.legible, text.families):
        each.cache_clear()
    yield
    for each in (text.font_of, text.legible, text.families):
        each.cache_clear()


def test_names_without_a_font_become_numbers_with_one_warning(caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert text.legible(CLASSES) == ('Straße', 'δρόμος', 'class 2')
    assert text.families(text.legible(CLASSES)) == ['DejaVu Sans']


def test_a_font_of_the_system_is_found(monkeypatch):
    monkeypatch.setattr(text, 'findSystemFonts', lambda: ['/no/font.ttf', '/fonts/cjk.ttc'])
    letters = {text.PLAIN: set(map(ord, 'abc')), '/fonts/cjk.ttc': set(map(ord, '屋顶'))}
    monkeypatch.setattr(text, '_letters_of', lambda font: letters.get(font, set()))
    assert text.font_of('ab c') == text.PLAIN
    assert text.font_of('屋 顶') == '/fonts/cjk.ttc'
    assert text.font_of('屋a') is None


def legend_of(name: str) -> np.ndarray:
    visualizer = LegendVisualizer(least_size=1)
    labels = PixelData(data=torch.zeros(1, 40, 60, dtype=torch.long))
    image = np.zeros((40, 60, 3), np.uint8)
    return visualizer._draw_sem_seg(image, labels, (name,), PALETTE)[:, 60:]


def boxes_of(name: str) -> np.ndarray:
    visualizer = LegibleVisualizer(least_size=1)
    boxes = InstanceData(bboxes=torch.tensor([[5.0, 25, 90, 70]]), labels=torch.tensor([0]))
    return visualizer._draw_instances(np.zeros((80, 99, 3), np.uint8), boxes, (name,), PALETTE)


@pytest.mark.parametrize('draw', [legend_of, boxes_of])
def test_letters_are_drawn_and_not_marks_in_their_place(draw):
    """Other letters, other pixels; without a font, those of the number."""
    assert not np.array_equal(draw('ß'), draw('δ'))
    assert not np.array_equal(draw('ß'), draw('?'))
    assert np.array_equal(draw('屋顶'), draw('class 0'))
