from .castling_hook import CastlingHook, linear_ramp

__all__ = ['CastlingHook', 'linear_ramp']
