#!/usr/bin/env python3
"""Loads one tensor of a signed model into a NumPy array, without a copy.

    load_numpy.py LIBPAVISE MODEL SIGNATURE PUBLIC_KEY TENSOR
"""

import ctypes
import sys

import numpy


class LoadOptions(ctypes.Structure):  # pavise_load_options
    _fields_ = [
        ("size_bytes", ctypes.c_size_t),
        ("model_path", ctypes.c_char_p),
        ("signature_path", ctypes.c_char_p),
        ("tree_path", ctypes.c_char_p),
        ("public_key_path", ctypes.c_char_p),
        ("trust_file_path", ctypes.c_char_p),
        ("model_name", ctypes.c_char_p),
        ("device", ctypes.c_char_p),
        ("tensors", ctypes.POINTER(ctypes.c_char_p)),
        ("tensor_count", ctypes.c_size_t),
        ("slices", ctypes.c_void_p),
        ("slice_count", ctypes.c_size_t),
        ("ignore_unsigned_files", ctypes.c_int),
        ("guard", ctypes.c_int),
        ("sampled_answers", ctypes.c_uint64),
    ]


class Exported:
    """What numpy.from_dlpack takes: versioned from NumPy 2.1 on, before that as before DLPack 1.0."""

    def __init__(self, library, model, index):
        self._library, self._model, self._index = library, model, index

    def __dlpack_device__(self):
        return (1, 0)  # kDLCPU

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        versioned = max_version is not None and max_version[0] >= 1
        export = "pavise_tensor_export" + ("" if versioned else "_unversioned")
        tensor = ctypes.c_void_p()
        call(self._library, export, self._model, self._index, ctypes.byref(tensor))
        new_capsule = ctypes.pythonapi.PyCapsule_New
        new_capsule.restype = ctypes.py_object
        new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        # The consumer renames the capsule and calls the deleter; its name must live as long.
        return new_capsule(tensor, b"dltensor_versioned" if versioned else b"dltensor", None)


def call(library, name, *arguments):
    error = ctypes.c_void_p()
    if getattr(library, name)(*arguments, ctypes.byref(error)) == 0:
        return
    text = library.pavise_error_json
    text.restype = ctypes.c_char_p
    message = text(error).decode()
    library.pavise_error_free(error)
    sys.exit(message)


def main(library_path, model_path, signature, key, name):
    library = ctypes.CDLL(library_path)
    options = LoadOptions()
    library.pavise_load_options_init(ctypes.byref(options), ctypes.c_size_t(ctypes.sizeof(options)))
    options.model_path, options.signature_path = model_path.encode(), signature.encode()
    options.public_key_path, options.device = key.encode(), b"cpu"
    options.tensors, options.tensor_count = (ctypes.c_char_p * 1)(name.encode()), 1
    model = ctypes.c_void_p()
    call(library, "pavise_load", ctypes.byref(options), ctypes.byref(model))
    index = ctypes.c_size_t()
    call(library, "pavise_tensor_find", model, None, name.encode(), ctypes.byref(index))
    array = numpy.from_dlpack(Exported(library, model, index))
    library.pavise_model_close(model)  # the array keeps the memory
    writeable = array.flags.writeable
    print(f"{array.dtype} {list(array.shape)} writeable={writeable} sum={array.sum():.1f}")


if __name__ == "__main__":
    if len(sys.argv) != 6:
        sys.exit(__doc__)
    main(*sys.argv[1:])
