"""The form is the recipe: its fields, their texts and bounds, and the presets' values."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel
from qtpy.QtWidgets import QWidget

from knit_plugin._recipe_form import InputsArea, RecipeForm
from knit_plugin.inpaint_widget import ADVANCED, BASIC, MASK_FIELDS
from knitcore import Inpaint
from knitcore.recipe import PRESETS, make_recipe


@pytest.fixture
def form(qtbot: Any) -> RecipeForm:
    made = RecipeForm(Inpaint, PRESETS["inpaint"], BASIC, ADVANCED)
    qtbot.addWidget(made)
    return made


def test_untouched_inputs_give_the_default_recipe(form: RecipeForm) -> None:
    assert make_recipe(**form.values()) == Inpaint()


def test_the_description_of_a_field_is_its_tooltip(form: RecipeForm) -> None:
    for name, widget in form.inputs.items():
        assert widget.native.toolTip() == Inpaint.model_fields[name].description


def test_bounds_of_a_field_are_those_of_its_input(form: RecipeForm) -> None:
    assert (form.inputs["ensemble"].min, form.inputs["ensemble"].max) == (1, 64)
    assert (form.inputs["start_weight"].min, form.inputs["start_weight"].max) == (0, 1)
    assert list(form.inputs["preset"].choices) == ["fast", "quality", "paper"]
    form.inputs["seed"].value = 2**62
    assert make_recipe(**form.values()).seed == 2**62


def test_a_preset_fills_the_other_inputs(form: RecipeForm) -> None:
    form.inputs["seed"].value = 7
    form.inputs["preset"].value = "paper"
    assert make_recipe(**form.values()) == Inpaint(preset="paper", seed=7)
    form.inputs["steps"].value = 50
    assert make_recipe(**form.values()) == Inpaint(preset="paper", seed=7, steps=50)
    form.inputs["preset"].value = "fast"
    assert make_recipe(**form.values()) == Inpaint(seed=7)


def test_a_field_that_may_be_missing_reads_all(qtbot: Any) -> None:
    form = RecipeForm(Inpaint, {}, MASK_FIELDS)
    qtbot.addWidget(form)
    label = form.inputs["mask_label"]
    assert label.native.text() == "all"
    assert form.values() == {"mask_label": None}
    label.value = 3
    assert form.values() == {"mask_label": 3}
    label.value = None
    assert form.values() == {"mask_label": None}


def test_new_choices_keep_the_chosen_one(form: RecipeForm) -> None:
    form.inputs["device"].value = "cpu"
    form.set_choices("device", ["auto", "cpu", "cuda"])
    assert form.inputs["device"].value == "cpu"
    form.set_choices("device", ["auto", "mps"])
    assert form.inputs["device"].value == "auto"


def test_rarer_fields_are_folded_away(form: RecipeForm) -> None:
    form.show()
    assert not form.inputs["steps"].native.isVisible()
    form.toggle.click()
    assert form.inputs["steps"].native.isVisible()
    form.toggle.click()
    assert not form.inputs["steps"].native.isVisible()


def test_a_field_without_an_input_is_an_error_of_ours(qtbot: Any) -> None:
    class Odd(BaseModel):
        numbers: tuple[int, ...] = (1, 2)

    with pytest.raises(TypeError, match="no input for field 'numbers'"):
        RecipeForm(Odd, {}, ("numbers",))


def test_an_area_that_is_destroyed_right_after_a_resize_is_left_alone(qtbot: Any) -> None:
    window = QWidget()
    area = InputsArea(QWidget())
    area.setParent(window)
    window.show()
    area.resize(300, 200)
    del window  # takes the area's own half in Qt with it
    qtbot.wait(50)  # an exception in there fails the test
