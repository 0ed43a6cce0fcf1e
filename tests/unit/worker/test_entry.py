from services.worker.entry import MOST_NAMES, NamesInUse
from tests.fixtures.builders import a_model


def test_a_name_of_each_organization_is_told_once_first_come_first() -> None:
    names = NamesInUse(a_model(name="a", organization_id="acme"))
    for name, organization in (("a", "acme"), ("a", "globex"), ("b", "acme")):
        names.note(a_model(name=name, organization_id=organization, shared=organization == "globex"))
    told = [(use.organization_id, use.name, use.shared) for use in names.all()]
    assert told == [("acme", "a", False), ("globex", "a", True), ("acme", "b", False)]


def test_of_too_many_the_first_is_forgotten() -> None:
    names = NamesInUse(a_model(name="0"))
    for number in range(1, MOST_NAMES + 1):
        names.note(a_model(name=str(number)))
    assert [use.name for use in names.all()] == [str(number) for number in range(1, MOST_NAMES + 1)]
