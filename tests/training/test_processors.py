"""Kinds of CPUs by what /proc/cpuinfo says, and the records of bfloat16."""

from __future__ import annotations

import pytest

from foretrain.training import processors
from foretrain.training.processors import KINDS, RECORDS, Processor, kind_of, processor_in, record_of

ZEN_4 = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC 9R14
flags\t\t: fpu avx2 avx512f avx512_bf16

processor\t: 1
vendor_id\t: AuthenticAMD
cpu family\t: 99
flags\t\t: fpu
"""
AMD, INTEL = "AuthenticAMD", "GenuineIntel"
PRODUCTS = frozenset({"avx512_bf16"})


def test_the_first_cpu_of_a_machine_says_what_it_is():
    assert processor_in(ZEN_4) == Processor(AMD, 25, frozenset({"fpu", "avx2", "avx512f", "avx512_bf16"}))
    assert processor_in("CPU implementer\t: 0x41\ncpu family: nine\n") == Processor()


def test_a_machine_without_proc_is_of_no_kind(monkeypatch, tmp_path):
    monkeypatch.setattr(processors, "_CPUINFO", tmp_path / "none")
    assert processors.this_processor.__wrapped__() == Processor() and kind_of(Processor()) == ""


@pytest.mark.parametrize(
    ("cpu", "kind"),
    [
        (processor_in(ZEN_4), "AMD Zen 4"),
        (Processor(AMD, 25), ""),  # Zen 3
        (Processor(AMD, 26, PRODUCTS), ""),  # Zen 5: no measurement
        (Processor(INTEL, 6, PRODUCTS), "Intel with avx512_bf16 and without amx_bf16"),
        (Processor(INTEL, 6, PRODUCTS | {"amx_bf16"}), ""),
        (Processor(INTEL, 6), ""),
    ],
)
def test_a_kind_is_that_of_the_measured_machine(cpu, kind):
    assert kind_of(cpu) == kind


def test_a_record_covers_its_width_and_larger_ones_of_its_family():
    assert all(record.kind in KINDS and record.ratio > 0 for record in RECORDS)
    found = record_of("AMD Zen 4", "chronos2", 768)
    assert found is not None and found.width == 512
    assert record_of("AMD Zen 4", "chronos2", 511) is None
    assert record_of("AMD Zen 4", "toto", 768) is None
    assert record_of("", "chronos2", 768) is None
