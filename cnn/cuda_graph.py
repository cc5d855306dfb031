"""Training steps as CUDA graphs. On a GPU, launching the kernels of these small networks takes longer than the work."""

import torch


class Replay:
    """``replay(kind, given)`` returns ``work(given)``; ``kind`` decides the shape and meaning of the tensor ``given``.

    On CUDA the first call of a kind runs directly, which allocates lasting memory such as the optimizer's state and the
    libraries' workspaces. The second call is captured as a CUDA graph. Later calls replay it on the same memory, so
    that each overwrites the result of the one before. On other devices every call runs directly.

    ``work`` must read nothing from the device. Everything that changes between two calls of a kind must lie in tensors
    that keep their memory.
    """

    def __init__(self, work, device: torch.device):
        self.work, self.device = work, device
        self.begun: set = set()
        self.graphs: dict = {}

    def __call__(self, kind, given: torch.Tensor):
        if kind not in self.graphs:
            there = given.to(self.device)
            if self.device.type != "cuda" or kind not in self.begun:
                self.begun.add(kind)
                return self.work(there)
            self._capture(kind, there)
        graph, there, result = self.graphs[kind]
        there.copy_(given, non_blocking=True)
        graph.replay()
        return result

    def _capture(self, kind, there: torch.Tensor) -> None:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = self.work(there)
        self.graphs[kind] = graph, there, result
