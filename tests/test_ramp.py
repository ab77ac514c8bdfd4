"""The curves of the ramp, and who sets it without mmengine's Runner: the blocks of the page run."""

import itertools
import math
import re
import textwrap
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import castling_det
from castling_det import Ramp
from castling_det.errors import InputError
from castling_det.models import SelfAttention
from castling_det.ramp import CURVES, linear_ramp

PAGE = Path(__file__).parents[1] / 'docs' / 'python-api.md'
IN_20 = [min(1.0, i / 18) for i in range(20)]


class Toy(nn.Module):
    """One castling attention; it keeps the ramp of every training iteration."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = SelfAttention(8, 2), nn.Linear(8, 1)
        self.ramps = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.ramps.append(self.block.attn.ramp)
        return self.head(self.block(x)).mean((1, 2))


def images(count: int) -> list[Tensor]:
    return list(torch.randn(count, 6, 8, generator=torch.Generator().manual_seed(0)))


def run_block(word: str, **names: object) -> dict:
    """The block of the page that has the word, and what it defines."""
    found = re.findall(r'(?:^    .*\n|^\n(?=    ))+', PAGE.read_text(), re.MULTILINE)
    (block,) = (each for each in found if word in each)
    names.update(castling_det=castling_det)
    exec(textwrap.dedent(block), names)
    return names


@pytest.mark.parametrize(
    ('curve', 'progress', 'ramp'),
    [
        ('linear', 0.0, 0.0),
        ('linear', 0.2, 0.0),
        ('linear', 0.35, 0.25),
        ('linear', 0.8, 1.0),
        ('linear', 1.0, 1.0),
        ('cosine', 0.2, 0.0),
        ('cosine', 0.4, 0.25),
        ('cosine', 0.5, 0.5),
        ('cosine', 0.35, 0.5 - math.sqrt(0.125)),
        ('cosine', 0.8, 1.0),
        ('cosine', 0.9, 1.0),
        ('step', 0.2, 0.0),
        ('step', 0.79, 0.0),
        ('step', 0.8, 1.0),
        ('constant', 0.0, 0.0),
        ('constant', 1.0, 0.0),
    ],
)
def test_curves_from_0_2_to_0_8(curve, progress, ramp):
    assert CURVES[curve](progress, 0.8, 0.2) == pytest.approx(ramp, abs=1e-12)


@pytest.mark.parametrize('curve', ['linear', 'cosine', 'step'])
@pytest.mark.parametrize('max_iters', [10, 70, 160_000, 234_567])
def test_ramp_is_exactly_1_for_the_last_tenth(max_iters, curve):
    ramp, first = CURVES[curve], -(-9 * max_iters // 10)
    assert all(ramp(i / max_iters, 0.9) == 1 for i in range(first, max_iters, 7))
    assert all(ramp(i / max_iters, 0.9, 0.3) == 1 for i in range(first, max_iters, 7))
    assert ramp((first - 1) / max_iters, 0.9) < 1


def test_linear_ramp_begins_at_0_by_default():
    assert linear_ramp(0.45, 0.9) == pytest.approx(0.5)


def test_plain_loop():
    model = Toy()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    names = dict(model=model, optimizer=optimizer, itertools=itertools)
    run_block('optimizer.step()', loader=DataLoader(images(10), 2), num_epochs=4, **names)
    assert model.ramps == pytest.approx(IN_20)


def test_accelerate():
    accelerate = pytest.importorskip('accelerate')
    accelerator = accelerate.Accelerator(cpu=True)
    model = Toy()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapped, optimizer, loader = accelerator.prepare(model, optimizer, DataLoader(images(40), 2))
    ramp = Ramp(wrapped, total=len(loader))
    for iteration, batch in enumerate(loader):
        ramp.step(iteration)
        optimizer.zero_grad()
        accelerator.backward(wrapped(batch).mean())
        optimizer.step()
    assert model.ramps == pytest.approx(IN_20)


def test_transformers_trainer(tmp_path):
    pytest.importorskip('accelerate')
    transformers = pytest.importorskip('transformers')
    callback = run_block('TrainerCallback', transformers=transformers)['RampCallback']()

    class Trainer(transformers.Trainer):
        def compute_loss(self, model, inputs, **kwargs):
            return model(inputs['x']).mean()

    options = dict(num_train_epochs=4, per_device_train_batch_size=2, use_cpu=True, report_to=[])
    Trainer(
        model=Toy(),
        args=transformers.TrainingArguments(str(tmp_path), disable_tqdm=True, **options),
        train_dataset=[dict(x=x) for x in images(10)],
        callbacks=[callback],
    ).train()
    assert callback.ramp.model.ramps == pytest.approx(IN_20)


def test_lightning(tmp_path):
    lightning = pytest.importorskip('pytorch_lightning')
    callback = run_block('pytorch_lightning', pytorch_lightning=lightning)['RampCallback']()

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.toy = Toy()

        def training_step(self, batch, batch_idx):
            return self.toy(batch).mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    module = Module()
    quiet = dict(logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer = lightning.Trainer(
        accelerator='cpu',
        max_epochs=4,
        default_root_dir=tmp_path,
        enable_checkpointing=False,
        callbacks=[callback],
        **quiet,
    )
    trainer.fit(module, DataLoader(images(10), 2))
    assert module.toy.ramps == pytest.approx(IN_20)


def test_begin_end_and_the_model_without_aux():
    model = nn.DataParallel(Toy())
    ramp = Ramp(model, total=200, end=0.5, curve='cosine', begin=0.1)
    assert [ramp.step(i) for i in (0, 20, 60, 100, 199)] == pytest.approx([0, 0, 0.5, 1, 1])
    assert model.module.block.attn.ramp == 1
    castling_det.castle(model)
    assert ramp.step(60) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(total=0), 'iterations of the training, not total=0'),
        (dict(total=10, curve='quadratic'), "curve is one of .*'cosine'.*, not 'quadratic'"),
        (dict(total=10, end=0.5, begin=0.5), 'begin < end, not 0.5 and 0.5'),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Ramp(Toy(), **arguments)
