from pathlib import Path

import numpy as np
import pytest

import fnn
from fnn.data import as_float, digits
from fnn.page import Pupil
from fnn.page.lessons import teach
from fnn.run import RunError, load_run, read_data


def bits(params: fnn.Params) -> list[bytes]:
    return [leaf.tobytes() for leaf in fnn.tree_leaves(params)]


def lessons_until_learned(pupil: Pupil, image: np.ndarray, label: int) -> int:
    for lesson in range(10):
        if pupil.answer(image, None).chosen == label:
            return lesson
        pupil.teach(image, label)
    return 10


def test_teach_is_pure_and_lowers_the_doubt(pupil: Pupil) -> None:
    images, labels = digits(1, 7)
    image, label = images[0], int(labels[0])
    params = pupil._history[0]
    before, doubt = bits(params), 1 - pupil.answer(image, None).probabilities[label]
    assert pupil.data
    first, again = (teach(pupil.net, params, image, label, pupil.data, fnn.Key(1)) for _ in range(2))
    assert bits(params) == before
    assert bits(first) == bits(again)
    learned = Pupil(pupil.net, first, pupil.classes, pupil.folder, None).answer(image, None)
    assert 1 - learned.probabilities[label] < doubt


def test_a_drawing_is_learned_within_three_lessons(pupil: Pupil) -> None:
    images, labels = digits(10, 3)
    for image, label in zip(images, labels, strict=True):
        assert lessons_until_learned(pupil, image, int(label)) <= 3


def test_undo_restores_the_bits(pupil: Pupil) -> None:
    image, first = digits(1, 7).images[0], bits(pupil._history[-1])
    assert pupil.undo() == {"lessons": 0}  # nothing to undo
    result = pupil.teach(image, 4)
    assert result["lessons"] == 1
    assert 0 <= result["after"] <= 1
    second = bits(pupil._history[-1])
    assert second != first
    assert pupil.teach(image, 5)["lessons"] == 2
    assert pupil.undo() == {"lessons": 1}
    assert bits(pupil._history[-1]) == second
    assert pupil.undo() == {"lessons": 0}
    assert bits(pupil._history[-1]) == first


def test_old_lessons_are_forgotten(pupil: Pupil, monkeypatch: pytest.MonkeyPatch) -> None:
    params = pupil._history[0]
    monkeypatch.setattr("fnn.page.lessons.MAX_BYTES", 3 * sum(leaf.nbytes for leaf in fnn.tree_leaves(params)))
    large = Pupil(pupil.net, params, pupil.classes, pupil.folder, pupil.data)
    image = digits(1, 7).images[0]
    assert [large.teach(image, label)["lessons"] for label in (1, 2, 3, 4)] == [1, 2, 3, 3]


def test_save_writes_a_new_file_each_time(pupil: Pupil) -> None:
    pupil.teach(digits(1, 7).images[0], 4)
    files = [Path(pupil.save()["file"]) for _ in range(2)]
    assert [file.name for file in files] == ["taught-1.pkl", "taught-2.pkl"]
    assert sorted(pupil.folder.iterdir()) == files
    assert bits(fnn.load(files[0])) == bits(pupil._history[-1])


def test_teaching_needs_data(pupil: Pupil) -> None:
    alone = Pupil(pupil.net, pupil._history[0], pupil.classes, pupil.folder, None)
    with pytest.raises(RunError, match="start again with --data"):
        alone.teach(digits(1, 7).images[0], 4)


@pytest.mark.slow
def test_ten_lessons_cost_at_most_one_point(trained: Path) -> None:
    run = load_run(trained)
    data = read_data(run.config["data"], None, print)
    pupil = Pupil(run.net, run.params, run.config["classes"], trained, data)
    predicted = run.net.apply(run.params, as_float(data.test.images))[0].argmax(1)
    wrong = np.flatnonzero(predicted != data.test.labels)[:10]
    assert len(wrong) == 10
    results = []
    for i in wrong:
        image, label = data.test.images[i], int(data.test.labels[i])
        results.append(pupil.teach(image, label))
        assert lessons_until_learned(pupil, image, label) <= 2
    assert results[-1]["after"] >= results[0]["before"] - 0.01


def test_wrong_labels_do_not_ruin_the_net(pupil: Pupil) -> None:
    images, labels = digits(10, 3)
    results = [pupil.teach(image, (int(label) + 5) % 10) for image, label in zip(images, labels, strict=True)]
    assert min(result["after"] for result in results) > results[0]["before"] / 2
