"""Recipes: every setting checked, every mistake told with its key and line."""

import json

import pytest
import yaml

from knitcore.errors import RecipeError
from knitcore.recipe import (
    PRESETS,
    RECIPE_VERSION,
    Inpaint,
    consistency_weight,
    load_recipe,
    make_recipe,
    override_recipe,
    recipe_fields,
    save_recipe,
)


@pytest.fixture
def write(tmp_path):
    def write(text, name="run.yaml"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_fields_left_out_take_the_presets_values():
    assert Inpaint(preset="paper").width == PRESETS["inpaint"]["paper"]["width"]
    assert Inpaint(preset="paper", width=32).width == 32
    assert Inpaint(preset="paper").pixel_loss == "l1"


@pytest.mark.parametrize("preset", PRESETS["inpaint"])
def test_presets_name_only_fields_and_are_valid(preset):
    assert set(PRESETS["inpaint"][preset]) <= set(Inpaint.model_fields)
    assert make_recipe(preset=preset).preset == preset


def test_every_field_says_what_it_is():
    for name, field in Inpaint.model_fields.items():
        assert field.description, name


@pytest.mark.parametrize("name", ["run.yaml", "run.json"])
def test_a_saved_recipe_comes_back_whole(tmp_path, name):
    recipe = Inpaint(preset="paper", seed=7, scales=(1, 3), fourier_scales=(0.5, 2.0))
    save_recipe(recipe, tmp_path / name)
    assert load_recipe(tmp_path / name) == recipe


def test_a_record_is_a_recipe(write):
    recipe = Inpaint(seed=3, steps=20)
    record = {"record_version": 1, "task": "inpaint", "recipe": recipe_fields(recipe)}
    assert load_recipe(write(json.dumps(record), "a.tif.knit.json")) == recipe


def test_a_record_keeps_its_values_when_presets_change(write, monkeypatch):
    path = write(json.dumps({"record_version": 1, "recipe": recipe_fields(Inpaint())}), "a.json")
    monkeypatch.setitem(PRESETS["inpaint"], "fast", {"steps": 1})
    assert Inpaint().steps == 1
    assert load_recipe(path).steps != 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed: 1\nstepz: 3\n", r"run.yaml, line 2: unknown key `stepz`; did you mean `steps`\?"),
        ("steps: true\n", "line 1: `steps`: must not be true or false"),
        ("mask_label: true\n", "`mask_label`: must not be true or false"),
        ("scales: [1, true]\n", "`scales`: must not be true or false"),
        ("directed: 1\n", "`directed`: must be true or false"),
        ("steps: 1:30\n", "1:30 is not a plain whole number"),
        ("steps: 010\n", "010 is not a plain whole number"),
        ("steps: 0x10\n", "not a plain whole number"),
        ("margin: 1:30.5\n", "1:30.5 is not a plain number"),
        ("steps: '12x'\n", "`steps`: input should be a valid integer"),
        ("<<: {seed: 2}\n", r"merging \(<<\) is not allowed"),
        ("? [a, b]\n: 1\n", "a key must be a single word"),
        ("seed: " + "[" * 21 + "]" * 21, "nested deeper than 20 levels"),
        ("seed: " + "9" * 5000, "not a readable recipe"),
        ("seed: 2026-11-25\n", "`seed`"),
        ("steps: 1000000000000\n", "`steps`: input should be less than or equal to 1000000"),
        ("ensemble: 0\n", "`ensemble`: input should be greater than or equal to 1"),
        ("margin: .nan\n", "`margin`: input should be a finite number"),
        ("rate: .inf\n", "`rate`: input should be a finite number"),
        ("preset: slow\n", "`preset`: input should be 'fast', 'quality' or 'paper'"),
        ("preset: [1]\n", "`preset`"),
        ("device: tpu\n", "`device`"),
        ("scales: [2, 1]\n", "rising whole numbers"),
        ("start: none\nstart_weight: 0.5\n", "start_weight must be 0"),
        ("seed: 1\nseed: 2\n", "key `seed` is given twice"),
        ("a: &x 1\nseed: *x\n", "anchors and aliases"),
        ("seed: &x 1\n", "anchors and aliases"),
        ("seed: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
        ("", "empty, or not a list"),
        ("- 1\n- 2\n", "empty, or not a list"),
        ("just words\n", "empty, or not a list"),
        ("seed: [\n", "not a readable recipe"),
        ("[" * 5000, "not a readable recipe"),
        (b"\xff\xfe\x00", "not a readable recipe"),
        ("# long\n" * 20_000, "too large"),
        (f"recipe_version: {RECIPE_VERSION + 1}\n", r"version 2; this program reads version 1"),
        ("task: bake\n", "unknown task 'bake'"),
    ],
)
def test_mistakes_are_told_with_file_and_key(write, text, words):
    with pytest.raises(RecipeError, match=words) as told:
        load_recipe(write(text))
    assert "run.yaml" in str(told.value)
    assert len(str(told.value)) < 1000


def test_each_wrong_key_has_its_line(write):
    with pytest.raises(RecipeError) as told:
        load_recipe(write("seed: -1\n\nsteps: many\nwidht: 3\n"))
    assert [line.split(": ")[0][-6:] for line in str(told.value).splitlines()] == [
        "line 1",
        "line 3",
        "line 4",
    ]


@pytest.mark.parametrize("name", ["run.yaml", "run.json"])
def test_thousands_of_keys_are_told_at_once(write, name):
    keys = [f'"k{i}": 1' for i in range(3000 if name == "run.yaml" else 100_000)]
    text = "\n".join(keys) if name == "run.yaml" else "{" + ", ".join(keys) + "}"
    with pytest.raises(RecipeError, match="unknown key `k0`") as told:
        load_recipe(write(text, name))
    assert len(str(told.value).splitlines()) <= 21


def test_json_keys_given_twice(write):
    with pytest.raises(RecipeError, match="key `seed` is given twice"):
        load_recipe(write('{"seed": 1, "seed": 2}', "run.json"))


def test_a_missing_recipe(tmp_path):
    with pytest.raises(RecipeError, match="cannot read the recipe: No such file"):
        load_recipe(tmp_path / "none.yaml")


def test_given_fields_take_precedence_over_the_files(write):
    path = write("preset: paper\nsteps: 30\n")
    recipe = override_recipe(path, steps=40, seed=2)
    assert (recipe.steps, recipe.seed, recipe.width) == (40, 2, 256)
    assert override_recipe(path, preset="fast").width == Inpaint().width
    assert override_recipe(path, preset="fast").steps == 30


def test_a_preset_cannot_change_a_recipe_that_gives_every_field(write):
    path = write(yaml.safe_dump(recipe_fields(Inpaint())))
    assert override_recipe(path, preset="fast") == Inpaint()
    with pytest.raises(RecipeError, match="gives every field by itself"):
        override_recipe(path, preset="paper")


def test_one_scale_needs_no_brackets():
    assert Inpaint(scales=2).scales == (2,)
    assert Inpaint(fourier_scales=0.5).fourier_scales == (0.5,)


@pytest.mark.parametrize("ramp", ["exponential", "logistic", "none"])
def test_the_consistency_weight_rises_to_its_end(ramp):
    recipe = Inpaint(alpha_ramp=ramp, alpha_start=0.1, alpha=2.0)
    weights = [consistency_weight(recipe, done / 20) for done in range(21)]
    assert weights == sorted(weights)
    assert weights[-1] == pytest.approx(2.0, rel=0.01)
    assert weights[0] == pytest.approx(2.0 if ramp == "none" else 0.1, rel=0.05)


def test_unknown_tasks_are_told():
    with pytest.raises(
        RecipeError, match="unknown task 'sharpen'; this version knows: inpaint, den"
    ):
        make_recipe("sharpen")
