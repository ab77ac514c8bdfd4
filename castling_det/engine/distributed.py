"""Several processes: on GPUs as mmengine has them, and on CPUs, which mmengine leaves out."""

import atexit
import os

import torch
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.registry import MODEL_WRAPPERS
from torch import nn

from castling_det.errors import InputError


@MODEL_WRAPPERS.register_module()
class CPUDataParallel(MMDistributedDataParallel):
    """:class:`MMDistributedDataParallel` on CPUs, where synchronised batch norm does not exist.

    Args:
        module (nn.Module): Model; its synchronised batch norms become plain ones, which normalise
            by the images of their own process.
        device_ids (list[int], optional): What the Runner gives every wrapper; CPUs have no ids.
        find_unused_parameters (bool): As for torch. Defaults to False.
    """

    def __init__(
        self,
        module: nn.Module,
        device_ids: list[int] | None = None,
        find_unused_parameters: bool = False,
    ) -> None:
        super().__init__(
            revert_sync_batchnorm(module),
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=find_unused_parameters,
        )


def start_processes(cfg: Config) -> None:
    """Join the other processes where there is no GPU, before a Runner is built.

    mmengine picks a CUDA device before it joins them; where there is a GPU that is right, and
    nothing is done here. Without one, the group is joined by gloo and the model will be wrapped by
    :class:`CPUDataParallel`.

    Args:
        cfg (Config): Changed in place; ``launcher`` as for mmengine's Runner.

    Raises:
        InputError: If the processes were not started by the launcher, or if a launcher other than
            pytorch finds no GPU.
    """
    if cfg.launcher == 'none':
        return
    if cfg.launcher == 'pytorch' and 'RANK' not in os.environ:
        raise InputError('--launcher pytorch is set by tools/dist_train.sh and tools/dist_test.sh')
    if torch.cuda.is_available():
        return
    if cfg.launcher != 'pytorch':
        raise InputError(
            f'--launcher {cfg.launcher} needs GPUs; tools/dist_train.sh starts CPU processes'
        )
    torch.distributed.init_process_group('gloo')
    atexit.register(_leave_processes)
    cfg.sync_bn = None
    cfg.model_wrapper_cfg = dict(
        type='CPUDataParallel', find_unused_parameters=cfg.get('find_unused_parameters', False)
    )


def _leave_processes() -> None:
    """Before the interpreter ends: gloo's threads, which outlive it otherwise, can abort it."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def is_first_process() -> bool:
    """Whether this is the process that checks and reports for all, before they know each other."""
    ranks = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')
    return next((os.environ[name] for name in ranks if name in os.environ), '0') == '0'
