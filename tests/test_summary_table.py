import numpy as np
import pytest

import fnn
from fnn import OpError, conv, dense, freeze, maxpool, named, repeat, residual, serial, shard, shared, tanh
from fnn.combinators import positionwise
from fnn.init import he_normal
from fnn.op import Op
from fnn.ops import attention, embedding, layer_norm
from fnn.summaries import WIDTH, summary


def test_the_table_of_a_small_net_to_the_letter() -> None:
    net = shard(serial(conv(6, 3, padding=1), maxpool(2), tanh, dense(1000)), workers=1)
    assert summary(net, (1, 28, 28)) == "\n".join(
        [
            "path      operator               output       parameters  multiply-adds",
            "-----------------------------------------------------------------------",
            "input                            (1, 28, 28)",
            "conv1     conv(6, 3, padding=1)  (6, 28, 28)          60         42,336",
            "maxpool1  maxpool(2)             (6, 14, 14)           0              0",
            "tanh1     tanh                   (6, 14, 14)           0              0",
            "dense1    dense(1000)            (1000,)       1,177,000      1,176,000",
            "-----------------------------------------------------------------------",
            "total     shard(serial)          (1000,)       1,177,060      1,218,336",
        ]
    )


def test_parts_stand_to_the_right_of_what_they_are_parts_of_and_plain_chains_are_left_out() -> None:
    block = residual(serial(layer_norm(), attention(2)))
    net = serial(
        embedding(9, 4), repeat(block, 2), freeze(serial(positionwise(dense(3)), tanh)), named("end", serial(tanh))
    )
    lines = summary(net, (5,)).splitlines()
    assert [line[:25].rstrip() for line in lines[3:-2]] == [
        "embedding1",
        "repeat1",
        "  residual1",
        "    serial1/layer_norm1",
        "    serial1/attention1",
        "  residual2",
        "    serial1/layer_norm1",
        "    serial1/attention1",
        "serial1",
        "  dense1",
        "  tanh1",
        "end/tanh1",
    ]
    assert lines[4].split() == ["repeat1", "repeat(n=2)", "(5,", "4)"]
    assert "freeze(serial)" in lines[11]


def test_totals_are_those_of_the_params_and_of_every_time() -> None:
    net = serial(shared(dense(10), 100), dense(10))
    assert summary(net, (10,)).splitlines()[-1].split() == ["total", "serial", "(10,)", "220", "10,100"]


def test_what_is_not_known_is_a_question_and_the_total_at_least_the_rest() -> None:
    init = lambda key, shape: {"s": np.ones(1, np.float32)}  # noqa: E731
    unknown = Op(init, lambda params, x: (x, lambda dy, need_dx=True: ({}, dy)), kind="mine")
    *_, mine, _, total = summary(serial(dense(1000), unknown), (2,)).splitlines()
    assert mine.split() == ["mine1", "mine", "(1000,)", "1", "?"]
    assert total.split("  ")[-1] == "at least 2,000"
    assert len({len(mine), len(total)}) == 1


def test_a_long_call_is_cut_so_that_the_table_stays_narrow() -> None:
    long = conv(16, (3, 3), stride=(2, 1), padding="same", dilation=(2, 3), groups=4, bias=False, w_init=he_normal)
    table = summary(serial(long, tanh), (4, 28, 28))
    assert max(map(len, table.splitlines())) == WIDTH
    assert "conv(16, (3, 3), stride=(2, 1), padding='same', " in table
    assert "..." in table


def test_a_deep_net_keeps_its_paths_whole_and_enough_of_the_calls() -> None:
    net = conv(2, (3, 3), padding=(1, 1), bias=False)
    for _ in range(40):
        net = residual(net)
    lines = summary(net, (2, 3, 3)).splitlines()
    assert lines[-3].startswith("  " * 39 + "conv1    conv(2, (3, 3), p...  (2, 3, 3)")


@pytest.mark.parametrize(("net", "name"), [(dense(3), "dense"), (serial(), "serial"), (shard(tanh, 1), "shard")])
def test_a_net_of_one_operator_or_none_is_a_table_too(net: fnn.Op, name: str) -> None:
    first, total = (summary(net, (3,)).splitlines()[i].split() for i in (3, -1))
    assert first[:2] == [name, total[1]]
    assert total[-2:] == (["12", "9"] if name == "dense" else ["0", "0"])


def test_ascii_is_enough_to_print_it() -> None:
    assert summary(serial(dense(3), tanh), (4,)).isascii()


def test_a_shape_that_the_net_cannot_take_is_refused_as_init_does() -> None:
    with pytest.raises(OpError, match=r"^conv1: expected shape \(channels, height, width\), got \(3, 28\)$"):
        summary(serial(conv(6, 3), dense(10)), (3, 28))
