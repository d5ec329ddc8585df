"""Digests of files and of their content."""

import hashlib

import numpy as np

from longtail.artifacts.digest import content_digest, file_digest


def test_content_digest_depends_on_name_dtype_shape_values_and_attributes():
    base = content_digest({"a": np.arange(6)}, {"x": 1})
    others = [
        content_digest({"b": np.arange(6)}, {"x": 1}),
        content_digest({"a": np.arange(6, dtype=np.int32)}, {"x": 1}),
        content_digest({"a": np.arange(6).reshape(2, 3)}, {"x": 1}),
        content_digest({"a": np.arange(1, 7)}, {"x": 1}),
        content_digest({"a": np.arange(6)}, {"x": 2}),
        content_digest({"a": np.arange(6)}, {"x": 1, "y": 1}),
        content_digest({"a": np.arange(6), "b": np.zeros(0)}, {"x": 1}),
    ]
    assert len({base, *others}) == 1 + len(others)


def test_file_digest_is_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_digest(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
