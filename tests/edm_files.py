"""Checkpoints as published ones are: modules pickled with their source code, in classes that nobody has here."""

import contextlib
import pickle
import sys
import types
from collections import OrderedDict

import torch

SOURCE = "raise SystemExit('the source code in a checkpoint was executed')"


class EasyDict(dict):
    pass


def _reconstruct_persistent_obj(meta):
    raise AssertionError("a checkpoint's function was called")


class Persistent:
    """Pickles as a module of the EDM family does."""

    def __init__(self, class_name, state):
        self.class_name, self.state = class_name, state

    def __reduce_ex__(self, protocol):
        meta = EasyDict(type="class", version=6, module_src=SOURCE, class_name=self.class_name, state=self.state)
        return _reconstruct_persistent_obj, (meta,)


@contextlib.contextmanager
def published_modules():
    """The names under which published code keeps the two, importable while a file is written."""
    names = {"torch_utils": [], "torch_utils.persistence": [_reconstruct_persistent_obj], "dnnlib": []}
    names["dnnlib.util"] = [EasyDict]
    before = {value: value.__module__ for values in names.values() for value in values}
    for name, values in names.items():
        sys.modules[name] = types.ModuleType(name)
        for value in values:
            value.__module__ = name
            setattr(sys.modules[name], value.__name__, value)
    try:
        yield
    finally:
        for value, module in before.items():
            value.__module__ = module
        for name in names:
            del sys.modules[name]


def persistent(module, class_name, **arguments):
    """`module` as a pickled published one: ours by name and weights, with the arguments it was constructed with."""
    children = OrderedDict()
    for name, child in module._modules.items():
        if isinstance(child, torch.nn.ModuleDict):
            holder = torch.nn.ModuleDict()
            holder.__dict__["_modules"] = OrderedDict((n, persistent(m, type(m).__name__)) for n, m in child.items())
            children[name] = holder
        elif child is not None:
            children[name] = persistent(child, type(child).__name__)
        else:
            children[name] = None
    state = {
        "training": False,
        "_parameters": OrderedDict(module._parameters),
        "_buffers": OrderedDict(module._buffers),
        "_modules": children,
        "_init_args": (),
        "_init_kwargs": EasyDict(arguments),
    }
    return Persistent(class_name, state)


def write_pickle(file, denoiser, *, key="ema", class_name="EDMPrecond", **arguments):
    """An EDM-family pickle of one of our denoisers."""
    for bank in ("mask_bank", "maps_bank", "sigma_bank"):
        denoiser._buffers.pop(bank)
    with published_modules():
        module = persistent(denoiser, class_name, **arguments)
        file.write_bytes(pickle.dumps({key: module, "dataset_kwargs": EasyDict(path="cifar10.zip")}))
