"""Files of power markets and grids, and of competitions, each written anew; added to SAMPLES."""

from __future__ import annotations

from datetime import timedelta

from tests.data.importers.samples import Read, every, months, sample, table

# Power

sample(
    "ENTSO-E: an interval as the time",
    "Day-ahead Prices.csv",
    table(
        '"MTU (CET/CEST)","Day-ahead Price [EUR/MWh]","Currency","BZN|DE-LU"',
        (
            (f'"{d:%d.%m.%Y %H:%M} - {d + timedelta(hours=1):%d.%m.%Y %H:%M}"', f'"{50 + i}.25"', '"EUR"', '""')
            for i, d in every("2024-01-01", 60, hours=1)
        ),
    ),
    Read(("Day-ahead Prices",), ("Day-ahead Price [EUR/MWh]", "Currency", "BZN|DE-LU"), "2024-01-01", "h",
         {("Day-ahead Prices", "Day-ahead Price [EUR/MWh]", 1): 51.25}),
)  # fmt: skip
_SMARD = "\ufeff" + table(
    "Datum von;Datum bis;Deutschland/Luxemburg [€/MWh]",
    (
        (f"{d:%d.%m.%Y %H:%M}", f"{d + timedelta(hours=1):%d.%m.%Y %H:%M}", "-" if i < 2 else f"{50 + i},53")
        for i, d in every("2024-01-01", 60, hours=1)
    ),
    ";",
)
sample("SMARD: beginning and end of each hour", "Gro.csv", _SMARD, "Datum von.*Datum bis.*timestamp-column")
sample(
    "SMARD with --timestamp-column",
    "Gro.csv",
    _SMARD,
    Read(("Gro",), ("Deutschland/Luxemburg [€/MWh]",), "2024-01-01 02:00", "h",
         {("Gro", "Deutschland/Luxemburg [€/MWh]", 0): 52.53}),
    timestamp_column="Datum von",
)  # fmt: skip
sample(
    "AEMO: SETTLEMENTDATE is the only column of dates",
    "PRICE_AND_DEMAND_202001_NSW1.csv",
    table(
        "REGION,SETTLEMENTDATE,TOTALDEMAND,RRP,PERIODTYPE",
        (
            ("NSW1", f"{d:%Y/%m/%d %H:%M:%S}", 7000.5 + i, 50 + i, "TRADE")
            for i, d in every("2020-01-01T00:30", 60, minutes=30)
        ),
    ),
    Read(("PRICE_AND_DEMAND_202001_NSW1",), ("REGION", "TOTALDEMAND", "RRP", "PERIODTYPE"), "2020-01-01 00:30", "30min",
         {("PRICE_AND_DEMAND_202001_NSW1", "RRP", 1): 51}),
)  # fmt: skip
_ERCOT = [(d, hour, 40000 + i * 24 + hour) for i, d in every("2024-01-01", 16, days=1) for hour in range(1, 25)]
sample(
    "ERCOT: a date, and the hour that ends, to 24:00",
    "cdr.csv",
    table('"DeliveryDate","HourEnding","SystemTotal"', ((f'"{d:%m/%d/%Y}"', f'"{h:02d}:00"', v) for d, h, v in _ERCOT)),
    Read(("cdr",), ("SystemTotal",), "2024-01-01 01:00", "h", {("cdr", "SystemTotal", 23): 40024}),
)
sample(
    "ERCOT: a date, and the number of the hour that ends",
    "cdr.csv",
    table('"Delivery Date","Hour Ending","Load"', ((f'"{d:%m/%d/%Y}"', f'"{h}"', f'"{v}"') for d, h, v in _ERCOT)),
    Read(("cdr",), ("Load",), "2024-01-01 01:00", "h", {("cdr", "Load", 24): 40025}),
)
sample(
    "NYISO: zones in rows",
    "20240112pal.csv",
    table(
        '"Time Stamp","Time Zone","Name","PTID","Load"',
        (
            (f'"{d:%m/%d/%Y %H:%M:%S}"', '"EST"', f'"{name}"', 61757 + k, 1000.5 + i + k)
            for i, d in every("2024-01-12", 300, minutes=5)
            for k, name in enumerate(("CAPITL", "CENTRL"))
        ),
    ),
    "Name|PTID",
)
sample(
    "EIA: title, address, time and source above the header, newest first",
    "Henry_Hub_Natural_Gas_Spot_Price.csv",
    "Henry Hub Natural Gas Spot Price\nhttps://www.eia.gov/dnav/ng/hist/rngwhhdm.htm\n12:15:21 GMT+0000\n"
    "Source: Reuters\n"
    + table("Month,Dollars per Million Btu", ((f"{d:%b %Y}", 3 + i / 10) for i, d in [*months(2020, 36)][::-1])),
    Read(("Henry_Hub_Natural_Gas_Spot_Price",), ("Dollars per Million Btu",), "2020-01-01", "MS",
         {("Henry_Hub_Natural_Gas_Spot_Price", "Dollars per Million Btu", 2): 3.2}),
)  # fmt: skip

# Competitions and benchmarks

_ROSSMANN = table(
    '"Store","DayOfWeek","Date","Sales","Open","StateHoliday"',
    (
        (store, d.isoweekday(), f"{d:%Y-%m-%d}", 5000 + i + store, int(d.isoweekday() < 7), '"a"' if i == 3 else '"0"')
        for i, d in [*every("2014-01-01", 40, days=1)][::-1]
        for store in (1, 2, 3)
    ),
)
sample("Rossmann: stores in rows, holidays 0 and a", "train.csv", _ROSSMANN, "StateHoliday|Store")
sample(
    "Rossmann with --id-column and --categorical",
    "train.csv",
    _ROSSMANN,
    Read(("1", "2", "3"), ("DayOfWeek", "Sales", "Open", "StateHoliday"), "2014-01-01", "D",
         {("2", "Sales", 0): 5002, ("2", "StateHoliday", 3): "a"}),
    id_column="Store",
    categorical=("StateHoliday",),
)  # fmt: skip
_FAVORITA = table(
    "id,date,store_nbr,family,sales,onpromotion",
    (
        (3 * i + k, f"{d:%Y-%m-%d}", store, family, 10.5 + i + k, 0)
        for i, d in every("2013-01-01", 40, days=1)
        for k, (store, family) in enumerate(((1, "AUTOMOTIVE"), (1, "BABY CARE"), (2, "AUTOMOTIVE")))
    ),
)
sample("Favorita: a store and a family name a series", "train.csv", _FAVORITA, "(?=.*store_nbr)(?=.*family)")
sample(
    "Favorita with two id columns",
    "train.csv",
    _FAVORITA,
    Read(("1/AUTOMOTIVE", "1/BABY CARE", "2/AUTOMOTIVE"), ("sales", "onpromotion"), "2013-01-01", "D",
         {("1/BABY CARE", "sales", 1): 12.5}),
    id_column=("store_nbr", "family"),
    columns=("sales", "onpromotion"),
)  # fmt: skip
sample(
    "M5: a row a product, days across as d_1",
    "sales_train_evaluation.csv",
    table(
        "id,item_id,dept_id,store_id," + ",".join(f"d_{k}" for k in range(1, 41)),
        (
            (f"FOODS_1_00{k}_CA_1", f"FOODS_1_00{k}", "FOODS_1", "CA_1", *(i % (k + 2) for i in range(40)))
            for k in (1, 2)
        ),
    ),
    Read(("FOODS_1_001_CA_1", "FOODS_1_002_CA_1"), ("target",), None, None, {("FOODS_1_002_CA_1", "target", 3): 3}),
    format="wide",
    id_column="id",
)
sample(
    "UCI household power: semicolons, 16/12/2006 and a time, question marks",
    "household_power_consumption.txt",
    table(
        "Date;Time;Global_active_power;Voltage",
        (
            (f"{d.day}/{d.month}/{d.year};{d:%H:%M:%S}", *(("?", "?") if i == 5 else (f"{4 + i / 10:.3f}", "234.840")))
            for i, d in every("2006-12-16T17:24", 60, minutes=1)
        ),
        ";",
    ),
    Read(("household_power_consumption",), ("Global_active_power", "Voltage"), "2006-12-16 17:24", "min",
         {("household_power_consumption", "Global_active_power", 6): 4.6,
          ("household_power_consumption", "Voltage", 5): float("nan")}),
)  # fmt: skip
sample(
    "UCI air quality: 18.00.00 as the time, decimal commas, two empty columns at the end, -200 with --na-values",
    "AirQualityUCI.csv",
    table(
        "Date;Time;CO(GT);PT08.S1(CO);T;;",
        (
            (f"{d:%d/%m/%Y}", f"{d:%H.%M.%S}", -200 if i == 3 else f"2,{i % 10}", 1360 + i, f"13,{i % 10}", "", "")
            for i, d in every("2004-03-10T18:00", 100, hours=1)
        ),
        ";",
    ),
    Read(("AirQualityUCI",), ("CO(GT)", "PT08.S1(CO)", "T"), "2004-03-10 18:00", "h",
         {("AirQualityUCI", "CO(GT)", 2): 2.2, ("AirQualityUCI", "CO(GT)", 3): float("nan")}),
    na_values=("-200",),
)  # fmt: skip
sample(
    "UCI electricity load diagrams: the time without a name, quoted names, decimal commas",
    "LD2011_2014.txt",
    table(
        '"";"MT_001";"MT_002"',
        (
            (f'"{d:%Y-%m-%d %H:%M:%S}"', 0, f"{2 + i},53807106598985")
            for i, d in every("2011-01-01T00:15", 60, minutes=15)
        ),
        ";",
    ),
    Read(("MT_001", "MT_002"), ("target",), "2011-01-01 00:15", "15min", {("MT_002", "target", 1): 3.53807106598985}),
    format="panel",
)
sample(
    "Green Button (PG&E): the account above, beginning and end of each hour, costs in dollars",
    "pge_electric_interval_data.csv",
    'Name,JANE DOE\nAddress,"1 MAIN ST, SAN JOSE CA"\nAccount Number,0000000000\nService,Service 1\n\n'
    + table(
        "TYPE,DATE,START TIME,END TIME,USAGE,UNITS,COST,NOTES",
        (
            (
                "Electric usage",
                f"{d:%Y-%m-%d}",
                f"{d:%H:%M}",
                f"{d:%H}:59",
                f"{1 + i / 100:.2f}",
                "kWh",
                f"${i / 10:.2f}",
                "",
            )
            for i, d in every("2024-01-14", 60, hours=1)
        ),
    ),
    Read(("pge_electric_interval_data",), ("TYPE", "END TIME", "USAGE", "UNITS", "COST", "NOTES"), "2024-01-14", "h",
         {("pge_electric_interval_data", "USAGE", 1): 1.01, ("pge_electric_interval_data", "COST", 3): 0.3}),
)  # fmt: skip
_HOME = table(
    "entity_id,state,last_changed",
    (
        (f"sensor.{name}", "unavailable" if i == 4 else 20.5 + i, f"{d:%Y-%m-%dT%H:%M:%S}.000Z")
        for name in ("attic", "cellar")
        for i, d in every("2024-01-14", 40, hours=1)
    ),
)
sample("Home Assistant: unavailable among the numbers", "history.csv", _HOME, "unavailable|entity_id")
sample(
    "Home Assistant with --id-column and --na-values",
    "history.csv",
    _HOME,
    Read(("sensor.attic", "sensor.cellar"), ("state",), "2024-01-14", "h", {("sensor.cellar", "state", 5): 25.5}),
    id_column="entity_id",
    na_values=("unavailable", "unknown"),
)
