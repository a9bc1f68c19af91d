import numpy as np
import pytest

import fnn
from fnn import avgpool, dense, maxpool, parallel, relu, reshape, residual, serial, shared, tanh
from fnn.data import as_float, digits
from fnn.init import zeros
from fnn.page.answers import answer

IMAGE = digits(1, 0).images[0]


def slow_heat(net: fnn.Op, params: fnn.Params, image: np.ndarray, chosen: int) -> np.ndarray:
    """Returns the central differences of the score of `chosen` minus the mean of the others."""
    x, heat = as_float(image[None]).astype(float), np.zeros(image.shape)

    def lead(x: np.ndarray) -> float:
        scores = net.apply(params, x)[0][0]
        return float(scores[chosen] - np.delete(scores, chosen).mean())

    for place in np.ndindex(image.shape):
        step = np.zeros(x.shape)
        step[(0, 0, *place)] = 1e-6
        heat[place] = (lead(x + step) - lead(x - step)) / 2e-6
    return heat


@pytest.mark.parametrize("chosen", [0, 3])
def test_heat_is_the_gradient_of_the_lead_over_the_other_classes(chosen: int) -> None:
    net = serial(avgpool(4), dense(6), tanh, dense(4))
    params = fnn.tree_map(lambda leaf: leaf.astype(float), net.init(0, (1, 28, 28)))
    expected = slow_heat(net, params, IMAGE, chosen)
    narrow = fnn.tree_map(lambda leaf: leaf.astype(np.float32), params)
    found = answer(net, narrow, IMAGE, chosen)
    assert found.chosen == chosen
    np.testing.assert_allclose(found.heat, expected / np.abs(expected).max(), atol=1e-4)


def test_answer_is_about_the_likeliest_class_and_has_probabilities() -> None:
    net = serial(dense(5))
    params = net.init(0, (1, 28, 28))
    found = answer(net, params, IMAGE)
    scores = net.apply(params, as_float(IMAGE[None]))[0]
    np.testing.assert_array_equal(found.probabilities, fnn.softmax.apply({}, scores)[0][0])
    assert found.chosen == scores.argmax()


def test_views_show_the_operators_inside_any_combinator() -> None:
    inner = serial(fnn.conv(20, 3, padding=1), relu)
    net = serial(
        *(inner, residual(serial(tanh)), parallel(maxpool(4), maxpool(4), join="concat")),
        *(shared(tanh, 2), dense(7), reshape(7, 1), reshape(7), fnn.dropout(0.5), dense(10)),
    )
    params = net.init(0, (1, 28, 28))
    found = answer(net, params, IMAGE)
    views = {view.path: view for view in found.views}
    assert views["serial1/conv1"].shape == (20, 28, 28)
    assert views["serial1/conv1"].images.shape == (16, 28, 28)  # the first ones
    assert views["dense1"].images.shape == (1, 3, 3)  # seven numbers in a square
    assert views["reshape1"].images.shape == (1, 7, 1)
    assert {"parallel1/maxpool1", "parallel1/maxpool2", "residual1/serial1/tanh1", "shared1/tanh1"} <= views.keys()
    assert all(view.images.dtype == np.uint8 for view in found.views)
    conv_output = (
        net.parts["serial1"].parts["conv1"].apply(params["serial1"]["conv1"], as_float(IMAGE[None]))[0][0, :16]
    )
    low, high = conv_output.min(), conv_output.max()
    wanted = np.round((conv_output - low) / (high - low) * 255)
    assert np.abs(views["serial1/conv1"].images - wanted).max() <= 1


def test_views_of_operators_that_get_rows_as_examples() -> None:
    net = serial(reshape(28, 28), fnn.positionwise(dense(5)), dense(3))
    views = {view.path: view for view in answer(net, net.init(0, (1, 28, 28)), IMAGE).views}
    (inside,) = (view for path, view in views.items() if view.shape == (28, 5))
    assert inside.images.shape == (1, 28, 5)


def test_answer_of_constant_outputs() -> None:
    net = serial(dense(3, w_init=zeros))
    found = answer(net, net.init(0, (1, 28, 28)), IMAGE)
    assert not found.heat.any()
    assert not found.views[0].images.any()
