"""A planted bad set draws every warning that it should and no other."""

import random

import numpy as np
import pytest

from activation_analysis.experiment import Experiment, apply_overrides, read_experiment
from activation_analysis.prompt_check import MOST_COMPARED, check_prompts

ITEMS = [
    "a lamp", "old bread", "her map", "that hill", "some rope", "warm milk", "his coat", "one bell",
    "the gate", "dry sand", "my boots", "wet paint", "cold tea", "your pen", "loose wire", "an oar",
]  # fmt: skip
TEMPLATES = [
    "Could anyone please tell me where I may have put {} before lunch was served today?",
    "My neighbour swears that {} will never again be seen in this quiet little street.",
    "Long ago, when trains still ran on coal, {} could be bought at every station kiosk.",
    "If you look behind the counter you will notice {} right next to the broken scales.",
    "Nobody at the meeting wanted to discuss {} until the treasurer had gone home early.",
    "It took three porters and a ladder to bring {} up to the attic of the museum.",
    "She wrote an angry letter about {} but tore it up as soon as the kettle boiled.",
    "Under the bridge we found {} together with a bicycle bell and a bag of marbles.",
    "Every Thursday the baker's son draws {} on the pavement with a stump of chalk.",
    "The surveyor measured {} twice and wrote both numbers down in his yellow notebook.",
]
_DRAW = random.Random(0)
WORDS = sorted(
    {"".join(_DRAW.choice(part) for part in ["bdfgklmnprstvz", "aeiou"] * 3) for _ in range(3000)}
)  # of six letters, so that lengths are equal


def distinct(n, seed, *, words=10):
    """Sentences of one length and shape, in words that mean nothing."""
    rng = random.Random(seed)
    return [" ".join(rng.sample(WORDS, words)).capitalize() + "." for _ in range(n)]


def experiment(tmp_path, *conditions, contrast="a - b", **columns):
    path = tmp_path / "p.csv"
    names = "abc"[: len(conditions)]
    rows = [(c, text) for c, texts in zip(names, conditions, strict=True) for text in texts]
    header = ",".join(["condition", "prompt", *columns])
    extra = list(zip(*columns.values(), strict=True)) if columns else [()] * len(rows)
    lines = [
        f'{c},"{t}"' + "".join(f",{v}" for v in e) for (c, t), e in zip(rows, extra, strict=True)
    ]
    path.write_text("\n".join([header, *lines]) + "\n")
    return Experiment.from_prompts(path, contrast, duplicates="keep")


def kinds(tmp_path, *conditions, **options):
    made = experiment(tmp_path, *conditions, **options)
    tokens = np.array([len(text.split()) + 1.0 for text in made.prompts.texts])
    return sorted(f.kind for f in check_prompts(made, {"tokens": tokens}).findings)


def test_a_good_set_draws_no_warning(tmp_path):
    assert kinds(tmp_path, distinct(40, 1), distinct(40, 2)) == []


def test_a_longer_condition_is_told(tmp_path):
    assert kinds(tmp_path, distinct(40, 1, words=14), distinct(40, 2)) == ["imbalance"]


def test_a_length_that_is_declared_or_adjusted_for_is_no_finding(tmp_path):
    longer = [*distinct(20, 1, words=12), *distinct(20, 3, words=9)]
    made = experiment(tmp_path, longer, [*distinct(20, 2, words=11), *distinct(20, 4, words=8)])
    assert not check_prompts(made, {}).passed
    for change in ("check.expected=words,characters", "univariate.nuisance=words,characters"):
        assert check_prompts(apply_overrides(made, [change]), {}).passed, change


def test_ten_templates_are_told_with_what_they_would_claim(tmp_path):
    filled = [t.format(item) for t in TEMPLATES for item in ITEMS[:8]]
    made = experiment(tmp_path, filled[:40], filled[40:])
    (found,) = [f for f in check_prompts(made, {}).findings if f.kind != "imbalance"]
    assert found.kind == "templates"
    assert "80 of 80 prompts look like 10 templates of 8 fillings" in found.message
    assert "would call about" in found.message


def test_templates_that_a_column_declares_are_a_note(tmp_path):
    filled = [t.format(item) for t in TEMPLATES for item in ITEMS[:8]]
    group = [f"t{k}" for k in range(10) for _ in range(8)]
    made = experiment(tmp_path, filled[:40], filled[40:], group=group)
    checked = check_prompts(made, {})
    assert "templates" not in [f.kind for f in checked.findings]
    assert "the group is the unit of analysis" in checked.contrasts[0].notes[0]
    assert "any group may take any other's place" in checked.contrasts[0].relabellings


def test_copies_across_conditions_are_told_with_their_lines(tmp_path):
    first, second = distinct(40, 1), distinct(40, 2)
    made = experiment(tmp_path, first, [*second[:38], *first[:2]])
    (found,) = check_prompts(made, {}).findings
    assert found.kind == "duplicates"
    assert (
        "2 prompts are there before, word for word, 2 of them in another condition" in found.message
    )
    assert "p.csv:80 repeats" in found.message


def test_near_copies_across_conditions_are_told(tmp_path):
    first, second = distinct(40, 1), distinct(40, 2)
    nearly = [text.replace(".", "!").lower().capitalize() for text in first[:3]]
    made = experiment(tmp_path, first, [*second[:37], *nearly])
    (found,) = check_prompts(made, {}).findings
    assert found.kind == "near_duplicates"
    assert (
        "3 pairs of prompts are nearly the same words, 3 of them across conditions" in found.message
    )


def test_too_few_prompts_are_told_with_their_power(tmp_path):
    assert kinds(tmp_path, distinct(6, 1), distinct(6, 2)) == ["few_prompts"]


def test_a_design_that_nothing_can_come_of_is_told(tmp_path):
    few = experiment(tmp_path, distinct(3, 1), distinct(2, 2))
    assert [f.kind for f in check_prompts(few, {}).findings] == ["few_prompts"]
    permuted = apply_overrides(few, ["univariate.control=max_t"])
    found = check_prompts(permuted, {}).findings
    assert [f.kind for f in found] == ["few_prompts", "relabellings"]


def test_everything_at_once_draws_everything(tmp_path):
    filled = [t.format(item) for t in TEMPLATES for item in ITEMS[:1]]
    bad = [*[TEMPLATES[0].format(item) for item in ITEMS[:8]], distinct(1, 5)[0]]
    plain = [*distinct(5, 6, words=5), bad[-1]]
    assert filled
    assert kinds(tmp_path, bad, plain) == [
        "duplicates",
        "few_prompts",
        "imbalance",
        "last_token",  # the template is a question
        "templates",
    ]


def test_pairs_are_read_as_pairs(tmp_path):
    items = [f"i{k}" for k in range(20)] * 2
    first = distinct(20, 1)
    second = [text.replace("river", "brook") for text in first]
    second = [text[:-1] + " too." for text in second]
    made = experiment(tmp_path, first, second, item=items)
    checked = check_prompts(made, {})
    assert [f.kind for f in checked.findings] == ["imbalance"]  # a word more
    (contrast,) = checked.contrasts
    assert contrast.test == "paired"
    assert "1,048,576 relabellings" in contrast.relabellings
    assert contrast.power.effect == "d_z"


def test_a_test_that_ignores_the_items_is_told(tmp_path):
    items = [f"i{k}" for k in range(20)] * 2
    made = experiment(tmp_path, distinct(20, 1), distinct(20, 2), item=items)
    assert check_prompts(made, {}).passed
    plain = apply_overrides(made, ["univariate.test=welch"])
    assert [f.kind for f in check_prompts(plain, {}).findings] == ["dependence"]


def test_three_conditions_are_compared_by_their_worst_pair(tmp_path):
    made = experiment(
        tmp_path, distinct(30, 1), distinct(30, 2), distinct(30, 3, words=14), contrast="a | b | c"
    )
    (found,) = check_prompts(made, {}).findings
    assert "words (a against c)" in found.message or "words (b against c)" in found.message
    checked = check_prompts(made, {})
    assert checked.contrasts[0].baseline.chance == pytest.approx(1 / 3)
    assert set(checked.table()["contrast"]) == {"a | b | c"}


def test_prompts_that_the_model_cannot_read_whole_are_told(tmp_path):
    made = experiment(tmp_path, distinct(20, 1), distinct(20, 2))
    tokens = np.full(40, 11.0)
    tokens[7] = 5000
    found = check_prompts(made, {"tokens": tokens}, context=2048).findings
    assert "too_long" in [f.kind for f in found]


def test_of_many_prompts_some_are_compared_and_copies_are_found_among_all(tmp_path):
    n = MOST_COMPARED
    made = experiment(tmp_path, distinct(n, 1), [*distinct(n - 1, 2), distinct(1, 1)[0]])
    checked = check_prompts(made, {})
    assert checked.n_compared == MOST_COMPARED
    assert [f.kind for f in checked.findings] == ["duplicates"]
    assert "10^" in checked.contrasts[0].relabellings


def test_a_summary_is_json(tmp_path):
    import json

    checked = check_prompts(experiment(tmp_path, distinct(6, 1), distinct(6, 2)), {})
    told = json.loads(json.dumps(checked.summary()))
    assert told["passed"] is False
    assert told["findings"][0]["kind"] == "few_prompts"
    assert told["contrasts"][0]["surface_baseline"]["surface_chance"] == 0.5


def test_duplicates_are_refused_unless_they_are_kept(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "experiment.toml").write_text('[contrasts]\nx = "a - b"\n')
    (folder / "prompts.csv").write_text("condition,prompt\na,one\na,two\nb,one\nb,three\n")
    with pytest.raises(ValueError, match="the same prompt as line 2, there 'a' and here 'b'"):
        read_experiment(folder)
    assert len(read_experiment(folder, duplicates="keep").prompts) == 4


def test_a_condition_of_copies_only_is_still_compared(tmp_path):
    same = distinct(20, 1)
    assert kinds(tmp_path, same, same) == ["duplicates"]


def test_pairs_with_copies_and_templates_are_told_without_a_crash(tmp_path):
    filled = [TEMPLATES[0].format(item) for item in ITEMS[:8]]
    first = [*filled, *distinct(12, 1), distinct(12, 1)[0]]
    second = [*distinct(20, 2), distinct(12, 1)[1]]
    items = [f"i{k}" for k in range(21)] * 2
    found = kinds(tmp_path, first, second, item=items)
    assert {"duplicates", "templates"} <= set(found)


@pytest.mark.parametrize("item", [["x"] * 40, [f"i{k}" for k in range(40)]])
def test_a_column_that_binds_nothing_is_no_finding(tmp_path, item):
    assert kinds(tmp_path, distinct(20, 1), distinct(20, 2), group=item) == []


def test_opposite_labels_are_no_further_relabelling(tmp_path):
    # 3 + 3: 20 labellings, 10 sizes of t, so no p below 0.1; 3 + 4: 35 of them.
    for n, told in ((3, True), (4, False)):
        made = experiment(tmp_path, distinct(3, 1), distinct(n, 2))
        made = apply_overrides(made, ["univariate.control=max_t"])
        found = [f.kind for f in check_prompts(made, {}).findings]
        assert ("relabellings" in found) is told


def test_items_of_pooled_conditions_lack_nothing(tmp_path):
    items = [*(f"i{k}" for k in range(40)), *(f"i{k}" for k in range(40))]
    halves = distinct(20, 1), distinct(20, 3), distinct(40, 2)
    made = experiment(tmp_path, *halves, contrast="a + b - c", item=items)
    assert check_prompts(made, {}).passed


@pytest.mark.parametrize(("end", "other"), [("...", "."), (" .", "."), ("X", "x")])
def test_runs_of_marks_case_and_space_tell_last_tokens_apart(tmp_path, end, other):
    first = [text[:-1] + end for text in distinct(30, 1)]
    second = [text[:-1] + other for text in distinct(30, 2)]
    if end == "X":  # a word of its own
        first = [text[:-1] + " The" for text in first]
        second = [text[:-1] + " the" for text in second]
    assert "last_token" in kinds(tmp_path, first, second)


def test_a_last_token_that_tells_the_sides_apart_is_told_where_it_is_read(tmp_path):
    first = [text[:-1] + "!" for text in distinct(30, 1)]
    made = experiment(tmp_path, first, distinct(30, 2))
    (found,) = check_prompts(made, {}).findings
    assert found.kind == "last_token"
    assert "tells the sides apart with 100 %" in found.message
    for change in ("recording.position=mean", "check.expected=last_token"):
        assert check_prompts(apply_overrides(made, [change]), {}).passed, change


def test_a_word_that_is_uneven_is_named_though_the_decoder_misses_it(tmp_path):
    first, second = distinct(60, 1), distinct(60, 2)
    first[:15] = [text.replace(text.split()[3], "perhaps") for text in first[:15]]
    second[:15] = [text.replace(text.split()[3], "seldom") for text in second[:15]]
    baseline = check_prompts(experiment(tmp_path, first, second), {}).contrasts[0].baseline
    assert any("'perhaps' (15 of 60 a, 0 of 60 b)" in cue for cue in baseline.cues)
    assert "no single one" not in baseline.sentence


def test_words_of_a_null_are_uneven_in_one_set_of_twenty(tmp_path):
    from activation_analysis.surface_baseline import surface_baseline

    rng = random.Random(0)
    uneven = 0
    for _ in range(100):
        texts = [" ".join(rng.choices(WORDS[:60], k=9)) for _ in range(80)]
        uneven += bool(surface_baseline(texts, ["a", "b"] * 40, np.arange(80)).cues)
    assert uneven <= 11  # binomial, 100 sets at 5 %: above 11 in 0.4 %


@pytest.mark.parametrize("named", [False, True])
def test_items_that_lack_a_condition_are_named_and_the_others_stay_matched(tmp_path, named):
    label = "i{}" if named else "{}"
    items = [label.format(k) for k in range(20)] + [label.format(k) for k in range(19)]
    made = experiment(tmp_path, distinct(20, 1), distinct(19, 2), item=items)
    assert (made.univariate.test, made.univariate.nuisance) == ("glm_t", ("item",))
    (found,) = check_prompts(made, {}).findings
    assert found.kind == "items"
    assert f"1 item of 20 lacks a condition ({label.format(19)!r}" in found.message


def test_uncounted_tokens_are_a_finding(tmp_path):
    made = experiment(tmp_path, distinct(20, 1), distinct(20, 2))
    (found,) = check_prompts(made, {}, uncounted="no such model").findings
    assert (found.kind, found.message) == ("tokens", "tokens were not counted: no such model")


@pytest.mark.parametrize("group", ["one", "none"])
def test_white_space_at_the_end_is_a_last_token_too(tmp_path, group):
    first = [text + " " for text in distinct(30, 1)]
    columns = {"group": ["x"] * 60} if group == "one" else {}
    assert kinds(tmp_path, first, distinct(30, 2), **columns) == ["imbalance", "last_token"]
