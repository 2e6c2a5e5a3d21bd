"""An experiment file is read strictly: what it says is what runs, a slip is told by line."""

import dataclasses
import random
import tomllib
from pathlib import Path

import pytest

from activation_analysis.activations import SITES
from activation_analysis.errors import ContrastError, ExperimentError, InputError, PromptError
from activation_analysis.experiment import (
    Experiment,
    ModelOptions,
    RecordingOptions,
    UnivariateOptions,
    apply_overrides,
    list_experiments,
    load_experiment,
    read_experiment,
    safe_name,
)
from activation_analysis.options import TABLES, kinds, leaf_names
from activation_analysis.prompt_files import placed
from activation_analysis.toml_lines import key_lines, line_of

PROMPTS = "condition,prompt,item\nmath,1 + 1,1\nmath,2 + 2,2\nnonmath,A cat,1\nnonmath,A dog,2\n"
SHORT = '[contrasts]\nmath = "math - nonmath"\n'
FULL = """\
question = "Which units respond more to mathematics?"
seed = 7

[contrasts]
math = "math - nonmath"
any  = "math | nonmath"

[model]
id = "HuggingFaceTB/SmolLM2-135M"
revision = "main"
device = "cuda:1"
dtype = "bfloat16"

[recording]
sites = ["attn", "mlp"]
position = "mean"
layers = [0, 5]
truncate = true
batch_tokens = 64

[univariate]
test = "ttest"
control = "holm"
alpha = 0.01
top_n = 3
"""


def add_experiment(root, name, text=SHORT, prompts=PROMPTS):
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "experiment.toml").write_bytes(text.encode())
    (folder / "prompts.csv").write_text(prompts, encoding="utf-8")
    return folder


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A working directory with experiments/, so that messages name files as a user would."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "experiments"


def refusal(root, text, error=ExperimentError):
    """The lines of the message that a file is refused with, less its path."""
    add_experiment(root, "emotion", text)
    with pytest.raises(error) as caught:
        load_experiment("emotion", [root])
    assert type(caught.value) is error
    return str(caught.value).replace("experiments/emotion/experiment.toml:", "").split("\n")


def test_a_short_file_gets_every_default(root):
    add_experiment(root, "math_vs_nonmath")
    experiment = load_experiment("math_vs_nonmath", [root])
    assert (experiment.name, experiment.question, experiment.seed) == ("math_vs_nonmath", "", 0)
    assert experiment.model == ModelOptions("smollm2-135m", "", "auto", "auto")
    assert experiment.recording == RecordingOptions(SITES, "last", (), False, 0)
    assert experiment.settings.univariate == UnivariateOptions("auto", "fdr_bh", 0.05, 20)
    assert experiment.prompts.counts == {"math": 2, "nonmath": 2}
    assert experiment.prompts.name == "math_vs_nonmath"
    assert [c.name for c in experiment.contrasts] == ["math"]


def test_a_full_file_says_everything(root):
    add_experiment(root, "math", FULL)
    experiment = load_experiment("math", [root])
    assert experiment.leaves() == {
        "question": "Which units respond more to mathematics?",
        "prompts": "prompts.csv",
        "columns": "none",
        "wide": "none",
        "encoding": "",
        "seed": 7,
        "contrasts.math": "math - nonmath",
        "contrasts.any": "math | nonmath",
        "model.id": "HuggingFaceTB/SmolLM2-135M",
        "model.revision": "main",
        "model.device": "cuda:1",
        "model.dtype": "bfloat16",
        "model.max_memory": "",
        "model.offload_folder": "",
        "recording.sites": "attention,mlp",
        "recording.position": "mean",
        "recording.layers": "0,5",
        "recording.truncate": "true",
        "recording.batch_tokens": 64,
        "recording.skip_first": 0,
        "recording.chat": "false",
        "recording.control_tokens": "false",
        "recording.layout": "auto",
        "recording.stream": "false",
        "recording.upload_mb": 1000,
        "univariate.test": "student",
        "univariate.control": "holm",
        "univariate.alpha": 0.01,
        "univariate.top_n": 3,
        "univariate.nuisance": "none",
        "univariate.groups": "auto",
        "univariate.n_permutations": 1000,
        "univariate.step_down": "true",
        "univariate.calibration": 100,
        "check.expected": "none",
    }


def test_an_unknown_option_is_answered_as_promised(root):
    add_experiment(root, "emotion", FULL.replace("\nalpha", "\nalhpa"))
    with pytest.raises(ExperimentError) as caught:
        load_experiment("emotion", [root])
    assert str(caught.value) == (
        "experiments/emotion/experiment.toml:24: [univariate] has no option 'alhpa'; "
        "known: alpha, calibration, control, groups, n_permutations, nuisance, step_down, "
        "test, top_n (did you mean 'alpha'?)"
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('question = 3', "question must be a text in quotes, not 3"),
        ('question = "\\u0000"', "question holds a NUL character"),
        ("seed = -1", "seed must be a whole number of at least 0, not -1"),
        ("seed = true", "seed must be a whole number of at least 0, not True"),
        ("seed = 1.0", "seed must be a whole number of at least 0, not 1.0"),
        ("prompts = []", "prompts is empty; write a list such as"),
        ('prompts = ["a.csv", "a.csv"]', "prompts has 'a.csv' twice"),
        ('prompts = ""', "prompts is empty"),
        ('columns = "prompt=text"', 'columns must be a list such as ["prompt=text", "condition=la'),
        ('columns = ["prompt"]', "columns is 'prompt'; known: our name, = and the file's name"),
        ('columns = ["prompt =text"]', "columns is 'prompt =text'; known: our name, ="),
        ('columns = ["prompt=a", "prompt=b"]', "columns has 'prompt' twice; a column has one name"),
        ('columns = ["item=id", "group=id"]', "columns has 'id' twice; a column has one name"),
        ('wide = ["a", "a"]', "wide has 'a' twice"),
        ("wide = [3]", "wide must be a text in quotes, not 3"),
        ('encoding = "klingon"', "encoding is 'klingon'; such as utf-8, utf-16, cp1252"),
        ("encoding = 8", "encoding must be a text in quotes, not 8"),
        ("prompts = 3", "prompts must be a list such as"),
        ("alpha = 0.1", "no table or option 'alpha'; known: check, columns, contrasts, encoding, "
         "model, prompts, question, recording, seed, univariate, wide "
         "('alpha' belongs below [univariate])"),
        ('quesiton = "x"', "no table or option 'quesiton'"),
        ("univarite.alpha = 0.1", "(did you mean 'univariate'?)"),
        ("univariate = 3", "univariate must be a table; write [univariate] and its options below"),
        ("univariate = [{}]", "univariate must be a table"),
        ("univariate = {alpha = 2}", "[univariate] alpha must be a number between 0 and 1, not 2"),
        ("univariate.alpha = nan", "[univariate] alpha must be a number between 0 and 1, not nan"),
        ("univariate.alpha = true", "alpha must be a number between 0 and 1, not True"),
        ('univariate.test = "welsh"', "[univariate] test is 'welsh'; known: auto, brunnermunzel, "
         "f, glm_f, glm_t, kruskal, mannwhitney, paired, student, welch, wilcoxon "
         "(did you mean 'welch'?)"),
        ("univariate.test = 5", "[univariate] test is 5; known: auto, brunnermunzel, f,"),
        ('univariate.control = "none"', "[univariate] control is 'none'; known: bonferroni"),
        ("univariate.top_n = 0", "[univariate] top_n must be a whole number of at least 1, not 0"),
        ('model.id = " "', "[model] id is empty"),
        ('model.device = "cdua"', "[model] device is 'cdua'; known: auto, cpu, cuda, cuda:N, mps"),
        ('model.dtype = "fp32"', "[model] dtype is 'fp32'; known: auto, bfloat16, float16"),
        ('recording.sites = "mlp"', "[recording] sites must be a list such as"),
        ("recording.sites = []", "[recording] sites is empty"),
        ('recording.sites = ["mpl"]', "[recording] sites is 'mpl'; known: attention, head, mlp"),
        ('recording.sites = ["attn", "attention"]', "[recording] sites has 'attention' twice"),
        ('recording.position = "lst"', "(did you mean 'last'?)"),
        ("recording.layers = [-1]", "[recording] layers must be a whole number of at least 0"),
        ("recording.truncate = 1", "[recording] truncate must be true or false, not 1"),
    ],
)  # fmt: skip
def test_a_bad_value_is_told_with_its_line(root, line, said):
    (told,) = refusal(root, f"# first\n\n{line}\n\n{SHORT}")
    assert told.startswith("3: ")
    assert said in told


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", '1: no [contrasts]; write at least one, as in math = "math - nonmath"'),
        ("\n[contrasts]", "2: no [contrasts]"),
        ("contrasts = 3", "1: contrasts must be a table"),
        ("[contrasts]\nmath = 3", "2: [contrasts] math must be a text such as"),
        ('[contrasts]\n\n"../x" = "a - b"', "3: [contrasts] '../x' cannot be the name of a"),
        ('[contrasts]\nmath = "a-b"', "2: [contrasts] contrast 'a-b': compares nothing"),
    ],
)
def test_contrasts_are_needed_and_must_parse(root, text, said):
    (told,) = refusal(root, text)
    assert told.startswith(said)


def test_every_slip_of_a_file_is_told_at_once_in_the_order_of_its_lines(root):
    told = refusal(
        root,
        '[univariate]\ntest = "welsh"\nalhpa = 1\n\n[contrast]\nx = "a - b"\n\n[model]\nid = 3\n',
    )
    assert [line.split(":")[0] for line in told] == ["1", "2", "3", "5", "9"]
    assert "(did you mean 'contrasts'?)" in told[3]


def test_a_contrast_must_fit_the_prompts(root):
    told = refusal(root, SHORT + 'b = "math - nomath"\n\nc = "cat | dog"\n', ContrastError)
    assert told == [
        "3: contrast 'math - nomath': no condition 'nomath' (did you mean 'nonmath'?); "
        "the prompts have 'math', 'nonmath'",
        "5: contrast 'cat | dog': no condition 'cat', 'dog'; the prompts have 'math', 'nonmath'",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('seed = 1\nquestion = "open\n' + SHORT, 2),
        (SHORT + "\n[model\nid = 3", 4),
        ("seed = 1\nseed = 2\n" + SHORT, 2),
        ("seed = 1\n[contrasts]\nx = [1,\n2", 4),
        ("seed = 1\n[contrasts]\nx =", 3),
        ("# first\r\nseed = = 1\r\n", 2),
        ("\n\nnot toml", 3),
    ],
)
def test_what_is_not_toml_is_told_with_its_line(root, text, line):
    (told,) = refusal(root, text)
    assert told.startswith(f"{line}: not TOML: ")


def test_deep_nesting_and_other_encodings_are_refused(root):
    folder = add_experiment(root, "deep", "x = " + "[" * 100_000)
    with pytest.raises(ExperimentError, match="not TOML"):
        read_experiment(folder)
    (folder / "experiment.toml").write_bytes("seed = 1\n# café\n".encode("cp1252"))
    with pytest.raises(ExperimentError, match=r"experiment\.toml:2: byte 0xe9 \('é' in cp1252\)"):
        read_experiment(folder)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_a_file_saved_by_any_editor_reads_the_same(root, encoding, newline):
    add_experiment(root, "plain", FULL)
    folder = add_experiment(root, "other")
    (folder / "experiment.toml").write_bytes(FULL.replace("\n", newline).encode(encoding))
    assert read_experiment(folder).settings == load_experiment("plain", [root]).settings


def test_an_analysis_runs_where_its_table_is_present(root):
    with_table = add_experiment(root, "with", SHORT + "[univariate]\n")
    without = add_experiment(root, "without", SHORT)
    assert read_experiment(with_table).settings.univariate == UnivariateOptions()
    assert read_experiment(without).settings.univariate == UnivariateOptions()


def test_prompts_are_read_from_where_the_file_says(root):
    folder = add_experiment(
        root, "two", 'prompts = ["math.txt", "../shared/nonmath.txt"]\n' + SHORT
    )
    (root / "shared").mkdir()
    (folder / "math.txt").write_text("1 + 1\n2 + 2\n")
    (root / "shared" / "nonmath.txt").write_text("A cat\nA dog\n")
    assert read_experiment(folder).prompts.counts == {"math": 2, "nonmath": 2}


def test_wrong_prompts_are_told_when_the_experiment_is_read(root):
    folder = add_experiment(
        root, "x", prompts="condition,prompt\nmath,\nmath,x\nnonmath,y\nnonmath,z\n"
    )
    with pytest.raises(PromptError, match=r"^experiments/x/prompts\.csv:2: the prompt is empty$"):
        read_experiment(folder)
    (folder / "prompts.csv").rename(folder / "promts.csv")
    with pytest.raises(PromptError, match=r"no such file \(did you mean 'promts.csv'\?\)"):
        read_experiment(folder)


def test_a_paired_test_needs_items_that_pair(root):
    paired = SHORT + '[univariate]\ntest = "paired"\n'
    assert read_experiment(add_experiment(root, "a", paired)).univariate.test == "paired"
    odd = add_experiment(root, "b", paired, PROMPTS.replace("A dog,2", "A dog,3"))
    with pytest.raises(ExperimentError) as caught:
        read_experiment(odd)
    assert str(caught.value).split("\n") == [
        "experiments/b/experiment.toml:4: a paired test of 'math - nonmath':",
        "experiments/b/prompts.csv:3: item '2' is on one side of the contrast only; "
        "a paired test needs it on both",
        "experiments/b/prompts.csv:5: item '3' is on one side of the contrast only; "
        "a paired test needs it on both",
    ]
    omnibus = add_experiment(root, "c", paired.replace("math - nonmath", "math | nonmath"))
    with pytest.raises(ExperimentError, match="a paired test compares two sides"):
        read_experiment(omnibus)


@pytest.mark.parametrize(
    "changes",
    [
        [],
        ["univariate.test=paired", "recording.layers=3,1", "model.device=cpu"],
        ["question=a \"quoted\" \\ one\u007f\n\ttwo 数学 😀 \x1b", "recording.truncate=true"],
        ["univariate.alpha=1e-05", "contrasts.other way.1=nonmath - math"],
    ],
)  # fmt: skip
def test_an_experiment_written_as_toml_reads_back_equal(root, changes):
    folder = add_experiment(root, "math", FULL.replace('any  = "math | nonmath"\n', ""))
    experiment = apply_overrides(read_experiment(folder), changes)
    (folder / "experiment.toml").write_text(experiment.to_toml(), encoding="utf-8", newline="")
    again = read_experiment(folder)
    assert again == experiment
    assert again.leaves() == experiment.leaves()
    assert again.to_toml() == experiment.to_toml()


def test_a_copy_with_its_prompts_reads_back_equal(root, tmp_path):
    experiment = read_experiment(add_experiment(root, "math", FULL))
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "rows.jsonl").write_text(experiment.prompts.to_jsonl(), encoding="utf-8")
    (copy / "ran.toml").write_text(experiment.to_toml(prompts="rows.jsonl"), encoding="utf-8")
    again = read_experiment(copy / "ran.toml", name="math")
    assert again.prompts.fingerprint == experiment.prompts.fingerprint
    assert again.settings == dataclasses.replace(experiment.settings, prompts=("rows.jsonl",))


THEIRS = 'prompts = "theirs.csv"\nencoding = "cp1252"\ncolumns = ["calm=Calm text"]\n' + (
    'wide = ["calm", "angry"]\n[contrasts]\nmood = "calm - angry"\n'
)


def add_theirs(root, text=THEIRS):
    folder = add_experiment(root, "moods", text)
    rows = "Calm text,angry,group\ndon’t worry,why?,1\nall’s well,no!,2\n"
    (folder / "theirs.csv").write_bytes(rows.encode("cp1252"))
    return folder


def test_other_peoples_files_are_read_as_the_settings_say(root):
    read = read_experiment(add_theirs(root))
    assert read.prompts.texts == ("don’t worry", "why?", "all’s well", "no!")
    assert list(read.prompts.table["item"]) == ["1", "1", "2", "2"]
    assert read.leaves()["columns"] == "calm=Calm text"
    assert read.leaves()["wide"] == "calm,angry"


def test_a_copy_of_other_peoples_prompts_needs_no_settings_to_be_read(root, tmp_path):
    ran = read_experiment(add_theirs(root))
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "rows.jsonl").write_text(ran.prompts.to_jsonl(), encoding="utf-8")
    (copy / "ran.toml").write_text(ran.to_toml(prompts="rows.jsonl"), encoding="utf-8")
    again = read_experiment(copy / "ran.toml", name="moods")
    assert again.prompts.fingerprint == ran.prompts.fingerprint
    stated = (again.settings.columns, again.settings.wide, again.settings.encoding)
    assert stated == ((), (), "")
    (root / "moods" / "experiment.toml").write_text(ran.to_toml(), encoding="utf-8")
    assert read_experiment(root / "moods") == ran


def test_changes_of_how_prompts_are_read_come_before_reading(root):
    plain = 'prompts = "theirs.csv"\n[contrasts]\nmood = "calm - angry"\n'
    folder = add_theirs(root, plain)
    changes = ["encoding=cp1252", "columns=calm=Calm text", "wide=calm,angry"]
    with pytest.raises(PromptError, match='or say encoding = "cp1252"'):
        read_experiment(folder)
    read = read_experiment(folder, reading=changes)
    assert apply_overrides(read, changes) == read
    assert read.prompts == read_experiment(add_theirs(root.parent / "other")).prompts
    with pytest.raises(PromptError, match="no column 'condition'"):
        apply_overrides(read, ["wide=none", "columns=none"])
    with pytest.raises(ContrastError, match="no condition 'calm'"):
        apply_overrides(read, ["wide=Calm text,angry", "columns=none"])


def test_a_dataset_lies_beside_its_experiment_or_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(placed("hf:./mine:train", tmp_path / "a")) == f"hf:{tmp_path}/a/mine:train"
    assert str(placed("hf:../mine", Path("a/b"))) == "hf:./a/mine"
    assert str(placed("hf:owner/name:train", tmp_path)) == "hf:owner/name:train"
    assert placed("mine.csv", Path("a")) == Path("a/mine.csv")


@pytest.fixture
def experiment(root):
    return read_experiment(add_experiment(root, "math", FULL))


def test_any_leaf_can_be_overridden_by_its_own_text(experiment):
    leaves = experiment.leaves()
    same = [f"{name}={value}" for name, value in leaves.items() if name != "prompts"]
    assert apply_overrides(experiment, same) == experiment
    assert set(leaf_names()) <= set(leaves)


def test_overrides_are_read_by_the_kind_of_the_option(experiment):
    changed = apply_overrides(
        experiment,
        [
            *("univariate.test=mannwhitney", "recording.sites=mlp, neuron", "seed=3"),
            *("recording.layers=[1, 2]", "univariate.alpha=.5", "recording.truncate=false"),
            *("question=a=b", "contrasts.new=nonmath - math"),
        ],
    )
    assert changed.univariate == UnivariateOptions("mannwhitney", "holm", 0.5, 3)
    assert changed.recording == RecordingOptions(("mlp", "neuron"), "mean", (1, 2), False, 64)
    assert (changed.seed, changed.question) == (3, "a=b")
    assert [c.name for c in changed.contrasts] == ["math", "any", "new"]
    assert apply_overrides(experiment, ["recording.layers=all"]).recording.layers == ()
    assert experiment.seed == 7


def test_prompts_can_be_overridden_from_the_working_directory(experiment, tmp_path):
    (tmp_path / "mine.csv").write_text("condition,prompt\nmath,a\nmath,b\nnonmath,c\nnonmath,d\n")
    changed = apply_overrides(experiment, ["prompts=mine.csv"])
    assert changed.prompts.texts == ("a", "b", "c", "d")
    with pytest.raises(PromptError, match=r"^none\.csv: no such file"):
        apply_overrides(experiment, ["prompts=none.csv"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("univariate.tset=welch", "[univariate] has no option 'tset'; known: alpha, calibration, "
         "control, groups, n_permutations, nuisance, step_down, test, "
         "top_n (did you mean 'test'?)"),
        ("univariate.alpha=x", "[univariate] alpha must be a number between 0 and 1, not 'x'"),
        ("univariate.alpha=inf", "[univariate] alpha must be a number between 0 and 1, not inf"),
        ("seed=1.5", "seed must be a whole number of at least 0, not '1.5'"),
        ("seed=" + "9" * 5000, "seed must be a whole number of at least 0"),
        ("recording.truncate=yes", "[recording] truncate must be true or false, not 'yes'"),
        ("recording.sites=mlp,neron", "(did you mean 'neuron'?)"),
        ("recording.sites=", "[recording] sites is empty"),
        ("recording.layers=[1", "[recording] layers must be a list such as [0, 5, 11], not '[1'"),
        ("univariate.test", "write it as table.option=value"),
        ("univariat.test=welch", "(did you mean 'univariate.test'?)"),
        ("alpha=0.1", "no option 'alpha'"),
        ("alpha=0.1", "(did you mean 'univariate.alpha'?)"),
        ("model=gpt2", "no option 'model'"),
        ("contrasts.x=math", "contrast 'math': compares nothing"),
        ("contrasts.../x=math - nonmath", "'../x' cannot be the name of a contrast"),
        ("=3", "no option ''"),
    ],
)  # fmt: skip
def test_a_bad_override_is_told_as_it_was_typed(experiment, change, said):
    with pytest.raises(ExperimentError) as caught:
        apply_overrides(experiment, [change])
    assert str(caught.value).startswith(f"--set {change}: ")
    assert said in str(caught.value)


def test_all_bad_overrides_are_told_at_once(experiment):
    with pytest.raises(ExperimentError) as caught:
        apply_overrides(experiment, ["seed=x", "question=fine", "nope=1"])
    assert [line.split("=")[0] for line in str(caught.value).split("\n")] == [
        "--set seed",
        "--set nope",
    ]


def test_an_overridden_contrast_must_fit_the_prompts(experiment):
    with pytest.raises(ContrastError, match=r"^contrasts.math: .*did you mean 'nonmath'"):
        apply_overrides(experiment, ["contrasts.math=math - nomath"])


def test_other_contrasts_can_take_the_place_of_an_experiments_own(experiment):
    other = experiment.with_contrasts("nonmath - math")
    assert other.settings.contrasts == {"nonmath_vs_math": "nonmath - math"}
    assert other.contrasts[0].first == ("nonmath",)
    assert [c.name for c in experiment.contrasts] == ["math", "any"]
    with pytest.raises(ContrastError, match="no condition 'nomath'"):
        experiment.with_contrasts(["math - nomath"])


@pytest.mark.parametrize("table", TABLES)
def test_options_made_in_python_are_checked_too(table):
    for name in kinds(TABLES[table]):
        with pytest.raises(ExperimentError, match=f"{TABLES[table].__name__}: {name} "):
            TABLES[table](**{name: object()})
    assert UnivariateOptions(test="ttest").test == "student"
    assert RecordingOptions(sites=["attn"]).sites == ("attention",)


def test_ones_own_prompts_need_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my words (1).csv").write_text(PROMPTS)
    experiment = Experiment.from_prompts("my words (1).csv")
    assert experiment.name == "my_words_1"
    assert experiment.settings.contrasts == {"math_vs_nonmath": "math - nonmath"}
    assert experiment.settings.univariate == UnivariateOptions()
    named = Experiment.from_prompts(
        ["my words (1).csv"], {"less": "nonmath - math"}, name="mine", seed=4
    )
    assert (named.name, named.seed, named.contrasts[0].first) == ("mine", 4, ("nonmath",))
    (tmp_path / "mine.toml").write_text(named.to_toml())
    assert read_experiment("mine.toml") == named
    two = Experiment.from_prompts("my words (1).csv", ["math - nonmath", "math | nonmath"])
    assert list(two.settings.contrasts) == ["math_vs_nonmath", "math_or_nonmath"]


def test_ones_own_prompts_are_checked_too(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(PROMPTS)
    with pytest.raises(ContrastError, match="no condition 'cat'"):
        Experiment.from_prompts(path, "math - cat")
    with pytest.raises(ContrastError, match="would have the same name"):
        Experiment.from_prompts(path, ["math - nonmath", "math  -  nonmath"])
    with pytest.raises(ContrastError, match="no contrast given"):
        Experiment.from_prompts(path, [])
    with pytest.raises(ExperimentError, match="cannot be the name"):
        Experiment.from_prompts(path, name="../x")
    with pytest.raises(ContrastError, match="cannot be the name of a contrast"):
        Experiment.from_prompts(path, {"a/b": "math - nonmath"})


def test_the_beginning_of_a_name_is_enough_where_it_is_unique(root, tmp_path):
    for name in ("math_vs_nonmath", "emotion", "emphasis"):
        add_experiment(root, name)
    (root / "not_one").mkdir()
    (root / "notes.txt").write_text("x")
    second = tmp_path / "more"
    add_experiment(second, "emotion")
    add_experiment(second, "logic")
    roots = [root, second, tmp_path / "none"]
    assert list(list_experiments(roots)) == ["emotion", "emphasis", "math_vs_nonmath", "logic"]
    assert load_experiment("math", roots).name == "math_vs_nonmath"
    assert load_experiment("emotion", roots).folder == root / "emotion"
    with pytest.raises(ExperimentError, match="'em' fits several experiments: emotion, emphasis"):
        load_experiment("em", roots)
    with pytest.raises(ExperimentError) as caught:
        load_experiment("emotoin", roots)
    assert str(caught.value) == (
        "no experiment 'emotoin'; known: emotion, emphasis, math_vs_nonmath, logic "
        "(did you mean 'emotion'?)"
    )


def test_a_path_names_an_experiment_too(root):
    folder = add_experiment(root, "math")
    for path in (folder, folder / "experiment.toml", str(folder), "experiments/math"):
        assert load_experiment(path).name == "math"


TRAVERSAL = (
    *("", " ", ".", "..", "../x", "../../x", "a/b", "a\\b", "/etc/passwd", "\\\\host\\share"),
    *("C:\\x", "C:", "a:b", "./x", "x/", "x/..", "..\\x", "a\0b", "\0", "a\nb", "a\rb", "a\tb"),
    *("\x1b[31m", "~", "~root", "$HOME", "`id`", "$(id)", "a;b", "a|b", "a&b", "a*", "a?"),
    *("<a>", '"a"', "'a'", "-rf", ".hidden", "a.", "a ", " a", "con", "NUL", "nul.txt", "com1"),
    *("LPT9.log", "a" * 101, "数" * 100, "%2e%2e%2fx", "..%2fx", "file:///x", "a\u2215b"),
    *("a\u202eb", "a\u2028b", "a\u200bb", "\ud800", "....//", "..;/", "a/../../b", "//x"),
    *("a//b", "{a}", "[a]", "a,b", "a=b", "#a", "@a", "=a", "x\n", "a/", "..."),
)


@pytest.mark.parametrize("name", TRAVERSAL, ids=ascii)
def test_a_name_never_becomes_a_path_unchecked(root, name):
    with pytest.raises(InputError):
        safe_name(name)
    add_experiment(root, "math")
    with pytest.raises(InputError):
        load_experiment(name, [root])


@pytest.mark.parametrize(
    "name", ["math", "math_vs_nonmath", "non-math.v2", "a b", "数学", "2024", "_x", "é", "a" * 100]
)
def test_an_ordinary_name_is_safe(name):
    assert safe_name(name) == name


def test_lines_of_keys_are_found_in_awkward_toml():
    text = '''\
# [comment]
a = 1 # = [x]
"quoted = key" = """
[not.a.table]
b = 2 \\""" ""\"""
'lit#eral' = \'\'\'
c = 3\'\'\'
d.e . "f.g" = [ # ]
  "]", '[', { x = 1 },
  [1,
   2]]
date = 1979-05-27T07:32:00Z

[ table . "sub" ] # [x]
h = { i = "}", j = ["{"] }
[[array]]
k = ""
[[array]]
l = """"quoted""""
[table]
m = '\\'
empty = """"""
n = true
'''
    values = tomllib.loads(text)
    lines = key_lines(text)
    assert values["d"]["e"]["f.g"][0] == "]"
    assert {key: line for key, line in lines.items() if key != ("array",)} == {
        ("a",): 2,
        ("quoted = key",): 3,
        ("lit#eral",): 6,
        ("d",): 8,
        ("d", "e"): 8,
        ("d", "e", "f.g"): 8,
        ("date",): 12,
        ("table",): 20,
        ("table", "sub"): 14,
        ("table", "sub", "h"): 15,
        ("array", "k"): 17,
        ("array", "l"): 19,
        ("table", "m"): 21,
        ("table", "empty"): 22,
        ("table", "n"): 23,
    }
    assert line_of(lines, ("table", "sub", "h", "i")) == 15
    assert line_of(lines, ("nowhere", "x")) == 1


def test_lines_of_keys_are_found_in_random_toml():
    rng = random.Random(0)
    values = [
        '"""\nx = 1\n"""',
        "'''\n[y]\n'''",
        '["#", [\n"]"]]',
        '"\\"#"',
        "1 # z = 1",
        "{a = 1}",
    ]
    for _ in range(200):
        text, expected, table = "", {}, ()
        for number in range(rng.randint(1, 12)):
            text += rng.choice(["", "\n", "# [c]\n", "  \n"])
            line = text.count("\n") + 1
            if rng.random() < 0.3:
                table = (f"t{number}",)
                text += f"[t{number}]\n"
                expected[table] = line
            else:
                key = rng.choice([f"k{number}", f'"k {number}"'])
                text += f"{key} = {rng.choice(values)}\n"
                expected[(*table, key.strip('"'))] = line
        tomllib.loads(text)
        assert key_lines(text) == expected


def test_the_options_offer_what_the_statistics_have():
    from activation_analysis import options
    from activation_analysis.analyses.error_control import CONTROLS
    from activation_analysis.statistics import hypothesis_tests

    assert set(options.TESTS) - {options.AUTO_TEST} == set(hypothesis_tests.CONTRAST_TESTS)
    assert set(options.CONTROLS) == set(CONTROLS)
    assert options.PAIRED_TESTS == hypothesis_tests.PAIRED_TESTS
    assert options.OMNIBUS_TESTS == hypothesis_tests.OMNIBUS_TESTS
    for alias, test in options.TEST_ALIASES.items():
        assert hypothesis_tests.canonical_test(alias) == test


MATCHED = {
    "pairs": ("a - b", ["1", "2", "3"], ["1", "2", "3"], [], ("paired", ())),
    "triples": ("a | b | c", ["1", "2"], ["1", "2"], ["1", "2"], ("glm_t", ("item",))),
    "an item twice on one side": (
        "a - b",
        ["1", "1", "2"],
        ["1", "2", "2"],
        [],
        ("glm_t", ("item",)),
    ),
    "items within conditions": ("a - b", ["1", "1"], ["2", "2"], [], ("welch", ())),
    "no items": ("a - b", ["", ""], ["", ""], [], ("welch", ())),
}


@pytest.mark.parametrize("named", MATCHED)
def test_prompts_with_items_are_paired_or_blocked_by_default(tmp_path, named):
    contrast, *items, expected = MATCHED[named]
    rows = [
        f"{condition},{condition} text {row},{item}"
        for condition, column in zip("abc", items, strict=True)
        for row, item in enumerate(column)
    ]
    path = tmp_path / "p.csv"
    path.write_text("condition,prompt,item\n" + "\n".join(rows) + "\n")
    experiment = Experiment.from_prompts(path, contrast)
    assert (experiment.univariate.test, experiment.univariate.nuisance) == expected
    assert experiment.leaves()["univariate.test"] == expected[0]
    named_test = apply_overrides(experiment, ["univariate.test=student"])
    assert named_test.univariate.test == "student"


def test_nuisance_regressors_make_a_regression_and_streams_stay_simple(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("condition,prompt,item\na,one,1\na,two,2\nb,three,1\nb,four,2\n")
    experiment = Experiment.from_prompts(path, "a - b")
    adjusted = apply_overrides(experiment, ["univariate.nuisance=words"]).univariate
    assert (adjusted.test, adjusted.nuisance) == ("glm_t", ("words", "item"))
    streamed = apply_overrides(experiment, ["recording.stream=true"]).univariate
    assert streamed.test == "welch"
