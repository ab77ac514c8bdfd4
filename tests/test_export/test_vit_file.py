"""Castlified models of other libraries as ONNX files, against torch."""

import numpy as np
import pytest
import timm
import torch
import transformers
from torch import Tensor, nn

onnx = pytest.importorskip('onnx', reason="the extra 'export' is not installed")
onnxruntime = pytest.importorskip('onnxruntime')

from castling_det import castle, castlify  # noqa: E402
from castling_det.errors import InputError  # noqa: E402
from castling_det.export import vit_file  # noqa: E402
from castling_det.export.vit_file import export_vit  # noqa: E402


def randomised(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    return model.eval()


def vit(**options: object) -> nn.Module:
    sizes = dict(embed_dim=32, depth=1, num_heads=2, img_size=32, patch_size=8, num_classes=3)
    return randomised(timm.create_model('vit_tiny_patch16_224', **sizes, **options))


def transformers_vit() -> nn.Module:
    sizes = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    config = transformers.ViTConfig(image_size=32, patch_size=8, **sizes)
    return randomised(transformers.ViTModel(config, add_pooling_layer=False))


class Toy(nn.Module):
    """Nothing to castle, and quick to export."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean((2, 3)), x.square()


def image(height: int = 32, width: int = 32, batch: int = 1) -> Tensor:
    return torch.randn(
        batch, 3, height, width, generator=torch.Generator().manual_seed(height + width)
    )


def outputs(path, x: Tensor) -> dict[str, Tensor]:
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    values = map(torch.from_numpy, session.run(None, {'image': x.numpy()}))
    return dict(zip(names, values, strict=True))


def test_a_model_of_timm_in_training_gives_the_castled_function(tmp_path):
    """It stays as it is; on the grid of its positions and on others, one of them not square."""
    model, out = vit(dynamic_img_size=True), tmp_path / 'new' / 'vit.onnx'
    castlify(model, dict(type='CastlingAttention'))
    model.train()
    assert export_vit(model, image(), out) <= 1e-4
    assert model.training and isinstance(model.blocks[0].attn.castling.attn.aux, nn.Module)
    assert [file.name for file in out.parent.iterdir()] == ['vit.onnx']
    graph = onnx.load(out).graph
    assert not [node for node in graph.node if node.op_type == 'Softmax']
    dims = [d.dim_param or d.dim_value for d in graph.input[0].type.tensor_type.shape.dim]
    assert dims == ['batch', 3, 'height', 'width']
    castle(model.eval())
    for x in (image(32, 32, 3), image(24, 40, 2)):
        with torch.no_grad():
            expected = model(x)
        assert expected.std() > 0.01
        torch.testing.assert_close(outputs(out, x)['output'], expected, rtol=1e-4, atol=1e-4)


def test_options_and_names_of_transformers(tmp_path):
    """Of the published form; test_recording.py has the default, whose cells are of each grid."""
    model, out = transformers_vit(), tmp_path / 'vit.onnx'
    castlify(model, dict(type='CastlingAttention'))
    options = dict(interpolate_pos_encoding=True)
    export_vit(model, image(24, 40), out, options)
    shape = onnx.load(out).graph.output[0].type.tensor_type.shape.dim
    assert 'height' in shape[1].dim_param and 'width' in shape[1].dim_param
    for x in (image(32, 32, 2), image(56, 24)):
        with torch.no_grad():
            expected = castle(model)(x, **options).last_hidden_state
        got = outputs(out, x)['last_hidden_state']
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('error', [1e-3, np.nan])
def test_what_differs_from_torch_is_not_written(tmp_path, monkeypatch, error):
    out, honest, warned = tmp_path / 'toy.onnx', vit_file.session, []
    monkeypatch.setattr(vit_file.MMLogger, 'warning', lambda self, text: warned.append(text))
    export_vit(Toy(), image(), out)
    assert warned == [f'Toy was not castlified: it goes into {out} with its own attention']
    assert list(outputs(out, image())) == ['output_0', 'output_1']
    out.unlink()

    class Wrong:
        def __init__(self, model):
            self.run = lambda *args: [
                output + error * abs(output).max() for output in honest(model).run(*args)
            ]

    monkeypatch.setattr(vit_file, 'session', Wrong)
    with pytest.raises(InputError, match=r'toy\.onnx is not written: it differs .* 64x32, 32x64'):
        export_vit(Toy(), image(), out)
    assert not list(tmp_path.iterdir())


def test_models_of_one_size_and_other_outputs_are_refused(tmp_path):
    with pytest.raises(InputError, match='takes no image of 64x32 px .*dynamic_img_size=True'):
        export_vit(vit(), image(), tmp_path / 'vit.onnx')
    with pytest.raises(InputError, match='of 64x32 px .*interpolate_pos_encoding=True'):
        export_vit(transformers_vit(), image(), tmp_path / 'vit.onnx')
    options = dict(interpolate_pos_encoding=True, output_hidden_states=True)
    with pytest.raises(InputError, match='ViTModel gives hidden_states, which is no tensor'):
        export_vit(transformers_vit(), image(), tmp_path / 'vit.onnx', options)
    with pytest.raises(InputError, match='is a folder'):
        export_vit(vit(), image(), tmp_path)
    assert not list(tmp_path.iterdir())
