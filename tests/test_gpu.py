"""What only a CUDA device can show: the same laws there, no host sync, graph capture, bfloat16.

Without a device the sync law is still held to a list of operations that read from one.
"""

from __future__ import annotations

import copy

import pytest
import torch
from reference import Convs, Sets
from torch.utils._python_dispatch import TorchDispatchMode

import equiwrap as ew
from equiwrap.testing import assert_equivariant

READS = {
    "_local_scalar_dense", "nonzero", "_unique2", "masked_select", "_linalg_eigh", "_linalg_svd",
    "linalg_eigh", "linalg_qr", "_linalg_det", "_linalg_check_errors", "equal", "allclose",
}  # fmt: skip


class NoReads(TorchDispatchMode):
    """Raise at the first operation that would read from the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        boolean = name == "index" and any(t is not None and t.dtype == torch.bool for t in args[1])
        if name in READS or boolean:
            raise AssertionError(f"{name} reads from the device")
        return func(*args, **(kwargs or {}))


def images(device, **options):
    net = Convs(dtype=torch.float32, pooled=True).to(device)
    return ew.equivariantize(net, "D4", "b c h w -> b k", **options), torch.randn(
        4, 3, 32, 32, device=device
    )


def points(device, **options):
    net = Sets(3, 3, False, torch.float32).to(device)
    return ew.equivariantize(net, "E(3)", "b n p -> b n p", **options), torch.randn(
        4, 20, 3, device=device
    )


FAST = [(images, {"ties": "first"}), (images, {"frame": "whole"}), (points, {"ties": "first"})]


@pytest.mark.parametrize(("build", "options"), FAST)
def test_the_fast_path_has_no_operation_that_reads_from_the_device(build, options):
    model, x = build("cpu", **options)
    model(x)  # constants are made once
    with NoReads():
        model(x)


def test_the_list_of_reads_catches_the_flag_of_the_exact_path():
    model, x = images("cpu")
    with pytest.raises(AssertionError, match="reads"), NoReads():
        model(x)


@pytest.mark.gpu
@pytest.mark.parametrize("build", [images, points])
def test_laws_hold_on_the_device(build):
    model, x = build("cuda")
    x[1] = x[1, :1, :1] if x.ndim == 4 else x[1, :1]  # a constant image, a repeated point
    assert_equivariant(model, None, x)
    host = model.cpu()
    torch.testing.assert_close(host(x.cpu()), model.cuda()(x).cpu(), rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize(("build", "options"), FAST)
def test_no_host_sync_under_sync_debugging(build, options):
    model, x = build("cuda", **options)
    model(x)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        model(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize(("build", "options"), FAST)
def test_cuda_graphs_capture_the_wrapped_forward(build, options):
    model, x = build("cuda", **options)
    with torch.no_grad():
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                model(x)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = model(x)
        x.copy_(torch.randn_like(x))
        graph.replay()
        torch.testing.assert_close(y, model(x))


@pytest.mark.gpu
@pytest.mark.parametrize("build", [images, points])
def test_bfloat16_autocast_keeps_the_frame_exact(build):
    model, x = build("cuda")
    with torch.autocast("cuda", torch.bfloat16):
        assert_equivariant(model, None, x, tol=5e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("hidden", ["trivial", "regular"])
def test_projections_and_decays_run_on_the_device_as_on_the_cpu(hidden):
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 4, 3, padding=1),
    ).eval()
    x = torch.randn(2, 3, 9, 9)
    here = ew.equivariantize(
        net, "D4", "b c h w -> b c h w", method="project", hidden=hidden, example=x
    )
    there = copy.deepcopy(here).cuda()
    torch.testing.assert_close(there(x.cuda()).cpu(), here(x), rtol=0, atol=1e-4)
    soft = ew.equivariantize(
        net.cuda(), "D4", "b c h w -> b c h w", method="penalize", hidden=hidden, example=x.cuda()
    )
    optimizer = torch.optim.AdamW(soft.parameters(), lr=0.1)
    decay = ew.EquivarianceDecay(soft, optimizer, strength=100.0)
    before = soft.equiwrap.report().ratio
    (soft(x.cuda()).square().mean() + soft.equiwrap.penalty()).backward()
    optimizer.step()
    assert decay.steps == 1
    assert soft.equiwrap.report().ratio < 1e-3 * before
    assert soft.equiwrap.certificate(x.cuda()).bound.value is not None
