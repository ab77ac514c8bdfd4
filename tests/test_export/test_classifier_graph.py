"""A classifier's file against mmpretrain's own way from an image to its scores."""

import numpy as np
import pytest
import torch

pytest.importorskip('onnxruntime')

from castling_det.errors import InputError  # noqa: E402
from castling_det.export.build import graphs  # noqa: E402
from castling_det.export.onnx_file import export_onnx  # noqa: E402
from castling_det.inference.exported_model import ExportedModel  # noqa: E402
from castling_det.models.attention import CastlingAttention  # noqa: E402


def test_file_gives_the_scores_of_the_test(classifier, pixels, tmp_path):
    """Which resizes the short side and cuts the centre out."""
    agreement = export_onnx(classifier, tmp_path / 'a.onnx')
    assert agreement.scores < 1e-5
    exported = ExportedModel(tmp_path / 'a.onnx')
    assert exported.classes == classifier.classes
    for size in ((150, 211), (211, 150), (40, 97)):
        (expected,), (found,) = (each(pixels(1, *size)) for each in (classifier, exported))
        expected, found = expected['probabilities'], found['probabilities']
        assert expected.std() > 0.05 and abs(expected.sum() - 1) < 1e-5
        assert np.allclose(found, expected, atol=1e-4)


@torch.no_grad()
def test_shipped_graph_is_castled_and_folded(classifier, pixels):
    trained, shipped = graphs(classifier.model, decodes=False, half=False)
    attentions = [m for m in shipped.modules() if isinstance(m, CastlingAttention)]
    assert attentions and not any(module.aux for module in attentions)
    assert not any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in shipped.modules())
    image = torch.from_numpy(pixels(2, 90, 131)).permute(0, 3, 1, 2).float()
    (logits,), (expected,) = shipped(image), trained(image)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    trained.decodes = True
    torch.testing.assert_close(trained(image)[0], expected.softmax(dim=1))
    _, half = graphs(classifier.model, decodes=True, half=True)
    assert {each.dtype for each in half.model.parameters()} == {torch.float16}
    torch.testing.assert_close(half(image)[0], trained(image)[0], atol=0.02, rtol=0)


def test_heads_of_another_kind_are_refused(classifier, monkeypatch):
    monkeypatch.setattr(classifier.model, 'head', torch.nn.Identity())
    with pytest.raises(InputError, match='softmax of their logits .* with Identity'):
        graphs(classifier.model, decodes=True, half=False)
