"""Work on a GPU, launched once for all: these networks' steps take less time there than launching their kernels."""

import torch


class Replay:
    """``replay(kind, given)`` is ``work(given)``, for a tensor ``given`` whose shape and meaning ``kind`` decides.

    On CUDA the first of a kind is done as it is, which leaves what lasts in its place: the optimizer's state, the
    libraries' workspaces. The second is captured as a CUDA graph, and from then on that is played, on the same memory:
    what comes back is overwritten by the next. Elsewhere every one is done as it is. ``work`` must read nothing from
    the device, and everything that changes between two of a kind must lie in tensors that stay where they are.
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
