"""The table of quality rules."""

from __future__ import annotations

from foretrain.data.findings import Findings
from foretrain.data.rules import BY_NAME, RULES, rules_table


def test_the_rule_table_names_every_rule_and_reports_list_all_of_them() -> None:
    table = rules_table()
    assert all(f"| `{rule.name}` |" in table for rule in RULES)
    assert set(Findings("fix").to_json()) == set(BY_NAME)
