from families.fixtures import checkpoints, one_quiet_torch_thread

__all__ = ["checkpoints", "one_quiet_torch_thread"]
