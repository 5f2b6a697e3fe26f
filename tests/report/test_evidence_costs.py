"""What training costs on the evidence page: against plain training, and of one machine only."""

import re
from dataclasses import replace

import pytest

from metadistiller.report._evidence import render

from .evidence import GPU, TAUGHT, machines, row, section


def test_costs_are_against_plain_training_on_the_same_machine() -> None:
    page = render(machines())
    # Plain: 10 and 12 s an epoch, mean 11; 1,000 and 1,200 MiB, mean 1,100. The teacher adds 80 s an epoch.
    resnet18 = ("resnet18",)
    assert row(page, "Cost", *resnet18, "plain", "2") == ["200", "11.0", "1.00", "1.00", "", "", "1,100", "1.00"]
    assert row(page, "Cost", *resnet18, "metadistiller") == [
        "1",
        "200",
        "22.0",
        "2.00",
        "1.94",
        "",
        "",
        "1,250",
        "1.14",
    ]
    kd = row(page, "Cost", *resnet18, "kd")
    # (16.5 + 80) / 11 = 8.773.
    assert kd == ["1", "200", "16.5", "1.50", "3.23", "8.77", "9.93", "2,200", "2.00"]
    assert row(page, "Cost", *resnet18, "plain", "1")[0] == "3 of 200"
    # There is no plain run on the other machine.
    assert row(page, "Cost", *resnet18, "dsn") == ["1", "200", "25.0", "", "1.07", "", "", "1,250", ""]


def test_each_machine_has_its_own_table_and_the_papers_hours_stand_above() -> None:
    found = section(render(machines()), "Cost")
    assert "1.1 h more than plain training" in found
    assert "teacher 7.9 h" in found
    assert re.findall(r"^### (.*)", found, flags=re.MULTILINE) == [
        "cpu (x86_64), torch 2.12.0, 2 threads, float32",
        "cuda (NVIDIA H200), torch 2.12.0, 8 threads, bfloat16",
    ]


@pytest.mark.parametrize(
    ("device", "told"), [(GPU.device, "cuda:0 (NVIDIA H200)"), (None, "a device that was not recorded")]
)
def test_seconds_of_two_machines_are_not_added(device: str | None, told: str) -> None:
    elsewhere = [
        replace(record, teacher=replace(TAUGHT, device=device) if record.teacher else None) for record in machines()
    ]
    page = render(elsewhere)
    # The student's own and what is counted stay.
    kd = ["1", "200", "16.5", "1.50", "3.23", "", "9.93", "2,200", "2.00"]
    assert row(page, "Cost", "resnet18", "kd") == kd
    note = f"resnet18, kd, 200 epochs: the teacher was trained on {told}, so its seconds are not added to these."
    # Below the table of its machine, which is the first of two.
    assert note in section(page, "Cost").split("### ")[1]
    assert "its seconds are not added" not in render(machines())
    # Nor half of them: with one of two students the mean would be of another number of runs.
    mixed = [*elsewhere, replace(machines()[3], seed=1)]
    assert row(render(mixed), "Cost", "resnet18", "kd")[5] == ""
