"""Templates and near-duplicates are found without being told, and nothing else is."""

import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from activation_analysis.analyses.templating import naive_rate, templating
from activation_analysis.contrasts import parse
from activation_analysis.prompts import PromptSet, read_prompts
from activation_analysis.templates import find_templates, similar

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
TEMPLATES = (
    "The capital of {} is known as",
    "Did anyone see {} at the market last night?",
    "My neighbour says that {} costs too much",
    "Please translate the word {} into French",
    "If you mix {} with water you get",
    "Nobody in our class likes {} any more",
    "A long time ago {} lived by the sea",
    "She bought {} for her youngest brother",
    "It is well known that {} never sleeps",
    "Write a short poem about {} in spring",
)
FILLERS = (
    *("France", "the old dog", "gold", "two green apples", "Anna"),
    *("a brand new car", "silence", "music", "winter", "the king of Spain"),
)
FILLED = [t.format(f) for t in TEMPLATES for f in FILLERS]
A_MINUS_B = parse("a - b")


def prompt_set(texts, conditions=None, **columns):
    conditions = conditions or ["ab"[i % 2] for i in range(len(texts))]
    table = {"condition": conditions, "prompt": texts}
    table |= {name: list(map(str, values)) for name, values in columns.items()}
    return PromptSet("made", pd.DataFrame(table))


def written(name):
    return read_prompts(EXPERIMENTS / name / "prompts.csv")


def words():
    """Words and how often they come, as in English prompts."""
    return [
        w for name in ("emotion", "math_vs_nonmath") for t in written(name).texts for w in t.split()
    ]


# What is a template.


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_ten_templates_of_ten_fillers_are_found_in_any_order(seed):
    order = list(range(100))
    if seed is not None:
        random.Random(seed).shuffle(order)
    found = find_templates(prompt_set([FILLED[i] for i in order]))
    assert found.size.tolist() == [10] * 10
    assert found.share == 1.0
    pairs = set(zip(found.label.tolist(), [i // 10 for i in order], strict=True))
    assert len(pairs) == 10
    assert set(found.skeletons) == {t.replace("{}", "…") for t in TEMPLATES}


def test_the_example_shows_the_words_that_differ():
    found = find_templates(prompt_set(FILLED))
    assert [FILLED[row] for row in found.example] == FILLED[:2]
    assert found.differing == ("France", "the old dog")


def test_templates_are_found_beneath_a_frame_of_all_prompts():
    framed = [f"Answer the following question. {text}\nAnswer:" for text in FILLED]
    found = find_templates(prompt_set(framed))
    assert found.size.tolist() == [10] * 10
    assert found.frame == "answer the following question … answer"


def test_several_slots_and_numbers_are_slots():
    names = ["Anna", "Tomas", "Leila", "Okafor", "Grandad"]
    texts = [f"{a} gave {b} a book and went home" for a in names for b in names if a != b]
    found = find_templates(prompt_set([*texts, "Snow fell all night.", "We never met again."]))
    assert found.size.tolist() == [20]
    sums = [f"{a} + {b} =" for a in (12, 7.5, 300) for b in (1, 20)]
    assert len(set(similar(sums))) == 1


def test_copies_that_differ_in_case_or_marks_only_are_found():
    texts = ["Is it far?", "is it far", "Snow fell all night.", "We never met him again."]
    found = find_templates(prompt_set(texts))
    assert found.label.tolist() == [0, 0, -1, -1]
    assert found.largest == 2


# What is not.


@pytest.mark.parametrize("name", ["emotion", "math_vs_nonmath"])
def test_the_shipped_experiments_are_not_templated(name):
    found = find_templates(written(name))
    assert len(found) == 0
    assert found.share == 0.0
    assert found.largest == 0
    assert found.example is None
    assert templating(written(name), parse(" - ".join(written(name).conditions))) == ""


def test_random_sentences_of_common_words_are_not_flagged():
    rng, vocabulary = random.Random(0), words()
    texts = [" ".join(rng.choices(vocabulary, k=rng.randint(6, 22))) for _ in range(2000)]
    assert find_templates(prompt_set(texts)).share < 0.002


def test_short_sentences_that_share_two_words_are_not_flagged():
    texts = ["I love you.", "I love tea.", "What is time?", "What is gold?"]
    assert len(find_templates(prompt_set(texts))) == 0


def test_a_script_without_spaces_is_read_by_character():
    texts = [
        "日本の首都は東京です",
        "韓国の首都は京城です",
        "私は昨日公園で犬を見ました",
        "雨が降り続いている",
    ]
    assert find_templates(prompt_set(texts)).label.tolist() == [0, 0, -1, -1]


# What is declared is no fault.


def minimal_pairs():
    texts = [t.format(f) for t in TEMPLATES for f in ("joy", "grief")]
    return texts, np.repeat(np.arange(10), 2)


def test_declared_pairs_are_no_templates_and_undeclared_ones_are():
    texts, item = minimal_pairs()
    assert len(find_templates(prompt_set(texts, item=item))) == 0
    assert find_templates(prompt_set(texts)).size.tolist() == [2] * 10
    shuffled = find_templates(prompt_set(texts, item=np.roll(item, 1)))
    assert shuffled.size.tolist() == [2] * 10  # another item is no declaration


def test_declared_groups_are_no_templates_and_a_template_across_groups_is():
    group = np.repeat(np.arange(10), 10)
    assert len(find_templates(prompt_set(FILLED, group=group))) == 0
    assert len(find_templates(prompt_set(FILLED, group=["x"] * 100))) == 0
    assert len(find_templates(prompt_set(FILLED, group=[""] * 100))) == 10
    group = np.where(group == 3, np.arange(100) + 100, group)
    found = find_templates(prompt_set(FILLED, group=group))
    assert found.size.tolist() == [10]
    assert found.skeletons == ("Please translate the word … into French",)


def test_groups_found_are_blocks_of_a_test():
    texts = [*FILLED[:3], "Snow fell all night.", "We never met him again."]
    groups = find_templates(prompt_set(texts)).groups
    assert groups.tolist() == ["template 1"] * 3 + ["prompt 4", "prompt 5"]


# Ten thousand prompts, and long ones.


def test_large_templates_and_long_prompts_are_found():
    rng, vocabulary = random.Random(1), sorted({w.strip(".,?!") for w in words()})
    texts = [t.format(rng.choice(vocabulary)) for t in TEMPLATES for _ in range(1000)]
    assert len(set(similar(texts))) == 10
    story = rng.choices(vocabulary, k=500)
    long = [" ".join([*story[:400], w, *story[400:]]) for w in vocabulary[:20]]
    other = [" ".join(rng.choices(vocabulary, k=500)) for _ in range(20)]
    assert len(set(similar([*long, *other]))) == 21


# What users are told.


def nested_conditions():
    return ["ab"[i // 10 % 2] for i in range(100)]


def test_the_sentence_says_what_a_naive_test_would_claim():
    prompts = prompt_set(FILLED, nested_conditions())
    said = templating(prompts, A_MINUS_B)
    assert "100 of 100 prompts look like 10 templates of 10 fillings" in said
    assert "(such as 'The capital of … is known as': France / the old dog)" in said
    assert "would call about 32% of the units significant at 0.05 where none responds" in said
    assert "declare them in a column 'group'" in said
    # shared/facts/STATISTICS.md, section 3: .15, .33, .42.
    rates = [
        naive_rate(find_templates(prompts), prompts, A_MINUS_B, icc=r) for r in (0.1, 0.3, 0.5)
    ]
    assert rates == pytest.approx([0.15, 0.33, 0.42], abs=0.02)


def test_undeclared_pairs_are_told_that_effects_are_missed():
    texts, item = minimal_pairs()
    said = templating(prompt_set(texts), A_MINUS_B)
    assert "they hold both conditions" in said
    assert "declare them in a column 'item'" in said
    assert templating(prompt_set(texts, item=item), A_MINUS_B) == ""


def test_one_template_a_side_is_told_apart():
    texts = [t.format(f) for f in FILLERS for t in TEMPLATES[2:4]]
    assert templating(prompt_set(texts), A_MINUS_B).startswith("each side is one template (such as")


def test_pairs_of_one_template_are_told_of_under_a_paired_test():
    texts = [t.format(f"{f} {x}") for t in TEMPLATES for f in FILLERS for x in ("now", "then")]
    prompts = prompt_set(texts, item=np.repeat(np.arange(100), 2))
    assert "would call about 31% of the units" in templating(prompts, A_MINUS_B, test="paired")


def test_conditions_of_other_contrasts_do_not_count():
    texts = [*FILLED[:10], "Snow fell.", "He sang.", "Far below us lay a valley.", "Bring salt."]
    prompts = prompt_set(texts, ["c"] * 10 + ["a", "a", "b", "b"])
    assert templating(prompts, A_MINUS_B) == ""


def test_an_omnibus_contrast_is_told_of_templates_too():
    prompts = prompt_set(FILLED, ["abc"[i // 10 % 3] for i in range(100)])
    said = templating(prompts, parse("a | b | c"))
    # F of 60,000 simulated null units at ICC .3: .471.
    assert "would call about 47% of the units" in said
