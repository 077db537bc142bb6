"""Options and recipes are one thing; the pages say what the program does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from knit_cli.docs import document
from knit_cli.main import COMMANDS, cli
from knit_cli.options import FLAGS, UNUSED
from knitcore.recipe import PRESETS, RECIPES, Inpaint, load_recipe

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("task", RECIPES)
def test_every_field_of_the_recipe_is_an_option_with_its_text(knit, task):
    options = {param.name: param for param in cli.get_command(None, task).params}
    page = " ".join(knit("recipe", "defaults", "--task", task).stdout.split())
    for name, field in RECIPES[task].model_fields.items():
        if name == "task" or name in UNUSED.get(task, ()):
            assert name not in options
            continue
        assert options[name].help.startswith(field.description)
        assert "--" + FLAGS.get(name, name).replace("_", "-") in options[name].opts
        assert f"# {field.description}" in page


def test_options_reach_the_recipe(folder, knit, record):
    knit(
        *("inpaint", "cells.tif", "--mask", "value=0", "--preset", "paper"),
        *("--scales", "1,3", "--no-discriminator", "--rate", "0.002", "--network-output", "linear"),
        *("--region", "hole", "--knit-depth", 99, "--start", "harmonic", "--fourier-scales", "0.5"),
    )
    kept = record("cells_inpainted.tif")["recipe"]
    assert kept["preset"] == "paper"
    assert kept["scales"] == [1, 3]
    assert kept["discriminator"] is False
    assert kept["rate"] == 0.002
    assert kept["network_output"] == "linear"
    assert kept["fourier_scales"] == [0.5]
    assert kept["pixel_loss"] == PRESETS["inpaint"]["paper"]["pixel_loss"]


def test_options_take_precedence_over_the_recipe_file(folder, knit, record):
    (folder / "run.yaml").write_text("seed: 3\nsteps: 7\nknit_depth: 99\ninvert_mask: true\n")
    words = ("inpaint", "cells.tif", "--mask", "value=0", "--recipe", "run.yaml")
    knit(*words, "--seed", 4, "--no-invert-mask")
    kept = record("cells_inpainted.tif")["recipe"]
    assert (kept["seed"], kept["steps"], kept["invert_mask"]) == (4, 7, False)


def test_a_preset_does_not_change_a_record(folder, knit):
    knit("inpaint", "cells.tif", "--mask", "value=0", "-o", "one.tif")
    words = ("inpaint", "cells.tif", "--recipe", "one.tif.knit.json", "-o", "two.tif")
    said = knit(*words, "--preset", "paper", code=2)
    assert "gives every field by itself" in said.stderr


def test_help_of_the_group_names_every_command(knit):
    page = knit("--help").stdout
    for name, (_, text) in COMMANDS.items():
        assert name in page
        assert text in page
        assert cli.get_command(None, name).name == name
    assert "No such command 'inpant'" in knit("inpant", code=2).stderr


def test_the_documentation_is_the_help():
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert page == document(), "run: python -m knit_cli.docs > docs/cli.md"


# knit recipe


@pytest.mark.parametrize(("task", "preset"), [(t, p) for t in RECIPES for p in PRESETS[t]])
def test_defaults_are_a_recipe(folder, knit, task, preset):
    words = ("recipe", "defaults", "--task", task, "--preset", preset)
    (folder / "run.yaml").write_text(knit(*words).stdout)
    assert load_recipe("run.yaml") == RECIPES[task](preset=preset)


def test_show_gives_every_setting(folder, knit):
    (folder / "run.yaml").write_text("preset: paper\nseed: 3\n")
    fields = yaml.safe_load(knit("recipe", "show", "run.yaml").stdout)
    assert set(fields) == {"recipe_version", *Inpaint.model_fields}
    assert fields["seed"] == 3
    assert fields["width"] == 256


def test_check_tells_what_is_wrong_where(folder, knit):
    (folder / "good.yaml").write_text("seed: 3\n")
    (folder / "bad.yaml").write_text("seed: 3\nstepz: 1\nmargin: wide\n")
    assert knit("recipe", "check", "good.yaml").stdout == "good.yaml: valid\n"
    said = knit("recipe", "check", "good.yaml", "bad.yaml", code=2)
    assert "bad.yaml, line 2: unknown key `stepz`" in said.stderr
    assert "bad.yaml, line 3: `margin`" in said.stderr
    assert "cannot read" in knit("recipe", "show", "none.yaml", code=2).stderr


def test_recipes_of_all_tasks_are_shown_and_checked(folder, knit):
    (folder / "good.yaml").write_text("task: denoise\nsigma: 3\n")
    (folder / "bad.yaml").write_text("task: super-resolve\ngain: 3\n")
    assert knit("recipe", "check", "good.yaml").stdout == "good.yaml: valid\n"
    assert yaml.safe_load(knit("recipe", "show", "good.yaml").stdout)["sigma"] == 3
    said = knit("recipe", "check", "bad.yaml", code=2)
    assert "bad.yaml, line 2: unknown key `gain`" in said.stderr


@pytest.mark.parametrize("task", RECIPES)
def test_the_schema_is_json(knit, task):
    schema = json.loads(knit("recipe", "schema", "--task", task).stdout)
    assert set(schema["properties"]) == set(RECIPES[task].model_fields)


def test_recipes_are_handled_without_torch(folder):
    (folder / "run.yaml").write_text("seed: 3\n")
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'cli')!r}]\n"
        "from knit_cli.main import cli\n"
        "cli(['recipe', 'check', 'run.yaml'], standalone_mode=False)\n"
        "heavy = {'torch', 'scipy', 'skimage', 'napari'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("task", RECIPES)
def test_help_of_every_task_is_light(task):
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'cli')!r}]\n"
        "from knit_cli.main import cli\n"
        "try:\n"
        f"    cli([{task!r}, '--help'])\n"
        "except SystemExit:\n"
        "    heavy = {'torch', 'scipy', 'skimage', 'napari'} & set(sys.modules)\n"
        "    assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


# knit info


def test_info(knit):
    page = knit("info").stdout
    assert "torch" in page
    assert "cpu" in page
    facts = json.loads(knit("info", "--json").stdout)
    assert "cpu" in facts["devices"]
    assert facts["threads"] >= 1
