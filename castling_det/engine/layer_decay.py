"""Layer-wise learning rates: the nearer to the input, the smaller the steps."""

from mmengine.logging import MMLogger
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from castling_det.errors import InputError

_NEVER_DECAYED = (
    'pos_embed',
    'cls_token',
    'reg_token',
    'dist_token',
    'bias.table',
    'rel_pos_h',
    'rel_pos_w',
)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Scale the learning rate of layer i of L by ``layer_decay_rate`` ** (L - 1 - i).

    The backbone says which layer a parameter belongs to (``get_layer_depth``, as in mmpretrain);
    what stands behind the backbone is in the last layer and keeps its learning rate. Norms, biases
    and all else of one dimension, positions, class tokens and logit biases have no weight decay.
    MAE (arXiv 2111.06377) fine-tunes ViT-B so with the rate 0.65::

        optim_wrapper = dict(
            constructor='LayerDecayOptimWrapperConstructor',
            paramwise_cfg=dict(layer_decay_rate=0.65),
            optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05))

    Args:
        optim_wrapper_cfg (dict): As mmengine's constructor takes it; its ``optimizer`` has ``lr``.
        paramwise_cfg (dict): ``layer_decay_rate``, above 0 and at most 1, and what else mmengine's
            constructor knows (``custom_keys``, ...), to which the two rules above are applied.

    Raises:
        InputError: For a missing ``lr`` or ``layer_decay_rate``, for a rate that is none, and for a
            model whose backbone has no ``get_layer_depth``.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        self.rate = self.paramwise_cfg.get('layer_decay_rate')
        if self.rate is None or not 0 < self.rate <= 1:
            raise InputError(
                f'{type(self).__name__} needs paramwise_cfg=dict(layer_decay_rate=RATE), '
                f'RATE above 0 and at most 1, but got {self.rate}'
            )
        if self.base_lr is None:
            raise InputError(f'{type(self).__name__} needs the lr in optim_wrapper.optimizer')

    def add_params(
        self,
        params: list[dict],
        module: nn.Module,
        prefix: str = '',
        is_dcn_module: bool | None = None,
    ) -> None:
        """Let mmengine make the groups, one a parameter; of the whole model, set them by layer."""
        super().add_params(params, module, prefix, is_dcn_module)
        if prefix:  # a child: mmengine's method calls this one for each
            return
        backbone = getattr(module, 'backbone', None)
        if not hasattr(backbone, 'get_layer_depth'):
            raise InputError(
                f'layer-wise learning rates need a backbone with get_layer_depth, as CastlingViT '
                f'is, but {type(module).__name__}.backbone is {type(backbone).__name__}'
            )
        names = {parameter: name for name, parameter in module.named_parameters()}
        for group in params:
            (parameter,) = group['params']
            layer, num_layers = backbone.get_layer_depth(names[parameter], 'backbone.')
            group['lr'] = group.get('lr', self.base_lr) * self.rate ** (num_layers - 1 - layer)
            if parameter.ndim == 1 or names[parameter].endswith(_NEVER_DECAYED):
                group['weight_decay'] = 0.0
        rates = sorted(group['lr'] for group in params)
        MMLogger.get_current_instance().info(
            f'layer-wise lr: {rates[0]:.3g} to {rates[-1]:g}, layer_decay_rate {self.rate:g}'
        )
