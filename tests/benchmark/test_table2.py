import pytest

from contagg.benchmark.table2 import ROWS, Row, counted, table


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.model)
def test_counts_are_the_papers(row: Row) -> None:
    parameters, cost = counted(row)
    assert parameters == pytest.approx(row.parameters, rel=0.005)
    if row.multiply_adds is not None:
        assert cost == pytest.approx(row.multiply_adds, rel=0.03)


def test_the_table_has_a_line_a_row() -> None:
    lines = table().splitlines()
    assert len(lines) == 1 + len(ROWS)
    assert "CONTAINER-LIGHT" in lines[-1] and "20.008" in lines[-1]
