"""Mechanisms that each break one rule, and the honest one that they are made from.

Every liar names the checks that must reject it (``caught_by``); all other checks must not. Not registered:
``SPECS`` holds what the registry would.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from attnbench import ImplementationError, MechanismSpec, Site
from attnbench.registry import Facts

SPECS: dict[str, MechanismSpec] = {}
CAUGHT_BY: dict[str, tuple[str, ...]] = {}


def liar(
    *caught_by: str, pattern: str = "static", impls: Sequence[str] = ("eager",)
) -> Callable[[type], type]:
    def enter(cls: type) -> type:
        facts = Facts(title=cls.__name__, pattern=pattern, impls=tuple(impls))
        SPECS[cls.__name__] = MechanismSpec(cls.__name__, facts, __file__, lambda: cls)
        CAUGHT_BY[cls.__name__] = caught_by
        return cls

    return enter


@liar()
class Honest(nn.Module):
    """Attention in windows of 7 × 7: dense, under a mask, on a padded map."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.dim, self.shift = site.dim, 0
        self.qkv, self.proj = nn.Linear(site.dim, 3 * site.dim), nn.Linear(site.dim, site.dim)

    def forward(self, x: Tensor) -> Tensor:
        _, H, W, _ = x.shape
        qkv = self.pad(self.qkv(x))
        q, k, v = qkv.flatten(1, 2).chunk(3, dim=-1)
        label = self.labels(H, W, x.device)
        logits = (q @ k.transpose(1, 2)) * self.dim**-0.5
        logits = logits.masked_fill(label[:, None] != label[None, :], float("-inf"))
        out = self.crop((self.weights(logits) @ v).view(*qkv.shape[:3], self.dim), H, W)
        return self.finish(self.proj(out), x)

    def pad(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x, (0, 0, 0, -x.shape[2] % 7, 0, -x.shape[1] % 7))

    def crop(self, x: Tensor, height: int, width: int) -> Tensor:
        return x[:, :height, :width]

    def window(self, size: int, device: torch.device) -> Tensor:
        """Window of each place of a padded axis."""
        return (torch.arange(size + -size % 7, device=device) + self.shift) // 7

    def labels(self, height: int, width: int, device: torch.device) -> Tensor:
        """Window of each token of the padded map; −1 for padding."""
        rows, columns = self.window(height, device), self.window(width, device)
        label = rows[:, None] * 1000 + columns
        real = (torch.arange(len(rows), device=device) < height)[:, None]
        real = real & (torch.arange(len(columns), device=device) < width)
        return torch.where(real, label, -1).flatten()

    def weights(self, logits: Tensor) -> Tensor:
        return logits.softmax(dim=-1)

    def finish(self, out: Tensor, x: Tensor) -> Tensor:
        return out

    def macs(self, height: int, width: int) -> dict[str, int]:
        padded = (height + -height % 7) * (width + -width % 7)
        return {"projection": 4 * height * width * self.dim**2, "attention": 2 * padded**2 * self.dim}

    def parameter_count(self) -> int:
        return 4 * self.dim**2 + 4 * self.dim

    def support(self, height: int, width: int) -> Tensor:
        rows, columns = ((torch.arange(n) + self.shift) // 7 for n in (height, width))
        label = (rows[:, None] * 1000 + columns).flatten()
        return label[:, None] == label[None, :]


@liar("support")
class ShiftMaskForgotten(Honest):
    """Rolls the map to shift its windows, and lets the opposite borders that meet attend to each other."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.shift = 3 * (site.block % 2)

    def window(self, size: int, device: torch.device) -> Tensor:
        place = torch.arange(size + -size % 7, device=device)
        return (place + self.shift) % len(place) // 7


@liar("support")
class WrongAxis(Honest):
    """Says that it attends along rows, and attends along columns."""

    def labels(self, height: int, width: int, device: torch.device) -> Tensor:
        column = torch.arange(width + -width % 7, device=device).repeat(height + -height % 7)
        return torch.where(super().labels(height, width, device) < 0, -1, column)

    def support(self, height: int, width: int) -> Tensor:
        row = torch.arange(height).repeat_interleave(width)
        return row[:, None] == row[None, :]


@liar("batch_independence")
class BatchLeak(Honest):
    """Adds a little of the mean of the batch."""

    def finish(self, out: Tensor, x: Tensor) -> Tensor:
        return out + 0.01 * out.mean(0, keepdim=True)


@liar("batch_independence", pattern="query")
class RoutesByAnotherImage(Honest):
    """Each query attends to the best tenth of its keys, as found for the image before it in the batch."""

    def weights(self, logits: Tensor) -> Tensor:
        other = logits.detach().roll(1, 0).float()
        worse = other < other.quantile(0.9, dim=-1, keepdim=True)
        own = torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device)
        return logits.masked_fill(worse & ~own, float("-inf")).softmax(dim=-1)


@liar("padding_on_one_axis")
class CropsByMinusZero(Honest):
    """Removes padding by a negative index, which is 0 along an axis that has none."""

    def crop(self, x: Tensor, height: int, width: int) -> Tensor:
        bottom, right = -height % 7, -width % 7
        return x[:, :-bottom, :-right] if bottom or right else x


@liar("no_state_between_calls")
class CountsItsCalls(Honest):
    """Adds to its output how often it was called."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.register_buffer("calls", torch.zeros(()))

    def finish(self, out: Tensor, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return out + 0.01 * self.calls


@liar("operators_counted")
class UncountedOperator(Honest):
    """Multiplies by a matrix in an operator of its own, which no counter sees into."""

    def finish(self, out: Tensor, x: Tensor) -> Tensor:
        return out + hidden_product(out, torch.eye(self.dim, dtype=out.dtype, device=out.device))


@torch.library.custom_op("attnbench_liars::product", mutates_args=())
def hidden_product(x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight


@hidden_product.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _hidden_gradient(context: object, gradient: Tensor) -> tuple[Tensor, None]:
    return gradient, None  # of the product with the identity


hidden_product.register_autograd(_hidden_gradient)


@liar("macs_equal_counted")
class CountsOneProduct(Honest):
    """Forgets the product with the values in its formula."""

    def macs(self, height: int, width: int) -> dict[str, int]:
        macs = super().macs(height, width)
        return {**macs, "attention": macs["attention"] // 2}


@liar("backward_macs_equal_counted")
class CountsBackwardAsForward(Honest):
    """Says that the gradients cost what the output costs."""

    def macs_backward(self, height: int, width: int) -> dict[str, int]:
        return self.macs(height, width)


@liar("parameter_count")
class ForgetsBiases(Honest):
    """Declares the weights without the biases."""

    def parameter_count(self) -> int:
        return 4 * self.dim**2


@liar("parameters_used")
class UnusedParameter(Honest):
    """Has a parameter that plays no part."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.gate = nn.Parameter(torch.zeros(site.dim))

    def parameter_count(self) -> int:
        return super().parameter_count() + self.dim


@liar("parameters_used")
class ParameterTimesZero(UnusedParameter):
    """Adds its unused parameter, times zero, so that it has a gradient."""

    def finish(self, out: Tensor, x: Tensor) -> Tensor:
        return out + 0 * self.gate


@liar("executed_implementation", impls=("fast", "eager"))
class FallsBackAndSaysSo(Honest):
    """Has no fast implementation here, and silently is eager."""

    def __init__(self, site: Site, *, impl: str = "eager") -> None:
        super().__init__(site)
        self.impl = "eager"


@liar("executed_implementation", impls=("fast", "eager"))
class FallsBackAndHidesIt(Honest):
    """Says that it runs the fast implementation, and runs eager."""

    def __init__(self, site: Site, *, impl: str = "eager") -> None:
        super().__init__(site)
        self.impl = impl


@liar("implementations_equal", impls=("fast", "eager", "absent"))
class FasterIsDifferent(Honest):
    """Its fast implementation rounds the weights."""

    def __init__(self, site: Site, *, impl: str = "eager") -> None:
        super().__init__(site)
        if impl == "absent":
            raise ImplementationError("implementation 'absent' cannot run here: it is absent")
        self.impl = impl

    def weights(self, logits: Tensor) -> Tensor:
        weights = super().weights(logits)
        return weights * (1 + 1e-6) if self.impl == "fast" else weights


@liar("implementations_equal", impls=("fast", "eager"))
class FasterIsCoarser(FasterIsDifferent):
    """Its fast implementation is exact in float64, and rounds in what models run in."""

    def weights(self, logits: Tensor) -> Tensor:
        weights = Honest.weights(self, logits)
        error = 1e-4 if logits.dtype == torch.float32 else 0.0
        return weights * (1 + error) if self.impl == "fast" else weights


@liar("executed_implementation", impls=("eager", "fast"))
class AutoNamesAnother(Honest):
    """Says that auto runs the fast implementation, and runs eager."""

    def __init__(self, site: Site, *, impl: str = "eager") -> None:
        super().__init__(site)
        self.impl = impl

    def implementation(
        self, device: torch.device, dtype: torch.dtype, height: int, width: int, training: bool
    ) -> str:
        return "fast"

    def weights(self, logits: Tensor) -> Tensor:
        weights = super().weights(logits)
        return weights.clone() if self.impl == "fast" else weights


@liar("depends_on_input")
class Constant(Honest):
    """Returns the same for every image."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        del self.qkv, self.proj
        self.value = nn.Parameter(torch.zeros(site.dim))

    def forward(self, x: Tensor) -> Tensor:
        return 0 * x + self.value

    def macs(self, height: int, width: int) -> dict[str, int]:
        return {}

    def parameter_count(self) -> int:
        return self.dim


@liar("pattern")
class StaticButDynamic(Honest):
    """Says that its pattern is static, and also attends to the token that has the largest norm."""

    def finish(self, out: Tensor, x: Tensor) -> Tensor:
        tokens = out.flatten(1, 2)
        largest = x.flatten(1, 2).detach().norm(dim=-1).argmax(1)
        return out + tokens[torch.arange(len(x), device=x.device), largest][:, None, None]

    def support(self, height: int, width: int) -> Tensor:
        return torch.ones(height * width, height * width, dtype=torch.bool)


@liar("pattern", pattern="query")
class QueryButImage(StaticButDynamic):
    """Says that queries choose, and the image does."""


@liar("pattern", pattern="image")
class DynamicButStatic(Honest):
    """Says that its pattern moves with the image, and is a window."""


@liar("pattern", pattern="image")
class JumpsByQuery(Honest):
    """Says that the image chooses; but each query rounds its logits, on top of attention to all."""

    def finish(self, out: Tensor, x: Tensor) -> Tensor:
        mean = out.mean((1, 2), keepdim=True)
        return out + torch.where((out * mean).sum(-1, keepdim=True) > 0, mean, -mean)

    def support(self, height: int, width: int) -> Tensor:
        return torch.ones(height * width, height * width, dtype=torch.bool)


@liar("padding_not_attended")
class AttendsToPadding(Honest):
    """Leaves the zeros that fill up a window in the softmax."""

    def labels(self, height: int, width: int, device: torch.device) -> Tensor:
        return (self.window(height, device)[:, None] * 1000 + self.window(width, device)).flatten()


@liar("attention_map")
class ShowsTooMuch(Honest):
    """Shows weights on the whole map, and keeps its tokens to their windows."""

    def attention_map(self, x: Tensor, queries: Tensor) -> Tensor:
        q, k, _ = self.qkv(x).flatten(1, 2).chunk(3, dim=-1)
        logits = (q[0, queries] @ k[0].T) * self.dim**-0.5
        return logits.softmax(dim=-1)[:, None]


@liar("full_attention_limit")
class WrongLimit(Honest):
    """Says that it is full attention on every map."""

    @staticmethod
    def full_attention_limit(height: int, width: int) -> dict[str, int]:
        return {}


@liar("input_not_modified")
class WritesIntoInput(Honest):
    """Centres its input in place."""

    def forward(self, x: Tensor) -> Tensor:
        x -= x.mean(-1, keepdim=True)
        return super().forward(x)


@liar("determinism")
class Random(Honest):
    """Adds noise in evaluation, too."""

    def finish(self, out: Tensor, x: Tensor) -> Tensor:
        return out + 0.01 * torch.rand_like(out)


@liar("train_equals_eval")
class DropsByDefault(Honest):
    """Has dropout without being asked."""

    def finish(self, out: Tensor, x: Tensor) -> Tensor:
        return nn.functional.dropout(out, 0.1, self.training)


@liar("gradcheck")
class WrongGradient(Honest):
    """Has a backward pass of its own, wrong by a tenth."""

    def finish(self, out: Tensor, x: Tensor) -> Tensor:
        return Tenth.apply(out)


class Tenth(torch.autograd.Function):
    @staticmethod
    def forward(context: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(context: object, gradient: Tensor) -> Tensor:
        return 1.1 * gradient


@liar("finite_under_huge_logits")
class Overflows(Honest):
    """Takes exponentials without subtracting the largest logit."""

    def weights(self, logits: Tensor) -> Tensor:
        weights = logits.exp()
        return weights / weights.sum(-1, keepdim=True)


@liar("half_precision", "autocast")
class RoundsTwice(Honest):
    """Rounds its logits in half precision."""

    def weights(self, logits: Tensor) -> Tensor:
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = (logits * 8).round() / 8
        return logits.softmax(dim=-1)


@liar("uninitialised_memory")
class NeverInitialised(UnusedParameter):
    """Leaves a parameter as it finds the memory."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.gate = nn.Parameter(torch.empty(site.dim))

    def finish(self, out: Tensor, x: Tensor) -> Tensor:
        return out + self.gate


@liar("state_dict_round_trip")
class HidesWeights(Honest):
    """Keeps random weights that no state_dict holds."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.hidden = torch.randn(site.dim)

    def finish(self, out: Tensor, x: Tensor) -> Tensor:
        return out * self.hidden.to(out)


@liar("deepcopy_and_pickle")
class NotPicklable(Honest):
    """Keeps a function that cannot be pickled."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.scale = lambda x: x

    def finish(self, out: Tensor, x: Tensor) -> Tensor:
        return self.scale(out)


@liar("strided_input")
class NeedsContiguous(Honest):
    """Views its input as a matrix, which a channels-first one does not allow."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.view(-1, x.shape[-1]).view(x.shape))


@liar("compile_fullgraph")
class BreaksGraph(Honest):
    """Breaks the graph of torch.compile."""

    def finish(self, out: Tensor, x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return out


@liar("compile_fullgraph", "export", "meta_device", "fake_tensors")
class LooksAtData(Honest):
    """Decides by a value in Python, which exists neither when traced nor without data."""

    def finish(self, out: Tensor, x: Tensor) -> Tensor:
        return out if x.abs().max() < 1e30 else -out


@liar("single_token")
class SqueezesTokens(Honest):
    """Removes an axis of one, whichever it is."""

    def finish(self, out: Tensor, x: Tensor) -> Tensor:
        B, H, W, C = out.shape
        return out.reshape(B, H * W, C).squeeze(1).unflatten(1, (H, W))


@liar("odd_sizes")
class NeedsEvenSizes(Honest):
    """Cannot halve an odd map."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] % 2 and x.shape[2] % 2 and min(x.shape[1:3]) > 7:
            raise ValueError("odd map")
        return super().forward(x)


@liar("single_row_or_column")
class NeedsTwoAxes(Honest):
    """Cannot do with one row."""

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[1:3]) == 1 < max(x.shape[1:3]):
            raise ValueError("one row or column")
        return super().forward(x)


@liar("smaller_than_window")
class NeedsAWindow(Honest):
    """Cannot do with less than a window."""

    def forward(self, x: Tensor) -> Tensor:
        if 1 < max(x.shape[1:3]) < 7:
            raise ValueError("less than a window")
        return super().forward(x)


@liar("larger_than_nominal")
class TableTooSmall(Honest):
    """Has a table for a few tokens more than the site has."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.most = max(site.height, 14) + 3

    def forward(self, x: Tensor) -> Tensor:
        if max(x.shape[1:3]) > self.most:
            raise IndexError("beyond the table")
        return super().forward(x)


@liar("autocast")
class NeedsOneDtype(Honest):
    """Insists that its projection has the dtype of its input."""

    def finish(self, out: Tensor, x: Tensor) -> Tensor:
        if out.dtype != x.dtype:
            raise TypeError("mixed dtypes")
        return out


@liar("builds")
class WrongDtype(Honest):
    """Returns float32 whatever comes."""

    def finish(self, out: Tensor, x: Tensor) -> Tensor:
        return out.float()
