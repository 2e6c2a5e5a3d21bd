"""What `activation-analysis new` writes, as text: the experiment file, the README, the prompts.

``$name`` is filled in by `starter.starter_files`; everything else stands as it is here.
"""

from __future__ import annotations

EXPERIMENT = """\
# $name: what is asked, of which prompts, and how the answer is computed.
# A line that begins with "# name = value" shows a default: delete the "# " to change it.
# Any option can also be changed for one run: --set univariate.alpha=0.01

# One sentence, ending in a question mark; it stands over the result.
question = $question

# The prompt file beside this one; several are a list: ["a.csv", "b.csv"]. Also .tsv, .jsonl, .xlsx,
# .parquet, or one .txt a condition.
prompts = "prompts.csv"
# What its columns are called, where they have other names: ["prompt=text", "condition=label"].
# columns = []
# Columns that are conditions, where each row is an item: ["formal", "informal"].
# wide = []
# Where the file is not UTF-8: "cp1252", "utf-16".
# encoding = ""

# Seed of everything random: splits, permutations, null repetitions. Change it to see that
# nothing hangs on it.
seed = 0

# Which conditions are compared, each line a contrast: name = "one - other". A positive effect
# is a stronger response to the first. Also: "a + b - c" (the mean of a and b against c) and
# "a | b | c" (does any of them differ?). Conditions with a space go in double quotes.
[contrasts]
$contrasts

[model]
# The language model: smollm2-135m comes with the package; else a hub id ("gpt2"), a folder, or a
# .gguf file.
id = "smollm2-135m"
# A hub model's commit or tag. Set it before you publish: hub models change.
# revision = ""
# Where the model runs: cpu, cuda, cuda:1, mps. auto takes a GPU where there is one.
# device = "auto"
# Precision. auto is float32 on a CPU. Never float16 where values overflow: take bfloat16.
# dtype = "auto"
# Limits for a model larger than one GPU: "0=20GiB,cpu=60GiB".
# max_memory = ""
# Where blocks of a model larger than memory wait on the disk.
# offload_folder = ""

[recording]
# Where in each block: residual is a block's output, attention and mlp what they add to it, neuron
# and head are inside them. Fewer are quicker, and make the correction less severe.
sites = ["residual", "attention", "mlp", "neuron", "head"]
# Which tokens speak for a prompt: last, first, mean, max, word_final, span (a [[marked]] stretch)
# or all. At last, end the prompts of all conditions in the same words; else choose mean.
position = "last"
# Blocks to record, the first is 0; [] is all. Choose them before you look at a result.
# layers = []
# Tokens at the beginning that never count. 1 leaves out the attention sink, for mean and max.
# skip_first = 0
# true: each prompt is a user turn of the model's chat template. For models tuned to chat.
# chat = false
# true: <|im_end|> in a prompt is that token, not text. Only for prompts that you trust.
# control_tokens = false
# true: cut prompts longer than the model's context, instead of refusing them.
# truncate = false
# true: keep sums, not activations. For sets too large for the disk; analyze cannot follow.
# stream = false
# Tokens a batch; 0 finds what is fastest. Lower it where a GPU's memory runs out.
# batch_tokens = 0
# How prompts share a batch: packed, padded, or auto.
# layout = "auto"
# A capture larger than so many megabytes stays in the store and is not copied into MLflow.
# upload_mb = 1000

[univariate]
# The test of every unit. auto is $test.
# Others: mannwhitney (ranks, for heavy tails), glm_t (with nuisance), f (for "a | b | c").
test = "auto"
# The error control over all units at once: fdr_bh bounds the share of false discoveries; max_t,
# holm and bonferroni the chance of a single one (max_t by permutation, the most powerful).
control = "fdr_bh"
# The error rate that control holds.
alpha = 0.05
# Units in the table and the figure of top units.
# top_n = 20
# Columns to adjust for, such as ["tokens"], where the sides differ in what you could not balance.
# nuisance = []
# auto: prompts of one group (template, author, source) count as one. ignore: a column group
# binds nothing together; say why in the README.
# groups = "auto"
# Permutations of max_t. 10000 for a paper.
# n_permutations = 1000
# true: max_t goes on below the largest unit, and finds more for the same error rate.
# step_down = true
# Null repetitions that check the run's own false positives; 0 leaves them out.
# calibration = 100

[check]
# Measures in which the sides differ since the question is about them, such as ["punctuation"]:
# `check` then shows them, and does not count them as a fault.
# expected = []
"""

README = """\
# $name

**Question.** $question_plain

```
activation-analysis check $target
activation-analysis run $target
```

$warning

## Design

Conditions: $conditions.
Contrasts: $contrasts_plain.

A positive effect is a stronger response to the first condition of a contrast; "a | b | c" asks
whether any differs, has no direction, and is followed by every pair. Activations are read at the
last token of each prompt.

$design

## How the prompts were written

*Who wrote them, when, from what; one by one, or from a corpus or a model (which, with which
request)? What varies (topic, form, person, tense), and what was held constant? In what do prompts
of different conditions agree?*

## Balance

*`activation-analysis check $target --save balance` writes the table and the figure. Copy the table
to this place. What could not be balanced, and why?*

## Surface baseline

*`check` says how well words alone tell the conditions apart. Near chance: a difference in
activations cannot come from single words. Near 100 %: it can; say so here.*

## What to expect

*Where, how strong, in which direction, and why; written before the first run. Expectations, not
results.*

## What this set cannot show

*Every set confounds something. Which other differences between the conditions could make the same
map? A difference is an association: no unit is shown to cause anything. Which languages, lengths,
kinds of text are not in it?*

## Sources

*Papers that the idea or the design comes from; the licence of texts that you did not write.*
"""

STARTER_WARNING = """\
**The $n_prompts prompts are a demonstration**: enough to see everything work, too few to conclude
anything from (`check` says so). Write your own, 30 or more a condition."""

PLACEHOLDER_WARNING = """\
**The $n_prompts prompts are placeholders**: the file runs, and its result means nothing. Replace
every one of them; write 30 or more a condition."""

UNPAIRED_DESIGN = """\
Prompts of different conditions are not matched: every prompt is its own text, and the groups are
compared by Welch's test (several at once by F). Prompts that belong together (a template, an
author, a source) say so in a column `group`. Where each prompt could have a partner that differs in
nothing but the condition, give partners the same entry in a column `item`: a paired comparison
finds more with fewer."""

PAIRED_DESIGN = """\
Prompts come in matched sets: those with the same `item` differ in the condition and in as little
else as you can manage. Every item has one prompt in each condition. The test compares partners with
each other, so that what they share (topic, length, words) cannot make a difference; what counts as
the number of observations is the number of items, and these have to differ from each other."""

UNPAIRED_TEST = "welch here (the prompts have no column item)"
PAIRED_TEST = "paired here (the prompts have items)"
BLOCKED_TEST = "glm_t here, with the item as a regressor (blocks)"

QUESTION = "Which units respond more to morning than to evening?"

MORNING_EVENING = {
    "morning": (
        "The kettle was on before the sun had cleared the roof, and",
        "Sleepy passengers yawned on the platform as the first train came in.",
        "She ate her breakfast standing up, because lessons began at",
        "Snow still lay on the grass when the postman opened our",
        "He shaved, put on his tie and read the early news on the way to",
        "Our baker had just put out his first loaves, still warm from the",
        "Why does the cock wake us so long before the alarm?",
        "Draw the curtains, make some toast, and then wake the",
    ),
    "evening": (
        "The street lamps came on one by one along the canal, and",
        "Tired shoppers dozed in the back of the bus until it stopped.",
        "We had our supper standing up, because the concert began at",
        "Bats were already circling when the caretaker locked our",
        "She hung up her coat and told us the gossip of the week on the way to",
        "A second audience poured out into the dark, still warm from the",
        "Who heard the owl that calls so soon after sunset?",
        "Close the shutters, bank up the fire, and then bathe the",
    ),
}

MORNING_EVENING_PAIRS = {  # item -> the text around "morning" or "evening"
    "dog": "She walked the dog this {} and came home by the",
    "train": "The {} train was late again, so we waited at the",
    "plants": "Every {} he waters the tomatoes that grow behind the",
    "rain": "It poured all {}, and nobody wanted to leave the",
    "aunt": "On Sunday {} my aunt rings up to ask about the",
    "market": "A cold {} in March is no time to open a",
    "hall": "No one had swept the hall by {}, which annoyed the",
    "paper": "Of the two editions, only the {} one carried a picture of the",
}

PLACEHOLDER = "REPLACE ME, number {number}: one prompt of the condition {condition}"
N_PLACEHOLDERS = 4
