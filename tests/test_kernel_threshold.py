"""Thresholds: both sets of kernels against the definition, and the definition against plain Python."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnhw.kernels import portable, reference

Int64Array: TypeAlias = npt.NDArray[np.int64]

LEAST, MOST = -(2**31), 2**31 - 1
EDGES = st.sampled_from((LEAST - 1, LEAST, LEAST + 1, -1, 0, 1, MOST - 1, MOST, MOST + 1))
THRESHOLDS = st.one_of(EDGES, st.integers(-50, 50), st.integers(LEAST, MOST))
NUMBERS = st.one_of(st.integers(-50, 50), st.sampled_from((LEAST, LEAST + 1, -1, 0, 1, MOST - 1, MOST)))


def arrays(data: st.DataObject, numbers: st.SearchStrategy[int], shape: tuple[int, ...]) -> Int64Array:
    count = int(np.prod(shape))
    return np.array(data.draw(st.lists(numbers, min_size=count, max_size=count)), np.int64).reshape(shape)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_thresholds_count_as_defined_at_every_edge(data: st.DataObject) -> None:
    rows, columns, channels = (data.draw(st.integers(1, n)) for n in (3, 3, 19))
    classes, levels = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 9))
    sets = data.draw(st.sampled_from((1, channels)))
    table = np.sort(arrays(data, THRESHOLDS, (classes, sets, levels)), axis=2)
    falling = data.draw(st.sampled_from((None, 1, channels)))
    falls = None if falling is None else arrays(data, st.integers(0, 1), (falling,)).astype(np.int8)
    map_of_classes = arrays(data, st.integers(0, classes - 1), (rows, columns)) if classes > 1 else None
    acc = arrays(data, NUMBERS, (2, rows, columns, channels)).astype(np.int32)
    low = data.draw(st.integers(-200, 200))
    expected = np.empty(acc.shape, np.int64)
    for image, row, column, channel in np.ndindex(acc.shape):
        number = int(acc[image, row, column, channel])
        limits = table[0 if map_of_classes is None else map_of_classes[row, column], channel % sets].tolist()
        down = falls is not None and falls[channel % len(falls)] == 1
        expected[image, row, column, channel] = low + sum(number <= t if down else number >= t for t in limits)
    arguments = (acc, table, falls, map_of_classes, low)
    np.testing.assert_array_equal(reference.threshold(*arguments), expected)
    np.testing.assert_array_equal(portable.threshold(*arguments), expected)
    assert portable.threshold(*arguments).dtype == np.int32


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 14, 15, 16, 255, 300])
def test_many_levels_count_like_a_sorted_search(levels: int) -> None:
    random = np.random.default_rng(levels)
    acc = random.integers(-999, 999, (2, 3, 5, 161)).astype(np.int32)
    table = np.sort(random.integers(-999, 999, (1, 161, levels)), axis=2)
    falling = random.integers(0, 2, 161).astype(np.int8)
    expected = reference.threshold(acc, table, falling, None, -7)
    np.testing.assert_array_equal(portable.threshold(acc, table, falling, None, -7), expected)
    channel = int(np.flatnonzero(falling == 0)[0])
    found = np.searchsorted(table[0, channel], acc[..., channel], side="right") - 7
    np.testing.assert_array_equal(found, expected[..., channel])


@pytest.mark.parametrize("module", [reference, portable])
def test_threshold_refuses_inconsistent_constants(module: Any) -> None:
    acc = np.zeros((1, 2, 2, 3), np.int32)
    one = [[[0]]]
    for arguments, message in (
        (([[0]], None, None, 0), r"thresholds \(1, 1\), expected \(classes, 3 or 1, levels\)"),
        ((np.zeros((1, 2, 4)), None, None, 0), r"thresholds \(1, 2, 4\)"),
        ((np.zeros((1, 3, 0)), None, None, 0), r"thresholds \(1, 3, 0\)"),
        (([[[1, 0]]], None, None, 0), "ascending"),
        ((one, [0, 1], None, 0), r"falling channels \(2,\), expected \(3 or 1,\)"),
        (([[[0]], [[1]]], None, None, 0), "pass `classes`"),
        ((one, None, [[0, 0], [0, 1]], 0), r"classes \(2, 2\), expected \(2, 2\) of 0\.\.0"),
        ((one, None, None, 2**31 - 1), "highest_code"),
    ):
        with pytest.raises(ValueError, match=message):
            module.threshold(acc, *arguments)
