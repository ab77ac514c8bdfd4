import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from castling_det.errors import InputError
from castling_det.hooks import CheckpointFitHook
from castling_det.hooks.checkpoint_fit_hook import refuse_other_checkpoints


class Toy(BaseModel):
    def __init__(self, classes=2):
        super().__init__()
        self.body = nn.Linear(3, 4)
        self.head = nn.Linear(4, classes)

    def forward(self, inputs, mode='tensor'):
        out = self.head(self.body(torch.stack(inputs)))
        return dict(loss=out.square().mean()) if mode == 'loss' else list(out)


class Count(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.extend(data_samples)

    def compute_metrics(self, results):
        return dict(count=len(results))


HOOKS_OF_CONFIG = (dict(type='EMAHook'), dict(type='CheckpointFitHook'))


def build_runner(work_dir, model, load_from=None, resume=False, custom_hooks=HOOKS_OF_CONFIG):
    dataloader = dict(
        dataset=[dict(inputs=torch.ones(3))] * 2,
        batch_size=2,
        sampler=dict(type='DefaultSampler'),
    )
    return Runner(
        model,
        work_dir=str(work_dir),
        train_dataloader=dataloader,
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        test_dataloader=dataloader,
        test_cfg=dict(),
        test_evaluator=[Count()],
        custom_hooks=list(custom_hooks),
        load_from=load_from and str(load_from),
        resume=resume,
        experiment_name=f'{work_dir.name}_{model.head.out_features}_{load_from}_{resume}',
    )


@pytest.fixture
def two_classes(tmp_path):
    """A checkpoint of the toy with two classes, after one of two epochs."""
    build_runner(tmp_path, Toy()).train()
    return tmp_path / 'epoch_1.pth'


def log_of(work_dir):
    return ''.join(path.read_text() for path in work_dir.glob('*/*.log'))


def test_counts_in_one_line(tmp_path, two_classes):
    build_runner(tmp_path / 'test', Toy(), two_classes).test()
    line = f'{two_classes}: 4 of 4 weights of the model filled\n'
    assert line in log_of(tmp_path / 'test')


MISFIT = (
    r'epoch_1\.pth does not fit Toy: head\.weight has \(2, 4\) where the model has \(5, 4\); '
    r'head\.bias has \(2,\) where the model has \(5,\); .*its num_classes too'
)


def test_other_number_of_classes_is_not_tested(tmp_path, two_classes):
    with pytest.raises(ValueError, match=MISFIT):
        build_runner(tmp_path / 'test', Toy(5), two_classes).test()


def test_other_number_of_classes_is_not_resumed(tmp_path, two_classes):
    with pytest.raises(ValueError, match=MISFIT):
        build_runner(tmp_path, Toy(5), two_classes, resume=True).train()


def test_other_number_of_classes_may_be_trained_from(tmp_path, two_classes):
    """And tested afterwards, by the same runner."""
    model = Toy(5)
    runner = build_runner(tmp_path / 'tune', model, two_classes)
    runner.train()
    line = f'{two_classes}: 2 of 4 weights of the model filled; 2 of heads are new (head)'
    assert line in log_of(tmp_path / 'tune')
    assert runner.test()['count'] == 2


def test_training_does_not_start_from_a_part_of_the_body(tmp_path, two_classes):
    weights = Toy().state_dict()
    for change in (
        weights | {'body.weight': torch.ones(3, 3)},
        {'head.bias': weights['head.bias']},
    ):
        torch.save(change, tmp_path / 'part.pth')
        with pytest.raises(InputError, match=r'part\.pth does not fit Toy: .*body'):
            build_runner(tmp_path / 'tune', Toy(), tmp_path / 'part.pth').train()


def test_weights_alone_are_nothing_to_go_on_with(tmp_path):
    path = tmp_path / 'bare.pth'
    torch.save(dict(state_dict=Toy().state_dict(), meta={}), path)
    with pytest.raises(InputError, match=r'no message_hub, optimizer\): .* load_from=FILE'):
        build_runner(tmp_path / 'go_on', Toy(), path, resume=True).train()


def test_zero_matches_is_an_error_in_any_use(tmp_path):
    path = tmp_path / 'other.pth'
    torch.save(dict(state_dict={'stem.weight': torch.ones(3)}), path)
    for use in ('train', 'test'):
        runner = build_runner(tmp_path / use, Toy(), path)
        with pytest.raises(ValueError, match=r'other\.pth is of another model'):
            getattr(runner, use)()


def test_bare_state_dict_reaches_model_and_average(tmp_path):
    path = tmp_path / 'bare.pth'
    torch.manual_seed(1)
    weights = Toy().state_dict()
    torch.save(weights, path)
    runner = build_runner(tmp_path / 'test', Toy(), path)
    runner.test()
    assert all(torch.equal(weights[key], value) for key, value in runner.model.state_dict().items())


@pytest.mark.parametrize('custom_hooks', [(), HOOKS_OF_CONFIG[:1], HOOKS_OF_CONFIG])
def test_config_without_the_hook_gets_it(tmp_path, custom_hooks):
    path = tmp_path / 'other.pth'
    torch.save(dict(state_dict={'stem.weight': torch.ones(3)}), path)
    runner = build_runner(tmp_path / 'test', Toy(), path, custom_hooks=custom_hooks)
    refuse_other_checkpoints(runner)
    assert sum(isinstance(hook, CheckpointFitHook) for hook in runner.hooks) == 1
    with pytest.raises(ValueError, match=r'other\.pth is of another model'):
        runner.test()


def test_registered_in_the_root_registry():
    assert HOOKS.get('CheckpointFitHook') is CheckpointFitHook
