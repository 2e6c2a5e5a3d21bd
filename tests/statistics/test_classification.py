"""Ridge decoding with whole folds held out: exact, against refits and against scikit-learn."""

import numpy as np
import pytest

from activation_analysis.statistics.classification import (
    balanced_accuracy,
    held_out_credit,
    held_out_scores,
    residual_maker,
    stratified_folds,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_held_out_scores_are_those_of_refits(rng):
    linear_model = pytest.importorskip("sklearn.linear_model")  # mlflow brings it
    x, y = rng.normal(size=(60, 25)) + 3, rng.normal(size=(60, 2)) + 5
    fold = rng.integers(0, 7, size=60)
    found = held_out_scores(residual_maker(x @ x.T, penalty=2.5), y, fold)
    for f in range(7):
        fit = linear_model.Ridge(alpha=2.5).fit(x[fold != f], y[fold != f])
        np.testing.assert_allclose(found[fold == f], fit.predict(x[fold == f]), atol=1e-10)


def test_more_features_than_observations_are_no_obstacle(rng):
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = rng.normal(size=(24, 500)), rng.normal(size=(24, 1))
    fold = np.arange(24)  # leave one out
    found = held_out_scores(residual_maker(x @ x.T, penalty=0.1), y, fold)
    for i in range(24):
        fit = linear_model.Ridge(alpha=0.1, solver="cholesky").fit(x[fold != i], y[fold != i])
        np.testing.assert_allclose(found[i], fit.predict(x[i : i + 1])[0], atol=1e-9)


def test_a_planted_class_is_decoded_and_a_null_stays_at_chance(rng):
    label = np.repeat([0, 1, 2], 40)
    noise = rng.normal(size=(120, 30))
    planted = noise + 3 * np.eye(30)[label]
    hits = {"planted": [], "null": []}
    for _ in range(100):
        fold = stratified_folds(label, np.arange(120), 10, rng)
        shuffled = rng.permutation(label)
        for name, x, truth in (("planted", planted, label), ("null", noise, shuffled)):
            credit = held_out_credit(residual_maker(x @ x.T, penalty=1.0), truth, fold)
            hits[name].append(balanced_accuracy(truth, credit))
    assert np.mean(hits["planted"]) > 0.85
    # 100 shufflings: the mean is within 4 standard errors of a third, at most of this size.
    assert abs(np.mean(hits["null"]) - 1 / 3) < 4 * np.std(hits["null"]) / 10 + 0.01


def test_a_frequent_class_is_not_preferred(rng):
    label = np.r_[np.zeros(180, int), np.ones(20, int)]
    x = rng.normal(size=(200, 2)) + 2 * label[:, None]
    fold = stratified_folds(label, np.arange(200), 10, rng)
    credit = held_out_credit(residual_maker(x @ x.T, penalty=1.0), label, fold)
    assert credit[label == 1].mean() > 0.8


def test_the_same_features_in_both_classes_are_half_right_exactly(rng):
    x = np.tile(rng.integers(0, 2, size=(40, 12)).astype(float), (2, 1))
    label, fold = np.repeat([0, 1], 40), np.tile(np.arange(40) % 8, 2)
    credit = held_out_credit(residual_maker(x @ x.T, penalty=1.0), label, fold)
    np.testing.assert_array_equal(credit, 0.5)


def test_balanced_accuracy_weighs_classes_alike():
    label = np.array([0, 0, 0, 0, 1, 1])
    assert balanced_accuracy(label, np.array([1, 1, 1, 1, 0, 0])) == 0.5
    assert balanced_accuracy(label, np.array([1, 1, 1, 0, 1, 0])) == pytest.approx(0.625)


def test_folds_keep_blocks_whole_and_spread_classes(rng):
    label = np.tile([0, 1, 2], 50)
    block = np.repeat(np.arange(50), 3)
    fold = stratified_folds(label, block, 10, rng)
    assert all(len(set(fold[block == b])) == 1 for b in range(50))
    for k in range(3):
        assert np.bincount(fold[label == k], minlength=10).tolist() == [5] * 10
    single = stratified_folds(label, np.arange(150), 10, rng)
    for k in range(3):
        assert np.bincount(single[label == k], minlength=10).tolist() == [5] * 10


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: residual_maker(np.ones((3, 2)), penalty=1), "expected (n, n)"),
        (lambda: residual_maker(np.eye(3), penalty=0), "must be above 0"),
        (lambda: held_out_scores(np.eye(3), np.ones((2, 1)), np.arange(3)), "targets have shape"),
        (lambda: held_out_scores(np.eye(3), np.ones((3, 1)), np.zeros(3)), "of one fold"),
    ],
)
def test_what_cannot_be_decoded_is_refused(call, said):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        call()
    assert said in str(caught.value)
