"""Small files in the form in which programs export tables, each written anew; added to SAMPLES."""

from __future__ import annotations

from tests.data.importers.samples import Read, bar, every, months, sample, table

sample(
    "London smart meters: seven digits of a second, Null, blanks around numbers",
    "MAC000002.csv",
    table(
        "LCLid,DateTime,KWH/hh (per half hour) ",
        (
            ("MAC000002", f"{d:%Y-%m-%d %H:%M:%S}.0000000", "Null" if i == 7 else f" {i / 10} ")
            for i, d in every("2012-10-12T00:30", 60, minutes=30)
        ),
    ),
    Read(("MAC000002",), ("LCLid", "KWH/hh (per half hour)"), "2012-10-12 00:30", "30min",
         {("MAC000002", "KWH/hh (per half hour)", 8): 0.8}),
)  # fmt: skip
sample(
    "Grafana: one series a column, with units",
    "export.csv",
    table(
        '"Time","cpu_user","memory"',
        (
            (f'"{d:%Y-%m-%d %H:%M:%S}"', f'"{10 + i / 10:.1f}%"', f'"{1 + i / 100:.2f} GiB"')
            for i, d in every("2024-01-01", 40, minutes=1)
        ),
    ),
    Read(("export",), ("cpu_user",), "2024-01-01", "min", {("export", "cpu_user", 1): 10.1}),  # a note tells of memory
)
_SERIES = "sep=;\n" + table(
    "Series;Time;Value",
    (
        (name, f"{d:%Y-%m-%dT%H:%M:%S}+01:00", k + i / 10)
        for k, name in enumerate(("cpu", "mem"))
        for i, d in every("2024-01-01", 40, minutes=1)
    ),
    ";",
)
sample(
    "Grafana: series below each other",
    "export.csv",
    _SERIES,
    Read(("cpu", "mem"), ("Value",), "2023-12-31 23:00", "min", {("mem", "Value", 1): 1.1}),
)
sample(
    "InfluxDB: annotated CSV",
    "query.csv",
    "#group,false,false,true,true,false,false,true,true\n"
    "#datatype,string,long,dateTime:RFC3339,dateTime:RFC3339,dateTime:RFC3339,double,string,string\n"
    "#default,_result,,,,,,,\n"
    + table(
        ",result,table,_start,_stop,_time,_value,_field,host",
        (
            (
                "",
                "",
                k,
                "2024-01-01T00:00:00Z",
                "2024-01-02T00:00:00Z",
                f"{d:%Y-%m-%dT%H:%M:%SZ}",
                15.5 + i,
                "used",
                host,
            )
            for k, host in enumerate("AB")
            for i, d in every("2024-01-01", 40, minutes=10)
        ),
    ),
    "--id-column host",
)
_TRENDS = "Category: All categories\n\n" + table(
    "Week,coffee: (Worldwide),tea: (Worldwide)",
    ((f"{d:%Y-%m-%d}", 50 + i, "<1" if i in (2, 3) else i) for i, d in every("2023-01-01", 40, days=7)),
)
sample("Google Trends: <1", "multiTimeline.csv", _TRENDS, r"'tea: \(Worldwide\)': '<1'")
sample(
    "Google Trends with --na-values",
    "multiTimeline.csv",
    _TRENDS,
    Read(("multiTimeline",), ("coffee: (Worldwide)", "tea: (Worldwide)"), "2023-01-01", "W-SUN",
         {("multiTimeline", "tea: (Worldwide)", 4): 4}),
    na_values=("<1",),
)  # fmt: skip
sample(
    "Google Analytics: comments above, and a total below",
    "Analytics.csv",
    "# ----------------------------------------\n# All Web Site Data\n# 20240101-20240209\n\n"
    + table(
        "Day Index,Users", ((f"{d.month}/{d.day}/{d:%y}", f'"1,{100 + i}"') for i, d in every("2024-01-01", 40, days=1))
    )
    + ',"44,780"\n',
    "1,100|line 45|44,780",
)
_SAP_ROWS = [(f"{d:%d.%m.%Y}", i * 3, f"1.234,{10 + i}" + "-" * (i % 2)) for i, d in every("2024-01-01", 40, days=1)]
sample(
    "SAP list: dashes and bars",
    "export.txt",
    "Bestand\n\n" + "-" * 40 + "\n|Datum     |     Menge|     Wert|\n" + "-" * 40 + "\n"
    + "".join(f"|{day}|{amount}|{value}|\n" for day, amount, value in _SAP_ROWS) + "-" * 40 + "\n",
    "line",
)  # fmt: skip
sample(
    "SAP table: the minus behind the number",
    "export.csv",
    table("Datum;Menge;Wert", _SAP_ROWS, ";"),
    Read(
        ("export",),
        ("Menge", "Wert"),
        "2024-01-01",
        "D",
        {("export", "Wert", 1): -1234.11, ("export", "Wert", 2): 1234.12},
    ),
)
sample(
    "R: row numbers as text without a name",
    "r.csv",
    table(
        '"","date","value"', ((f'"{i + 1}"', f'"{d:%Y-%m-%d}"', 5.5 + i) for i, d in every("2024-01-01", 40, days=1))
    ),
    Read(("r",), ("value",), "2024-01-01", "D", {("r", "value", 1): 6.5}),
)
sample(
    "SAS: 01JAN2024",
    "sas.csv",
    table("date,amount", ((f"{d:%d%b%Y}".upper(), 5.5 + i) for i, d in every("2024-01-01", 40, days=1))),
    Read(("sas",), ("amount",), "2024-01-01", "D", {("sas", "amount", 1): 6.5}),
)
sample(
    "SAS: 01JAN2024:13:00:00",
    "sas.csv",
    table("datetime,amount", ((f"{d:%d%b%Y:%H:%M:%S}".upper(), 5.5 + i) for i, d in every("2024-01-01", 40, hours=1))),
    Read(("sas",), ("amount",), "2024-01-01", "h", {("sas", "amount", 1): 6.5}),
)
sample(
    "Stata: 2020m1",
    "stata.csv",
    table("month,unemployment", ((f"{d.year}m{d.month}", 5.5 + i) for i, d in months(2020, 40))),
    Read(("stata",), ("unemployment",), "2020-01-01", "MS", {("stata", "unemployment", 1): 6.5}),
)
sample(
    "pretix, Kibana: an apostrophe before negative numbers, against formulas",
    "orders.csv",
    table(
        "date,refunds",
        ((f"{d:%Y-%m-%d}", f"'-{5.5 + i}" if i % 3 else 7 + i) for i, d in every("2024-01-01", 40, days=1)),
    ),
    Read(("orders",), ("refunds",), "2024-01-01", "D", {("orders", "refunds", 1): -6.5, ("orders", "refunds", 3): 10}),
)
sample(
    "Postbank: -1.000,00 € and a semicolon at the end of every line",
    "Umsatz.csv",
    table(
        "Buchungsdatum;Betrag (€);",
        ((f"{d:%d.%m.%Y}", "-1.000,00 €" if i % 2 else f"{i}50,50 €", "") for i, d in every("2024-01-01", 40, days=1)),
        ";",
    ),
    Read(
        ("Umsatz",),
        ("Betrag (€)",),
        "2024-01-01",
        "D",
        {("Umsatz", "Betrag (€)", 1): -1000, ("Umsatz", "Betrag (€)", 2): 250.5},
    ),
)
sample(
    "Wikimedia page views: 2024010100",
    "pageviews.csv",
    table(
        "project,article,granularity,timestamp,views",
        (("en.wikipedia", "Coffee", "daily", f"{d:%Y%m%d}00", 1000 + i) for i, d in every("2024-01-01", 40, days=1)),
    ),
    Read(
        ("pageviews",),
        ("project", "article", "granularity", "views"),
        "2024-01-01",
        "D",
        {("pageviews", "views", 1): 1001},
    ),
)
sample(
    "pandas: columns of two levels",
    "frame.csv",
    ",open,open,high,high,low,low,close,close\n,A,B,A,B,A,B,A,B\ndate,,,,,,,,\n"
    + "".join(
        f"{d:%Y-%m-%d}," + ",".join(f"{a},{a + 1000}" for a in bar(i)) + "\n"
        for i, d in every("2024-01-01", 40, days=1)
    ),
    Read(("A", "B"), ("open", "high", "low", "close"), "2024-01-01", "D", {("B", "close", 1): 1101.5}),
)
sample(
    "Monash archive: .tsf",
    "nn5.tsf",
    "@relation NN5\n@attribute series_name string\n@attribute start_timestamp date\n@frequency daily\n@data\n"
    "T1:1996-03-18 00-00-00:13.4,14.7,20.6\n",
    Read(("T1",), ("target",), "1996-03-18", "D", {("T1", "target", 1): 14.7}),
)
sample(
    "GluonTS: JSON lines",
    "train.jsonl",
    "".join(
        f'{{"item_id": "T{k}", "start": "2024-01-01", "target": [{", ".join(str(i + k) for i in range(40))}]}}\n'
        for k in range(2)
    ),
    Read(("T0", "T1"), ("target",), None, None, {("T1", "target", 1): 2}),
)
sample(
    "GluonTS: JSON lines with --freq",
    "train.jsonl",
    "".join(
        f'{{"item_id": "T{k}", "start": "2024-01-01", "target": [{", ".join(str(i + k) for i in range(40))}]}}\n'
        for k in range(2)
    ),
    Read(("T0", "T1"), ("target",), "2024-01-01", "D", {("T1", "target", 1): 2}),
    freq="D",
)
_LOGGER = (
    '"TOA5","site","CR1000","1234","CR1000.Std.27","CPU:prog.CR1","1","Table1"\n'
    '"TIMESTAMP","RECORD","AirTC_Avg","WS_ms"\n"TS","RN","Deg C","meters/second"\n"","","Avg","Smp"\n'
    + "".join(
        f'"{d:%Y-%m-%d %H:%M:%S}",{100 + i},{"NAN" if i == 3 else 5.5 + i},{i / 10}\n'.replace("NAN", '"NAN"')
        for i, d in every("2024-01-14", 40, minutes=10)
    )
)
sample(
    "Campbell Scientific TOA5: names, units and kinds above the rows", "CR1000_Table1.dat.csv", _LOGGER, "line 3|'TS'"
)
sample(
    "Campbell Scientific TOA5 with names",
    "CR1000_Table1.dat.csv",
    _LOGGER,
    Read(("CR1000_Table1.dat",), ("AirTC_Avg", "WS_ms"), "2024-01-14", "10min",
         {("CR1000_Table1.dat", "AirTC_Avg", 2): 7.5, ("CR1000_Table1.dat", "AirTC_Avg", 3): float("nan")}),
    skip_rows=4,
    header=False,
    names=("timestamp", "record", "AirTC_Avg", "WS_ms"),
    columns=("AirTC_Avg", "WS_ms"),
)  # fmt: skip
sample(
    "pandas: a pivot, whose columns are numbers of shops",
    "sales.csv",
    table("date,1,2,3", ((f"{d:%Y-%m-%d}", 1 + i, 2 + i, 3 + i) for i, d in every("2024-01-01", 40, days=1))),
    Read(("1", "2", "3"), ("target",), "2024-01-01", "D", {("2", "target", 1): 3}),
    format="panel",
)
