"""Every grid that a packing has, for tests of the arithmetic on them."""

from adaptertools.grid import Grid
from adaptertools.packing import Table
from adaptertools.quant import _fourbit, fp8, int8, mxfp4

TABLES: dict[str, Table] = {
    "nf4": _fourbit.TABLES["nf4"],
    "fp4": _fourbit.TABLES["fp4"],
    "int8": int8.Int8().table,
    "e4m3": fp8.Fp8("F8_E4M3", (1, 1), (1, 1), "_scale", "F32", 2).table,
    "e5m2": fp8.Fp8("F8_E5M2", (1, 1), (1, 1), "_scale", "F32", 2).table,
    "mxfp4": mxfp4.Mxfp4().table,
}
GRIDS = {name: Grid(table) for name, table in TABLES.items()}
