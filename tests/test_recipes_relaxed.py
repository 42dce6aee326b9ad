"""The recipe of relaxed energies: clusters, the laws of forces, and the loader of OC20."""

from __future__ import annotations

import math
import os
import pickle
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from recipes_shared import rng
from reference import relative

import equiwrap as ew

D = torch.float64


def atoms():
    from data import clusters

    return clusters


def relaxed():
    pytest.importorskip("torch_geometric")
    import relaxed_energies

    return relaxed_energies


# -- the clusters ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "least"), [(2, -1.0), (3, -3.0), (4, -6.0), (5, -9.103852415707557)])
def test_relaxation_finds_the_known_minima(n, least):
    kind = torch.zeros(4, n, dtype=torch.long)
    start = atoms().starts(kind, rng())
    pos = atoms().relax(start, kind)
    assert (atoms().energy(pos, kind) - least).abs().amax() < 1e-9
    assert (atoms().energy(start, kind) - least).abs().amax() > 1e-2
    if n < 5:
        for i, j in combinations(range(n), 2):
            apart = (pos[:, i] - pos[:, j]).norm(dim=-1)
            assert (apart - 2 ** (1 / 6)).abs().amax() < 1e-6
    weak = atoms().relax(start, kind + 1)
    assert (atoms().energy(weak, kind + 1) - least / 2).abs().amax() < 1e-9


def test_energies_are_those_of_a_loop_and_forces_are_their_gradients():
    kind = torch.tensor([[0, 1, 1, 0, -1], [1, 0, 0, 1, 1]])
    pos = atoms().starts(kind, rng(1)).requires_grad_()
    found = atoms().energy(pos, kind)
    for b in range(2):
        total = 0.0
        for i, j in combinations(range(int((kind[b] >= 0).sum())), 2):
            r = float((pos[b, i] - pos[b, j]).norm().detach())
            depth = (0.5 ** (int(kind[b, i]) + int(kind[b, j]))) ** 0.5
            total += 4 * depth * (r**-12 - r**-6)
        assert abs(float(found[b].detach()) - total) < 1e-11 * abs(total)
    (slope,) = torch.autograd.grad(found.sum(), pos)
    assert relative(-slope, atoms().forces(pos.detach(), kind)) < 1e-12
    assert not slope[0, 4].any()


def test_clusters_lie_apart_and_hang_together_and_run_downhill():
    data = atoms().clusters(60, 3)
    size = (data.kind >= 0).sum(1)
    assert set(size.tolist()) == {4, 5, 6, 7}
    for pos, n in zip(data.pos, size.tolist(), strict=True):
        apart = torch.cdist(pos[:n], pos[:n]).fill_diagonal_(math.inf)
        assert apart.amin() > 0.85
        assert apart.amin(1).amax() <= 1.4
        assert pos[:n].mean(0).abs().amax() < 1e-12
    start = atoms().energy(data.pos, data.kind)
    assert (data.relaxed < start).all()
    turn = torch.linalg.qr(torch.randn(3, 3, generator=rng(), dtype=D)).Q
    again = atoms().energy(atoms().relax(data.pos @ turn.T + 2, data.kind), data.kind)
    near = (again - data.relaxed).abs() < 1e-6
    assert near.double().mean() > 0.9  # rounding decides where a start lies between two basins
    with pytest.raises(RuntimeError, match="3 steps of relaxation left forces"):
        atoms().relax(data.pos, data.kind, steps=3)


# -- relaxed energies ------------------------------------------------------------------------------


def trained(method, steps=30):
    module = relaxed()
    config = replace(module.Config(), train=60, test=20, steps=steps, batch=16, width=12, rounds=2)
    data, test, _ = module.prepared(config, 0)
    five = [graph for graph in test.to_data_list() if len(graph.pos) == 5][:2]
    return module, module.train(method, data, config, 0), test, five


def test_a_weighted_frame_gives_forces():
    module, model, test, five = trained("weighted, stochastic")
    assert module.measured(model, test)["change"] < 1e-5
    found = module.laws(model, five, 41)
    assert found["turned"] < 1e-9
    assert max(found["differences"], found["circulation"]) < 1e-6
    assert found["work"] < 1e-4
    assert found["jump"] < 1e-3


def test_one_frame_gives_an_invariant_energy_that_jumps():
    module, model, test, five = trained("one frame (axes)")
    assert module.measured(model, test)["change"] < 1e-5
    found = module.laws(model, five, 41)
    assert found["turned"] < 1e-9  # wherever the energy does not jump, its slope is a force
    assert max(found["differences"], found["circulation"]) < 1e-6
    assert found["jump"] > 1e-2
    assert abs(found["work"] - found["jump"]) < found["jump"] + 1e-3
    assert len(found["paths"]) == len(found["jumps"]) == 2


def test_the_plain_energy_changes_and_its_forces_do_not_turn():
    module, model, test, five = trained("plain")
    assert module.measured(model, test)["change"] > 1e-2
    found = module.laws(model, five, 41)
    assert found["turned"] > 1e-2
    assert (
        max(found["differences"], found["circulation"]) < 1e-6
    )  # forces, of an energy that is off
    after = module.measured(module.framed(model, "weighted"), test)
    assert after["change"] < 1e-5
    assert abs(after["mae"] - after["mae_moved"]) < 1e-5


def test_the_laws_reject_forces_of_no_energy():
    module = relaxed()
    import relaxed_models

    class Crooked(torch.nn.Module):
        def forward(self, pos, kind, edge_index, batch):
            fixed = torch.cat([pos[1:], pos[:1]]).detach()  # a gradient that is not the whole one
            total = pos.new_zeros(int(batch.max()) + 1, 1)
            return total.index_add(0, batch, (pos * fixed).sum(-1, keepdim=True).sin())

    _, test, _ = module.prepared(replace(module.Config(), train=10, test=4), 0)
    found = relaxed_models.laws(Crooked(), test.to_data_list()[:2], 41)
    assert min(found[k] for k in ("turned", "differences", "circulation", "work")) > 1e-2


def test_the_recipe_of_energies_writes_its_table_and_goes_on(tmp_path, monkeypatch):
    module, path = relaxed(), tmp_path / "found.json"
    monkeypatch.setattr(module, "METHODS", ("plain", "one frame (axes)"))
    whole = module.prepared
    tiny = {"train": 30, "test": 24, "steps": 3, "paths": 1, "points": 11, "width": 8, "rounds": 1}
    base = module.Config
    monkeypatch.setattr(module, "Config", lambda: base(**tiny))
    rows = module.main(["--seeds", "1,", "--json", str(path)])
    assert [r["method"] for r in rows] == [
        "composition only",
        "plain",
        "plain, then weighted",
        "one frame (axes)",
    ]
    monkeypatch.setattr(module, "prepared", lambda *_: pytest.fail("all of this is in the file"))
    assert module.main(["--seeds", "1,", "--json", str(path)]) == rows
    assert f"| composition only | {rows[0]['mae']:.4f} |" in module.table(rows)
    _, test, floor = whole(base(**tiny), 1)
    assert abs(floor - float(test.y.abs().mean())) < 1e-6


# -- the loader of OC20 ----------------------------------------------------------------------------


def entries(count=3):
    data = pytest.importorskip("torch_geometric.data")
    return [
        data.Data(
            pos=torch.randn(4 + i, 3, generator=rng(i)),
            pos_relaxed=torch.randn(4 + i, 3, generator=rng(9 + i)),
            atomic_numbers=torch.arange(4.0 + i),
            cell=torch.eye(3)[None],
            natoms=4 + i,
            y_init=torch.tensor(2.0 + i),
            y_relaxed=-1.5 - i,
            sid=70 + i,
            edge_index=torch.zeros(2, 5, dtype=torch.long),
        )
        for i in range(count)
    ]


def published(path, blobs):
    """A file as OC20's are: a pickle an entry, and a pickled count."""
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(path), subdir=False, map_size=2**24) as file, file.begin(write=True) as put:
        for i, blob in enumerate(blobs):
            put.put(str(i).encode(), blob)
        put.put(b"length", pickle.dumps(len(blobs)))


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_oc20_is_converted_once_and_read_without_pickle(tmp_path, protocol, monkeypatch):
    pytest.importorskip("lmdb")
    from data import oc20
    from torch_geometric.data import Data
    from torch_geometric.loader import DataLoader

    made = entries(12)
    published(tmp_path / "oc20.lmdb", [pickle.dumps(item, protocol=protocol) for item in made])
    assert oc20.convert(tmp_path / "oc20.lmdb", tmp_path / "safe.lmdb") == 12
    with pytest.raises(FileExistsError, match="name another file"):
        oc20.convert(tmp_path / "oc20.lmdb", tmp_path / "safe.lmdb")
    assert oc20.convert(tmp_path / "oc20.lmdb", tmp_path / "some.lmdb", most=2) == 2
    monkeypatch.setattr(pickle, "loads", lambda *_: pytest.fail("unpickled"))
    monkeypatch.setattr(oc20.pickle, "Unpickler", lambda *_: pytest.fail("unpickled"))
    found = oc20.Relaxations(tmp_path / "safe.lmdb")
    assert len(found) == 12
    for i, item in enumerate(made):
        entry = found[i]
        assert set(entry) == set(oc20.FIELDS) - {"tags", "fixed"}
        for name, value in entry.items():
            right = item[name]
            assert torch.equal(value, right) if torch.is_tensor(right) else value == right
    with pytest.raises(IndexError, match="there are 12"):
        found[12]
    graphs = oc20.Relaxations(tmp_path / "safe.lmdb", form=lambda entry: Data(**entry))
    (batch,) = DataLoader(graphs, batch_size=12)
    assert torch.equal(batch.pos, torch.cat([item.pos for item in made]))
    assert batch.y_relaxed.tolist() == [item.y_relaxed for item in made]


def test_an_entry_that_would_run_a_command_is_refused(tmp_path):
    pytest.importorskip("lmdb")
    from data import oc20

    ran = tmp_path / "ran"

    class Command:
        def __reduce__(self):
            return os.system, (f"touch {ran}",)

    class Evaluated:
        def __reduce__(self):
            return eval, ("1 + 1",)

    (item,) = entries(1)
    hidden = item.clone()
    hidden.sid = Command()
    for bad in (Command(), Evaluated(), hidden, {"pos": Evaluated()}):
        blob = pickle.dumps(bad)
        source = tmp_path / "bad.lmdb"
        source.unlink(missing_ok=True)
        published(source, [pickle.dumps(item), blob])
        with pytest.raises(pickle.UnpicklingError, match="It was not called"):
            oc20.convert(source, tmp_path / "safe.lmdb")
        assert not (tmp_path / "safe.lmdb").exists()
    assert not ran.exists()
    pickle.loads(pickle.dumps(Command()))  # the same entry, read as published
    assert ran.exists()


def test_oc20s_own_files_are_not_read_unconverted(tmp_path):
    pytest.importorskip("lmdb")
    from data import oc20

    published(tmp_path / "oc20.lmdb", [pickle.dumps(item) for item in entries(1)])
    with pytest.raises(ValueError, match="not a converted file"):
        oc20.Relaxations(tmp_path / "oc20.lmdb")
    oc20.write(tmp_path / "own.lmdb", [{"pos": torch.eye(3), "y_relaxed": 1.0}])
    found = oc20.Relaxations(tmp_path / "own.lmdb")
    assert found[0]["y_relaxed"] == 1.0
    again = pickle.loads(pickle.dumps(found))  # as a worker gets it, after a read
    assert torch.equal(again[0]["pos"], torch.eye(3))
    with pytest.raises(pickle.UnpicklingError, match="no Data"):
        oc20.fields(pickle.dumps([1, 2]))


def test_relaxations_fit_the_wrapped_model(tmp_path):
    pytest.importorskip("lmdb")
    module = relaxed()
    from data import oc20
    from torch_geometric.data import Batch, Data

    made = [Data(**oc20.fields(pickle.dumps(item))) for item in entries(2)]
    for item in made:
        item.kind = (item.atomic_numbers % 2).long()
        n = len(item.pos)
        item.edge_index = (1 - torch.eye(n)).nonzero().T
    batch = Batch.from_data_list(made)
    batch.pos = batch.pos.double()
    model = module.framed(module.Potential(8, 1).double(), "axes")
    error = ew.measure.equivariance_error(
        model,
        "E(3)",
        batch.pos,
        batch.kind,
        batch.edge_index,
        batch.batch,
        signature=module.SIGNATURE,
    )
    assert error.worst < 1e-9
