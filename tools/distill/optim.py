"""Muon for the matrices inside the blocks, AdamW for the rest."""
import torch


def orthogonal(g, steps=5):
    """Nearest semi-orthogonal matrices of a stack g (k, rows, cols), by Newton-Schulz iteration (Jordan et al., Muon)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16() if g.is_cuda else g.float()
    tall = x.shape[1] > x.shape[2]
    x = x.transpose(1, 2) if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        s = x @ x.transpose(1, 2)
        x = a * x + (b * s + c * (s @ s)) @ x
    return x.transpose(1, 2) if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, made orthogonal; matrices of equal shape are done in one stack."""

    def __init__(self, parameters, lr=0.01, momentum=0.95, weight_decay=0.01):
        super().__init__(list(parameters), dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            by_shape = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_shape.setdefault(p.shape, []).append(p)
            for shape, params in by_shape.items():
                self.step_stack(group, shape, params)

    def step_stack(self, group, shape, params):
        grads = [p.grad for p in params]
        buffers = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in params]
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, grads)
        updates = torch.stack([g + group["momentum"] * m for g, m in zip(grads, buffers)])
        scale = max(1.0, shape[0] / shape[1]) ** 0.5
        turned = orthogonal(updates).to(params[0].dtype)
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(params, list(turned.unbind(0)), alpha=-group["lr"] * scale)


def optimizers(model, lr, matrix_lr):
    inside = [p for n, p in model.named_parameters() if p.dim() == 2 and n.startswith("blocks.")]
    outside = [p for n, p in model.named_parameters() if not (p.dim() == 2 and n.startswith("blocks."))]
    adam = torch.optim.AdamW(outside, lr=lr, betas=(0.9, 0.95), weight_decay=0.0, eps=1e-8)
    chosen = [Muon(inside, lr=matrix_lr), adam]
    for optimizer in chosen:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return chosen


def schedule(optimizers_, progress, warmup=0.02, hold=0.45):
    """Warm up, hold, then fall linearly to nothing; progress in 0..1."""
    factor = min(1.0, progress / warmup) if progress < hold else max(0.02, (1 - progress) / (1 - hold))
    for optimizer in optimizers_:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * max(factor, 0.02)
