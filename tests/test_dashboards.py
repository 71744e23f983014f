"""The dashboard and the alert rules name what exists: every metric, every label."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from indexer import metrics
from indexer.cli import reference

DEPLOY = Path(__file__).parents[1] / "deploy"
DASHBOARD = DEPLOY / "grafana" / "twinspan.json"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"

NAME = re.compile(r"\btwinspan_\w+")
SELECTOR = re.compile(r"\b(twinspan_\w+)\{([^}]*)\}")
GROUPED = re.compile(r"\bby \(([^)]*)\)\s*\(")


def known() -> dict[str, set[str]]:
    """Every series' name -> its labels."""
    found = {gauge.name: set(gauge.labels) for gauge in metrics.LEDGER}
    for one in reference.recorded():
        if one.kind == "histogram":
            found[f"{one.name}_bucket"] = {*one.labels, "le"}
            found[f"{one.name}_sum"] = found[f"{one.name}_count"] = set(one.labels)
        else:
            found[one.name] = set(one.labels)
    return found


def panels() -> list[dict[str, object]]:
    return json.loads(DASHBOARD.read_text())["panels"]


def expressions() -> list[str]:
    rules = [
        rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
    ]
    shown = [target["expr"] for panel in panels() for target in panel["targets"]]
    return [*shown, *(rule["expr"] for rule in rules)]


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_names_metrics_and_labels_that_exist(expression: str) -> None:
    names = NAME.findall(expression)
    assert names
    assert set(names) <= known().keys()
    for name, selectors in SELECTOR.findall(expression):
        labels = {re.split(r"[=!]", part)[0].strip() for part in selectors.split(",")}
        assert labels <= known()[name], (name, labels)
    for group in GROUPED.findall(expression):
        labels = {label.strip() for label in group.split(",")}
        assert labels <= set.union(*(known()[name] for name in names)), (labels, expression)
    assert expression.count("(") == expression.count(")")


def test_the_check_of_names_sees_a_name_and_a_label_that_do_not_exist() -> None:
    with pytest.raises(AssertionError):
        test_an_expression_names_metrics_and_labels_that_exist("sum(twinspan_nothing)")
    with pytest.raises(AssertionError):
        test_an_expression_names_metrics_and_labels_that_exist('twinspan_items_total{item="1"}')
    with pytest.raises(AssertionError):
        test_an_expression_names_metrics_and_labels_that_exist(
            "sum by (item) (rate(twinspan_items_total[5m]))"
        )


def test_every_metric_is_shown_or_alerted_on() -> None:
    used = " ".join(expressions())
    assert [gauge.name for gauge in metrics.LEDGER if gauge.name not in used] == []
    assert [one.name for one in reference.recorded() if one.name not in used] == []


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert {"title", "uid", "schemaVersion", "panels", "templating", "time"} <= dashboard.keys()
    assert len(dashboard["uid"]) <= 40
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        assert {"id", "type", "title", "gridPos", "targets", "datasource"} <= panel.keys()
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
        cells = {
            (place["x"] + dx, place["y"] + dy)
            for dx in range(place["w"])
            for dy in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        refs = [target["refId"] for target in panel["targets"]]
        assert len(refs) == len(set(refs))
    names = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert set(re.findall(r"\$\{?([a-z]+)\}?", DASHBOARD.read_text())) == names


def test_an_alert_says_how_urgent_it_is_and_what_to_do() -> None:
    rules = [
        rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
    ]
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 10
    for rule in rules:
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))
