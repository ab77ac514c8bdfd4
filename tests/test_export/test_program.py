"""Programs of torch.export against mmdet's own way from an image to its boxes."""

import json

import numpy as np
import pytest
import torch

from castling_det.export import program
from castling_det.export.build import graphs


@torch.no_grad()
def test_program_runs_at_other_sizes_and_batches(detector, traced, tmp_path, pixels, monkeypatch):
    monkeypatch.setattr(program, 'trace', lambda graph, image: traced)
    out = tmp_path / 'new' / 'boxes.pt2'
    agreement = program.export_program(detector, out, shape=(96, 128))
    assert agreement.boxes < 1e-3 and agreement.scores < 1e-4
    extra = {'metadata.json': ''}
    loaded = torch.export.load(out, extra_files=extra).module()
    assert json.loads(extra['metadata.json'])['input_size'] == [96, 128]
    trained, _ = graphs(detector.model, decodes=True, half=False)
    for shape in ((3, 97, 143), (1, 200, 65)):
        image = torch.from_numpy(pixels(*shape)).permute(0, 3, 1, 2).float()
        for got, expected in zip(loaded(image), trained(image), strict=True):
            assert got.shape[0] == shape[0] and np.allclose(got, expected, atol=1e-3)


def test_programs_that_cannot_be_are_refused(detector, segmentor, tmp_path):
    with pytest.raises(ValueError, match='raw outputs or boxes'):
        program.export_program(detector, tmp_path / 'a.pt2', decode='nms')
    with pytest.raises(ValueError, match='longer than the coarsest stride, 64 px'):
        program.export_program(detector, tmp_path / 'a.pt2')
    with pytest.raises(ValueError, match='only detectors become programs of torch'):
        program.export_program(segmentor, tmp_path / 'a.pt2')
