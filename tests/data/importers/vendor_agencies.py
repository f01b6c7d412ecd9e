"""Files of agencies of statistics, of central banks and of weather services, each written anew; added to SAMPLES."""

from __future__ import annotations

from datetime import timedelta

from tests.data.importers.samples import Read, every, months, sample, table, weekdays

sample(
    "FRED: observation_date, and a dot on a holiday",
    "DGS10.csv",
    table("observation_date,DGS10", ((f"{d:%Y-%m-%d}", "." if i == 4 else 4 + i / 100) for i, d in weekdays(47))),
    Read(("DGS10",), ("DGS10",), "2024-01-01", "B", {("DGS10", "DGS10", 3): 4.03, ("DGS10", "DGS10", 4): float("nan")}),
)
_EUROSTAT = table(
    "DATAFLOW,LAST UPDATE,freq,unit,geo,TIME_PERIOD,OBS_VALUE,OBS_FLAG",
    (
        ("ESTAT:UNE_RT_M(1.0)", "02/05/24 11:00:00", "M", "PC", geo, f"{d:%Y-%m}", 5 + i / 10 + k, "p" * (i > 11))
        for k, geo in enumerate(("DE", "FR"))
        for i, d in months(2020, 36)
    ),
)
sample(
    "Eurostat SDMX-CSV: several countries in rows",
    "une_rt_m.csv",
    _EUROSTAT,
    Read(("DE", "FR"), ("DATAFLOW", "freq", "unit", "OBS_VALUE", "OBS_FLAG"), "2020-01-01", "MS",
         {("FR", "OBS_VALUE", 1): 6.1, ("DE", "OBS_FLAG", 12): "p"}),
)  # fmt: skip
sample(
    "Eurostat SDMX-CSV with --id-column geo",
    "une_rt_m.csv",
    _EUROSTAT,
    Read(("DE", "FR"), ("OBS_VALUE",), "2020-01-01", "MS", {("FR", "OBS_VALUE", 1): 6.1}),
    id_column="geo",
    columns=("OBS_VALUE",),
)
sample(
    "Eurostat TSV: flags behind the numbers and a colon for missing ones",
    "une_rt_m.tsv",
    table(
        "freq,unit,geo\\TIME_PERIOD\t" + "\t".join(f"{d:%Y-%m} " for _, d in months(2020, 14)),
        (
            (f"M,PC,{geo}", *(": " if i == 2 else f"{5 + i / 10:.1f} " + "p" * (i > 11) for i in range(14)))
            for geo in ("DE", "FR")
        ),
        "\t",
    ),
    r"'(:|6\.2 p)'",
)
sample(
    "ECB euro rates: newest first, N/A, and a comma at the end of every line",
    "eurofxref-hist.csv",
    table(
        "Date,USD,JPY,CYP,", ((f"{d:%Y-%m-%d}", 1.1 - i / 1000, 155 + i / 10, "N/A", "") for i, d in weekdays(60)[::-1])
    ),
    Read(("eurofxref-hist",), ("USD", "JPY", "CYP"), "2024-01-01", "B", {("eurofxref-hist", "JPY", 0): 155.0}),
)
_ECB = table(
    "KEY,FREQ,CURRENCY,TIME_PERIOD,OBS_VALUE,OBS_STATUS",
    (
        (f"EXR.M.{c}", "M", c, f"{d:%Y-%m}", 1 + k + i / 100, "A")
        for k, c in enumerate(("USD", "GBP"))
        for i, d in months(2020, 36)
    ),
)
sample(
    "ECB data portal: several series in rows",
    "exr.csv",
    _ECB,
    Read(("EXR.M.USD", "EXR.M.GBP"), ("FREQ", "CURRENCY", "OBS_VALUE", "OBS_STATUS"), "2020-01-01", "MS",
         {("EXR.M.GBP", "OBS_VALUE", 2): 2.02}),
)  # fmt: skip
sample(
    "ECB data portal with --id-column KEY",
    "exr.csv",
    _ECB,
    Read(("EXR.M.USD", "EXR.M.GBP"), ("OBS_VALUE",), "2020-01-01", "MS", {("EXR.M.GBP", "OBS_VALUE", 2): 2.02}),
    id_column="KEY",
    columns=("OBS_VALUE",),
)
_WORLD_BANK = (
    '\ufeff"Data Source","World Development Indicators",\n\n"Last Updated Date","2024-06-28",\n\n'
    '"Country Name","Country Code","Indicator Name","Indicator Code",'
    + "".join(f'"{year}",' for year in range(1960, 2000))
    + "\n"
    + "".join(
        f'"{name}","{code}","Population, total","SP.POP.TOTL",'
        + "".join('"",' if year == 1960 else f'"{1000 * k + year}",' for year in range(1960, 2000))
        + "\n"
        for k, (name, code) in enumerate((("Aruba", "ABW"), ("Angola", "AGO")), 1)
    )
)
sample(
    "World Bank: four lines above the header, years across",
    "API_SP.POP.TOTL_DS2_en_csv.csv",
    _WORLD_BANK,
    Read(("Aruba", "Angola"), ("target",), "1961-01-01", "YS", {("Angola", "target", 0): 3961}),
    id_column="Country Name",
)
_OECD = table(
    '"LOCATION","INDICATOR","FREQUENCY","TIME","Value","Flag Codes"',
    (
        (f'"{place}"', '"GDP"', '"Q"', f'"{2015 + i // 4}-Q{i % 4 + 1}"', 1 + k + i / 10, "")
        for k, place in enumerate(("FRA", "DEU"))
        for i in range(36)
    ),
)
sample(
    "OECD: several countries in rows",
    "DP_LIVE.csv",
    _OECD,
    Read(("FRA", "DEU"), ("INDICATOR", "FREQUENCY", "Value", "Flag Codes"), "2015-01-01", "QS",
         {("DEU", "Value", 1): 2.1}),
)  # fmt: skip
sample(
    "OECD with --id-column LOCATION",
    "DP_LIVE.csv",
    _OECD,
    Read(("FRA", "DEU"), ("Value",), "2015-01-01", "QS", {("DEU", "Value", 1): 2.1}),
    id_column="LOCATION",
    columns=("Value",),
)
_STATCAN = table(
    '\ufeff"REF_DATE","GEO","DGUID","UOM","VALUE","STATUS"',
    (
        (f'"{d:%Y-%m}"', f'"{place}"', f'"2016A00001{k}"', '"2002=100"', f'"{100 + i / 10 + k}"', '""')
        for i, d in months(2020, 36)
        for k, place in enumerate(("Canada", "Ontario"))
    ),
)
sample(
    "Statistics Canada: several places in rows",
    "18100004.csv",
    _STATCAN,
    Read(("Canada", "Ontario"), ("DGUID", "UOM", "VALUE", "STATUS"), "2020-01-01", "MS",
         {("Ontario", "VALUE", 0): 101, ("Ontario", "DGUID", 0): "2016A000011"}),
)  # fmt: skip
sample(
    "Statistics Canada with --id-column GEO",
    "18100004.csv",
    _STATCAN,
    Read(("Canada", "Ontario"), ("VALUE",), "2020-01-01", "MS", {("Ontario", "VALUE", 0): 101}),
    id_column="GEO",
    columns=("VALUE",),
)
sample(
    "BLS: Year and Period M01",
    "bls.csv",
    table(
        "Series ID,Year,Period,Value", (("LNS14000000", d.year, f"M{d:%m}", 3.5 + i / 10) for i, d in months(2020, 36))
    ),
    Read(("LNS14000000",), ("Value",), "2020-01-01", "MS", {("LNS14000000", "Value", 1): 3.6}),
)
sample(
    "ONS: annual, quarterly and monthly rows below each other",
    "series.csv",
    '"Title","CPIH INDEX 00"\n"CDID","L522"\n"Unit","Index"\n'
    + "".join(f'"{year}","4{year % 10}.5"\n' for year in range(2015, 2020))
    + "".join(f'"{year} Q{q}","48.{q}"\n' for year in range(2015, 2020) for q in (1, 2, 3, 4)),
    r"CDID|Title",
)
sample(
    "Bank of England: 02 Jan 1975",
    "XUDLUSS.csv",
    table("DATE,XUDLUSS", ((f"{d:%d %b %Y}", 1.2 + i / 100) for i, d in weekdays(60))),
    Read(("XUDLUSS",), ("XUDLUSS",), "2024-01-01", "B", {("XUDLUSS", "XUDLUSS", 1): 1.21}),
)
sample(
    "Our World in Data: countries in rows",
    "owid-covid-data.csv",
    table(
        "iso_code,continent,location,date,total_cases,new_cases",
        (
            (code, "Europe", name, f"{d:%Y-%m-%d}", 10.0 * i, "" if i == 0 else 10.0)
            for code, name in (("AUT", "Austria"), ("BEL", "Belgium"))
            for i, d in every("2020-03-01", 60, days=1)
        ),
    ),
    Read(("AUT", "BEL"), ("continent", "location", "total_cases", "new_cases"), "2020-03-01", "D",
         {("BEL", "total_cases", 1): 10, ("BEL", "location", 0): "Belgium"}),
)  # fmt: skip
sample(
    "Johns Hopkins: a row a place, days across as 1/22/20",
    "time_series_covid19_confirmed_global.csv",
    table(
        "Province/State,Country/Region,Lat,Long,"
        + ",".join(f"{d.month}/{d.day}/{d:%y}" for _, d in every("2020-01-22", 40, days=1)),
        (
            (province, country, 33.9, 67.7, *range(k, 40 + k))
            for k, (province, country) in enumerate((("", "Afghanistan"), ("Hubei", "China"), ("Beijing", "China")))
        ),
    ),
    Read(
        ("Afghanistan", "Hubei/China", "Beijing/China"),
        ("target",),
        "2020-01-22",
        "D",
        {("Hubei/China", "target", 2): 3},
    ),
)
sample(
    "Zillow: a row a region, ends of months across",
    "Metro_zhvi.csv",
    table(
        "RegionID,SizeRank,RegionName,RegionType,StateName,"
        + ",".join(f"{d - timedelta(days=1):%Y-%m-%d}" for i, d in months(2000, 37) if i),
        (
            (102001, 0, "United States", "country", "", *range(100, 136)),
            (394913, 1, '"New York, NY"', "msa", "NY", *range(200, 236)),
        ),
    ),
    Read(("United States", "New York, NY"), ("target",), "2000-01-31", "ME", {("New York, NY", "target", 35): 235}),
    id_column="RegionName",
)

# Weather and climate

sample(
    "NOAA daily summaries: quoted numbers padded with blanks, attributes such as ,,W",
    "USW00094728.csv",
    table(
        '"STATION","DATE","LATITUDE","NAME","PRCP","PRCP_ATTRIBUTES","TMAX"',
        (
            ('"USW00094728"', f'"{d:%Y-%m-%d}"', '"40.77898"', '"NY CITY, US"', f'"{i:5d}"', '",,W"', f'"{100 + i:5d}"')
            for i, d in every("2024-01-01", 40, days=1)
        ),
    ),
    Read(("USW00094728",), ("STATION", "LATITUDE", "NAME", "PRCP", "PRCP_ATTRIBUTES", "TMAX"), "2024-01-01", "D",
         {("USW00094728", "TMAX", 3): 103, ("USW00094728", "NAME", 0): "NY CITY, US"}),
)  # fmt: skip
sample(
    "NOAA tides: blanks around the names",
    "CO-OPS_8454000.csv",
    table(
        "Date Time, Water Level, Sigma, Quality ",
        ((f"{d:%Y-%m-%d %H:%M}", 1 + i / 100, 0.01, "v") for i, d in every("2024-01-01", 40, minutes=6)),
    ),
    Read(("CO-OPS_8454000",), ("Water Level", "Sigma", "Quality"), "2024-01-01", "6min",
         {("CO-OPS_8454000", "Water Level", 2): 1.02}),
)  # fmt: skip
sample(
    "Mauna Loa: forty lines of comments with commas, then year and month",
    "co2_mm_mlo.csv",
    "".join(f"# line {k} of the terms, which say, among others, who measured\n" for k in range(40))
    + table(
        "year,month,average,deseasonalized,ndays",
        ((d.year, d.month, 315 + i / 10, 314 + i / 10, -1) for i, d in months(1958, 36)),
    ),
    Read(
        ("co2_mm_mlo",),
        ("average", "deseasonalized", "ndays"),
        "1958-01-01",
        "MS",
        {("co2_mm_mlo", "average", 1): 315.1},
    ),
)
sample(
    "GISTEMP: *** for a missing mean",
    "GLB.Ts+dSST.csv",
    "Land-Ocean: Global Means\n"
    + table("Year,Jan,Feb,J-D,D-N", ((1880 + i, -0.1, -0.2, -0.15, "***" if i == 0 else "-.14") for i in range(40))),
    r"line 3, column 'D-N': '\*\*\*'",
)
_DWD = table(
    "STATIONS_ID;MESS_DATUM;QN_9;TT_TU;RF_TU;eor",
    (
        (f"{44:11d}", f"{d:%Y%m%d%H}", f"{3:5d}", -999 if i == 2 else f"{5.5 + i / 10:6.1f}", f"{80.0:6.1f}", "eor")
        for i, d in every("2020-01-01", 40, hours=1)
    ),
    ";",
)
sample(
    "Deutscher Wetterdienst: MESS_DATUM 2020010100, padded cells, -999 with --na-values, eor at the end",
    "produkt_tu_stunde_00044.txt",
    _DWD,
    Read(("produkt_tu_stunde_00044",), ("STATIONS_ID", "QN_9", "TT_TU", "RF_TU", "eor"), "2020-01-01", "h",
         {("produkt_tu_stunde_00044", "TT_TU", 1): 5.6, ("produkt_tu_stunde_00044", "TT_TU", 2): float("nan")}),
    na_values=("-999",),
)  # fmt: skip
sample(
    "KNMI: the header is the last comment",
    "etmgeg_260.txt",
    "# source: the institute, Netherlands\n# YYYYMMDD  : date (YYYY=year;MM=month;DD=day)\n"
    + table(
        "# STN,YYYYMMDD,   FG,   TG",
        (("  260", f"{d:%Y%m%d}", f"{40 + i:5d}", f"{-5 + i:5d}") for i, d in every("2024-01-01", 40, days=1)),
    ),
    Read(("etmgeg_260",), ("STN", "FG", "TG"), "2024-01-01", "D", {("etmgeg_260", "TG", 1): -4}),
)
sample(
    "PVGIS: 20200101:0010, a header of several lines",
    "Timeseries_52.0_5.0.csv",
    "Latitude (decimal degrees):\t52.000\nLongitude (decimal degrees):\t5.000\nElevation (m):\t12\n"
    "Radiation database:\tPVGIS-ERA5\n\n"
    + table("time,P,G(i),H_sun,T2m", ((f"{d:%Y%m%d:%H%M}", i, 0.0, 0.0, 6 + i / 10) for i, d in
            every("2020-01-01T00:10", 40, hours=1))),
    Read(("Timeseries_52.0_5.0",), ("P", "G(i)", "H_sun", "T2m"), "2020-01-01 00:10", "h",
         {("Timeseries_52.0_5.0", "P", 3): 3}),
)  # fmt: skip
sample(
    "NASA POWER: YEAR, MO, DY, HR",
    "POWER_Point_Hourly.csv",
    table(
        "YEAR,MO,DY,HR,T2M",
        ((d.year, d.month, d.day, d.hour, 5.5 + i / 10) for i, d in every("2024-01-14", 60, hours=1)),
    ),
    Read(("POWER_Point_Hourly",), ("T2M",), "2024-01-14", "h", {("POWER_Point_Hourly", "T2M", 1): 5.6}),
)
_ASOS = "#DEBUG: Format Typ    -> onlycomma\n#DEBUG: Time Period   -> 2024-01-01 to 2024-01-03\n" + table(
    "station,valid,tmpf,p01i",
    (
        ("DSM", f"{d:%Y-%m-%d %H:%M}", "M" if i == 3 else 30 + i, "T" if i == 5 else "0.00")
        for i, d in every("2024-01-01T00:54", 40, hours=1)
    ),
)
sample("Iowa Environmental Mesonet: M for missing, T for a trace", "asos.csv", _ASOS, "'(M|T)' is text")
sample(
    "Iowa Environmental Mesonet with --na-values",
    "asos.csv",
    _ASOS,
    Read(
        ("DSM",), ("tmpf", "p01i"), "2024-01-01 00:54", "h", {("DSM", "tmpf", 4): 34, ("DSM", "p01i", 5): float("nan")}
    ),
    id_column="station",
    na_values=("M", "T"),
)
_SNB = '\ufeff"CubeId";"devkum"\n"PublishingDate";"2024-02-01 09:00"\n\n' + table(
    '"Date";"D0";"D1";"Value"',
    (
        (f'"{d:%Y-%m}"', '"M0"', f'"{currency}"', f'"{1 + k + i / 100:.2f}"')
        for i, d in months(2020, 36)
        for k, currency in enumerate(("EUR1", "USD1"))
    ),
    ";",
)
sample("Swiss National Bank: currencies in rows", "snb-data-devkum-en-all.csv", _SNB, "D1")
sample(
    "Swiss National Bank with two id columns",
    "snb-data-devkum-en-all.csv",
    _SNB,
    Read(("M0/EUR1", "M0/USD1"), ("Value",), "2020-01-01", "MS", {("M0/USD1", "Value", 1): 2.01}),
    id_column=("D0", "D1"),
)
sample(
    "Bundesbank: a title, a unit and a last line of comment among the rows",
    "BBEX3.M.USD.EUR.csv",
    '"";BBEX3.M.USD.EUR;BBEX3.M.USD.EUR_FLAGS\n"";Euro reference rate;\nunit;USD;\n'
    + "".join(f"{d:%Y-%m};1,{10 + i};\n" for i, d in months(2020, 36))
    + "Comment;of the bank;\n",
    "Euro reference rate|''|unit|USD",
)
